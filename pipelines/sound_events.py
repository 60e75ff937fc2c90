"""Sounds of many kinds at once: which are heard in a view, and how sure one is over several.

Owns the decoder `sounds` and the step `smooth`. Refuses labels that do not fit the output, thresholds for labels that
the model does not have, and scores that are not finite.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.outputs import Activation, Share, activated, chosen, need_finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Sounds:
    """Every label that reaches its threshold, best first: several may be heard at once.

    The output holds one score per label, or rows of them for consecutive parts of the view, as models do that cut a
    recording themselves. Findings have the interval of the view, or of their part. Equal scores in the order of the
    labels.
    """

    output: str = ""
    """Port to read; the first one when empty."""
    activation: Activation = "none"
    """What brings the scores to 0..1 when the graph does not; sigmoid for each on its own."""
    threshold: Share = 0.3
    """Least score of every label that `thresholds` does not name."""
    thresholds: dict[str, Share] = field(default_factory=dict)
    """Label -> its own least score: an alarm must not be missed, music may be."""
    ignore: tuple[str, ...] = ()
    """Labels that are never told, e.g. "Silence"."""
    top_k: Annotated[int, Range(1, 1000)] = 5
    """So many labels are told at most, for each part of the view."""
    parts: Literal["mean", "max", "each"] = "mean"
    """What becomes of several rows: the mean or the best score of each label, or findings for each row."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        least = self._least(labels)
        rows = self._rows(outputs, labels)
        step_s = (view.t1_s - view.t0_s) / len(rows)
        return tuple(
            Finding(labels[i], float(row[i]), interval=(view.t0_s + n * step_s, view.t0_s + (n + 1) * step_s))
            for n, row in enumerate(rows)
            for i in _best(row, least, self.top_k)
        )

    def _rows(self, outputs: Tensors, labels: tuple[str, ...]) -> Array:
        """[parts, labels] scores, one row unless every part is wanted."""
        name = chosen(outputs, self.output, "sounds")
        scores = outputs[name]
        if not labels or scores.size == 0 or scores.size % len(labels) or scores.shape[-1] not in (1, len(labels)):
            raise ModelError(f"decoder 'sounds': output '{name}' is {list(scores.shape)} for {len(labels)} labels: "
                             "list one label per value of its last dimension")  # fmt: skip
        need_finite(scores, "sounds")
        rows = activated(scores, self.activation).reshape(-1, len(labels))
        if self.parts == "each" or len(rows) == 1:
            return rows
        return np.asarray(rows.max(axis=0, keepdims=True) if self.parts == "max" else rows.mean(axis=0, keepdims=True))

    def _least(self, labels: tuple[str, ...]) -> Array | float:
        """Least score of all labels, or of each; what is never told has an infinite one."""
        if not self.thresholds and not self.ignore:
            return self.threshold
        for key, names in (("thresholds", tuple(self.thresholds)), ("ignore", self.ignore)):
            for name in names:
                if name not in labels:
                    raise ModelError(f"decoder 'sounds': key '{key}': '{name}' is none of the model's labels")
        return np.array([np.inf if n in self.ignore else self.thresholds.get(n, self.threshold) for n in labels])


@dataclass(frozen=True, slots=True)
class Smooth:
    """Follow: the score of each label becomes its mean over the last `views` views.

    A label that is missing from a view counts as 0 there, and so do the views before the first: let the decoder's
    threshold be low. A label is told as long as its mean is above 0, with the interval of its latest finding. A gap
    forgets the views.
    """

    views: Annotated[int, Range(1, 1000)]

    def initial(self) -> tuple[tuple[Finding, ...], ...]:
        return ()

    def __call__(
        self, state: tuple[tuple[Finding, ...], ...], findings: tuple[Finding, ...], view: View, /
    ) -> tuple[tuple[tuple[Finding, ...], ...], tuple[Finding, ...]]:
        recent = (*(() if view.gap else state), findings)[-self.views :]
        newest = {f.label: f for found in recent for f in reversed(found)}
        sums = dict.fromkeys(newest, 0.0)
        for found in recent:
            for label, score in {f.label: f.score for f in reversed(found)}.items():
                sums[label] += score
        means = (replace(newest[label], score=total / self.views) for label, total in sums.items() if total > 0)
        return recent, tuple(sorted(means, key=lambda f: -f.score))


def _best(row: Array, least: Array | float, top_k: int) -> list[int]:
    """Indices of the scores that reach their least, best first."""
    there = np.flatnonzero(row >= least)
    return [int(i) for i in there[np.argsort(-row[there], kind="stable")[:top_k]]]
