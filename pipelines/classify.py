"""Decoders that turn scores into labels.

Owns `classify` (one label of many, several labels at once, or yes and no) and `digits` (one digit, or a display read
cell by cell). Scores come in dequantised; a decoder refuses scores that are not finite and a number of labels that does
not fit the output, because a label off by one is worse than none.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.outputs import Activation, Share, activated, chosen, need_finite


@dataclass(frozen=True, slots=True)
class Classify:
    """The `top_k` best labels with at least `threshold`, best first; equal scores in the order of the labels.

    The output holds one score per label, in any shape. A single score with two labels is a binary model: the score is
    that of the second label, and the first has the rest. Without labels the class number is the label.
    """

    output: str = ""
    """Port to read; the first one when empty."""
    activation: Activation = "none"
    """What brings the scores to 0..1 when the graph does not: softmax for one of many, sigmoid for each on its own."""
    top_k: Annotated[int, Range(1, 1000)] = 5
    threshold: Share = 0.0
    label_offset: Annotated[int, Range(0, 1000)] = 0
    """Number of leading scores that have no label, such as a background class; they are left out."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        scores = _activated(outputs[chosen(outputs, self.output, "classify")].ravel(), self.activation, "classify")
        if scores.size == 1 and len(labels) == 2:
            scores = np.array([1.0 - scores[0], scores[0]])
        scores = scores[self.label_offset :]
        names = labels or tuple(str(i) for i in range(scores.size))
        _need_labels(names, scores.size, "classify")
        best = np.argsort(-scores, kind="stable")[: self.top_k]
        return tuple(Finding(names[i], float(scores[i])) for i in best if scores[i] >= self.threshold)


@dataclass(frozen=True, slots=True)
class Digits:
    """Reads digits: each label is the text that its cell stands for, `none` is a cell without a digit.

    A view without cells gives one finding, its label the digit. A view with cells (pre step `cells`) gives one finding
    labelled `label`: its value joins the cells' digits in order, its score is that of the least certain digit, its box
    spans the cells. Leading cells without a digit are blank; any other such cell, and a digit below `min_score`, reads
    as `unread`. A display without any digit gives no finding.
    """

    output: str = ""
    activation: Activation = "none"
    none: str = "none"
    """The label of the class that is no digit; empty when the model has none."""
    label: str = "reading"
    min_score: Share = 0.0
    unread: Annotated[str, Range(1, 1)] = "?"
    decimals: Annotated[int, Range(0, 12)] = 0
    """Number of cells after the decimal point."""
    number: bool = False
    """Give the value as a number, for rules that compare; a display with an unread digit then gives no finding."""
    unit: str | None = None

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        scores = outputs[chosen(outputs, self.output, "digits")]
        cells = len(view.cells) or 1
        _need_labels(labels, scores.size / cells, "digits")
        scores = _activated(scores.reshape(cells, -1), self.activation, "digits")
        best = [(labels[int(row.argmax())], float(row.max())) for row in scores]
        return self._display(best, view) if view.cells else (self._single(*best[0]),)

    def _single(self, label: str, score: float) -> Finding:
        return Finding(label, score, value=None if label == self.none else label)

    def _display(self, best: list[tuple[str, float]], view: View) -> tuple[Finding, ...]:
        first = next((i for i, (label, _) in enumerate(best) if label != self.none), None)
        if first is None:
            return ()
        read = [self.unread if label == self.none or score < self.min_score else label for label, score in best[first:]]
        value = self._value(read)
        if value is None:
            return ()
        x1, y1, x2, y2 = zip(*view.cells, strict=True)
        score = min(score for _, score in best[first:])
        return (Finding(self.label, score, (min(x1), min(y1), max(x2), max(y2)), value=value, unit=self.unit),)

    def _value(self, read: list[str]) -> str | float | None:
        if self.decimals:
            read = ["0"] * (self.decimals + 1 - len(read)) + read
            read.insert(len(read) - self.decimals, ".")
        text = "".join(read)
        if not self.number:
            return text
        return None if self.unread in text else float(text)


def _need_labels(labels: tuple[str, ...], scores: float, decoder: str) -> None:
    if len(labels) != scores:
        raise ModelError(f"decoder '{decoder}': {scores:g} scores but {len(labels)} labels: correct the model's labels")


def _activated(scores: Array, activation: Activation, decoder: str) -> Array:
    need_finite(scores, decoder)
    return activated(scores, activation)
