"""One stream's memory of the last computed answer, and the decision whether it answers the next picture too.

Owns the reference (always the newest computed answer, never a reused one, so that nothing drifts), the limits in time
and number, the rechecks and their count. Rules:

- A picture is only compared with one of its own size, place and cells; a gap, an error and a jump back in time forget.
- One of every `recheck_every` pictures that could be answered is computed and judged instead, at a place drawn anew in
  each such stretch: flicker in step with the stretch cannot hide. The draws follow from the seed.
- After a recheck that differs, the next `SUSPICION` such pictures are all computed: what goes wrong is noticed at the
  full rate.
- What is computed anyway is compared with a practice reference that is held about as long as an answer would have
  been. Only so does a stream without reuse learn what reuse would cost: the picture just before is always alike.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from agent.records import Array, Finding, Tensors, View
from agent.settings.runtime import SimilarConfig
from agent.similar.evidence import Evidence, upper_bound
from agent.similar.judge import Judge
from pipelines.thumbnail import distance, thumbnail

SUSPICION = 20
"""Pictures that are all computed after a recheck that differed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was computed for one picture. `findings` are those of the decoder, before any step that follows them."""

    findings: tuple[Finding, ...]
    outputs: Tensors
    seen: View
    """The view as the decoder got it, for its geometry: it may be without data."""
    input_digest: str
    cost_ms: float
    """What it took to compute, and what each reuse saves."""


@dataclass(frozen=True, slots=True)
class SimilarCounts:
    """Since the start, but `threshold`, the bounds and the shares are now."""

    hits: int
    """Pictures answered by an earlier answer."""
    rechecks: int
    """Pictures that could have been, and were computed and judged instead."""
    disagreements: int
    """Of these, how many differed."""
    recheck_bound: float
    """Upper bound of the share of wrong reused answers, by all rechecks alone, at 95 % confidence."""
    error_bound: float
    """The same for the present threshold, by all that is remembered; 1 without a threshold."""
    threshold: float
    """Distance up to which answers are reused, grey levels of 255; negative: none yet."""
    chain_most: int
    """Most pictures in a row that one answer answered."""
    saved_ms: float
    """Time that computing would have taken."""


class Threshold(Protocol):
    """What decides how far apart is similar: `Evidence`, or something fixed to compare it with."""

    @property
    def threshold(self) -> float: ...
    @property
    def error_bound(self) -> float: ...
    def learn(self, distance: float, differed: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """A picture to compare with."""

    thumbnail: Array
    place: tuple[object, ...]
    t_s: float


class Similar:
    """Ask for every view; when there is no answer, compute one and hand it to `keep`. One lane owns it."""

    def __init__(self, config: SimilarConfig, floor: float, seed: str, threshold: Threshold | None = None) -> None:
        """`floor`: the decoder's threshold. The same `seed` and stream give the same decisions."""
        self._config = config
        self._judge = Judge(config.score_band, config.min_iou, config.value_band, floor)
        self._evidence: Threshold = threshold or Evidence(config.max_error, config.max_distance)
        self._chance = random.Random(seed)
        self._hits = self._rechecks = self._disagreements = self._chain_most = 0
        self._saved_ms = 0.0
        self._turn = self._due = 0
        self._suspicion = 0
        self.forget()

    def forget(self) -> None:
        """Nothing stands for the next picture: something was lost. What was learnt stays."""
        self._kept: Answer | None = None
        self._reference: _Seen | None = None
        self._practice: tuple[_Seen, Answer] | None = None
        self._practised = self._chain = 0
        self._asked: _Seen | None = None
        self._rechecked: float | None = None

    @property
    def counts(self) -> SimilarCounts:
        """Read by other threads: each number is right, together they may be of two pictures."""
        return SimilarCounts(
            self._hits, self._rechecks, self._disagreements, upper_bound(self._disagreements, self._rechecks),
            self._evidence.error_bound, self._evidence.threshold, self._chain_most, self._saved_ms,
        )  # fmt: skip

    def ask(self, view: View) -> Answer | None:
        """The answer that stands for `view` too; None: compute one."""
        self._asked, self._rechecked = _seen(view), None
        kept, apart = self._kept, self._apart(self._reference, self._asked)
        if kept is None or apart is None or apart > self._evidence.threshold or self._chain >= self._config.chain:
            return None
        if self._draw():
            self._rechecked = apart
            return None
        self._hits += 1
        self._chain += 1
        self._chain_most = max(self._chain_most, self._chain)
        self._saved_ms += kept.cost_ms
        return kept

    def keep(self, answer: Answer) -> None:
        """What was computed for the view that was asked last: learnt from, and the reference from now on."""
        seen = self._asked
        if seen is None or any(finding.interval is not None for finding in answer.findings):
            self.forget()
            return
        if self._rechecked is not None and self._kept is not None:
            self._recheck(self._rechecked, self._kept, answer)
        else:
            self._practise(seen, answer)
        self._kept, self._reference, self._chain = answer, seen, 0

    def _recheck(self, apart: float, kept: Answer, answer: Answer) -> None:
        differed = self._judge.differ(kept.findings, answer.findings)
        self._evidence.learn(apart, differed)
        self._rechecks += 1
        self._disagreements += differed
        self._suspicion = SUSPICION if differed else max(0, self._suspicion - 1)

    def _practise(self, seen: _Seen, answer: Answer) -> None:
        apart = self._apart(self._practice[0], seen) if self._practice else None
        if self._practice is not None and apart is not None:
            self._evidence.learn(apart, self._judge.differ(self._practice[1].findings, answer.findings))
            self._practised += 1
            if apart <= self._config.max_distance and self._practised < self._config.recheck_every:
                return
        self._practice, self._practised = (seen, answer), 0

    def _draw(self) -> bool:
        """Whether this picture is rechecked: one of every stretch, wherever chance put it, and all while in doubt."""
        if self._suspicion:
            return True
        every = self._config.recheck_every
        if self._turn == 0:
            self._due = self._chance.randrange(every)
        drawn = self._turn == self._due
        self._turn = (self._turn + 1) % every
        return drawn

    def _apart(self, reference: _Seen | None, seen: _Seen | None) -> float | None:
        """How far apart two pictures are; None where they cannot be compared."""
        if reference is None or seen is None or reference.place != seen.place:
            return None
        if not 0 <= seen.t_s - reference.t_s <= self._config.ttl_s:
            return None
        return distance(reference.thumbnail, seen.thumbnail)


def _seen(view: View) -> _Seen | None:
    made = thumbnail(view.data)
    place = (view.data.shape, view.size, view.scale, view.offset, view.cells)
    return None if made is None else _Seen(made, place, view.t0_s)
