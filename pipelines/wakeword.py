"""From scores to spoken words: one finding per word, however many views a word fills.

Owns the step `words`. Rules: a word is told when it is sure, once, and again only after its score has fallen and the
debounce is over; every label is a word of its own.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

from agent.records import Finding, View
from agent.strict import Range
from pipelines.outputs import Share


@dataclass(frozen=True, slots=True)
class Word:
    """What `words` knows about a label."""

    label: str
    run: int = 0
    """So many views in a row reached the threshold."""
    is_told: bool = False
    """True from the telling until the score falls."""
    told_s: float = -math.inf


@dataclass(frozen=True, slots=True)
class Spoken:
    """What `words` remembers."""

    from_s: float | None = None
    """Since when nothing was lost; None before the first view."""
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Follow: tells each spoken word once, in the view that makes it sure.

    A word is sure when `patience` views in a row have its score at or above the threshold. It is told again when the
    score has been below in between and `debounce_s` are over; a word that begins earlier is told then, if it still
    holds. A gap forgets the views, not the debounce. The finding is that of the view: its label, score and interval.
    """

    threshold: Share = 0.5
    """Least score of every word that `thresholds` does not name."""
    thresholds: dict[str, Share] = field(default_factory=dict)
    """Label -> its own least score."""
    patience: Annotated[int, Range(1, 1000)] = 1
    """So many views in a row must agree."""
    debounce_s: Annotated[float, Range(0, 3600)] = 1.0
    """Least time from one telling of a word to the next, stream seconds."""
    settle_s: Annotated[float, Range(0, 60)] = 0.0
    """So long after the start and after each gap nothing is told: models whose state must fill first."""

    def initial(self) -> Spoken:
        return Spoken()

    def __call__(
        self, state: Spoken, findings: tuple[Finding, ...], view: View, /
    ) -> tuple[Spoken, tuple[Finding, ...]]:
        if view.gap or state.from_s is None:
            state = Spoken(view.t0_s, tuple(replace(word, run=0, is_told=False) for word in state.words))
        assert state.from_s is not None
        sure = {f.label: f for f in reversed(findings) if f.score >= self.thresholds.get(f.label, self.threshold)}
        known = {word.label for word in state.words}
        words = [*state.words, *(Word(label) for label in sure if label not in known)]
        settled = view.t1_s >= state.from_s + self.settle_s
        stepped = [self._stepped(word, word.label in sure, view.t1_s, settled) for word in words]
        told = tuple(sure[word.label] for word, is_new in stepped if is_new)
        kept = (word for word, _ in stepped if word.run or view.t1_s - word.told_s < self.debounce_s)
        return Spoken(state.from_s, tuple(kept)), told

    def _stepped(self, word: Word, is_sure: bool, t1_s: float, settled: bool) -> tuple[Word, bool]:
        """The word after a view, and whether it is to be told."""
        if not is_sure:
            return replace(word, run=0, is_told=False), False
        word = replace(word, run=min(word.run + 1, self.patience))
        if word.run < self.patience or word.is_told or not settled or t1_s - word.told_s < self.debounce_s:
            return word, False
        return replace(word, is_told=True, told_s=t1_s), True
