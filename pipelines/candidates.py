"""What every decoder of boxes shares: its candidates, which of them stay, and what they are called.

Owns `Kept` (threshold, suppression of doubles and limits: the keys that every detector has) and the reading of tables.
Refuses numbers that are not finite, tables that do not fit the labels, and classes without a label: a wrong name is
worse than none.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.boxes import picture_size, suppressed, to_source
from pipelines.outputs import Activation, Share, activated

Columns = Literal["box_classes", "box_object_classes", "object_box_classes", "classes_box"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes [n, 4] in pixels of the model's picture with scores [n] and classes, int [n]."""

    boxes: Array
    scores: Array
    classes: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What every detector's decoder asks of its candidates."""

    threshold: Share = 0.25
    """Candidates below this score are dropped first."""
    nms_iou: Share = 0.45
    """Of two boxes of a class that overlap by more (intersection over union) the better stays; 1: all stay."""
    nms_across: bool = False
    """True: boxes of different classes suppress each other too."""
    max_candidates: Annotated[int, Range(1, 100_000)] = 1000
    """So many of the best candidates are looked at: bounds the time that a wild picture takes."""
    max_findings: Annotated[int, Range(1, 1000)] = 100
    """So many boxes are told, the best ones."""
    background: Literal["none", "first", "last"] = "none"
    """Whether the model's first or last class stands for nothing; it has no label."""

    def told(self, found: list[Candidates], view: View, labels: tuple[str, ...], step: str) -> tuple[Finding, ...]:
        """The findings, best first, of the candidates of the whole view, or of each of its cells. Raises ModelError."""
        if not any(len(c.scores) for c in found):
            return ()
        cells = range(len(view.cells)) if view.cells else (None,)
        boxes = _joined([to_source(c.boxes, view, i) for c, i in zip(found, cells, strict=True)])
        scores, classes = _joined([c.scores for c in found]), _joined([c.classes for c in found])
        best = np.argsort(-scores, kind="stable")[: self.max_candidates]
        boxes, scores, classes = boxes[best], scores[best], classes[best]
        if not np.isfinite(boxes).all():
            raise ModelError(f"decoder '{step}': a box is not finite: check the model's weights and its input")
        names, sure, places = classes.tolist(), scores.tolist(), boxes.tolist()
        return tuple(
            Finding(label_of(int(names[i]), labels, step), float(sure[i]), _box(places[i]))
            for i in self._stay(boxes, classes)
        )

    def _stay(self, boxes: Array, classes: Array) -> list[int]:
        if self.nms_iou == 1:
            return list(range(min(len(boxes), self.max_findings)))
        return suppressed(boxes, self.nms_iou, self.max_findings, None if self.nms_across else classes)

    def best(
        self, scores: Array, activation: Activation, objects: Array | None = None, power: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Rows, classes and scores of the candidates that reach the threshold, best first, at most `max_candidates`.

        `scores` [n, classes] as the graph gives them, raised to `power` once activated; `objects` [n] multiplies.
        Each row counts with its best class. Raises ModelError when the background takes the only class.
        """
        scores = self._scored(scores, activation)
        top = scores.max(axis=1).astype(np.float64)
        top = activated(top, "sigmoid") if activation == "sigmoid" else top
        top = top if power == 1 else top**power
        top = top if objects is None else top * objects
        rows = np.flatnonzero(top >= self.threshold)
        if len(rows) > 1:
            rows = rows[np.argsort(-top[rows], kind="stable")][: self.max_candidates]
        return rows, scores[rows].argmax(axis=1), top[rows]

    def _scored(self, scores: Array, activation: Activation) -> Array:
        """The scores of the classes that have a label; a sigmoid can wait, because it leaves their order."""
        if activation == "softmax":
            scores = activated(scores, "softmax")
        if self.background != "none":
            scores = scores[:, 1:] if self.background == "first" else scores[:, :-1]
        if not scores.shape[1]:
            raise ModelError("the model has one class and it is the background: set background = 'none'")
        return scores


def by_cell(outputs: Tensors, view: View) -> list[Tensors]:
    """The outputs of each cell of the view, or of the view as a whole."""
    if not view.cells:
        return [outputs]
    return [{name: array[i] for name, array in outputs.items()} for i in range(len(view.cells))]


def rows_of(port: Array, width: int, step: str, length: int = 0) -> Array:
    """[n, width] rows of a port with dimensions of size 1 around them, turned when they stand in columns.

    `width` 0: not known, the shorter side; `length`: n, when known. Raises ModelError when no side fits.
    """
    sizes = [size for size in port.shape if size != 1]
    if len(sizes) < 2:  # a single candidate, or a single class
        each = width or (port.size // length if length else 1)
        return port.reshape(-1, each) if each and port.size % each == 0 else port.reshape(1, -1)
    if len(sizes) > 2:
        raise ModelError(f"decoder '{step}': an output of shape {list(port.shape)} is no table: choose another decoder")
    table = port.reshape(sizes)
    wanted = width or (port.size // length if length else min(sizes))
    if wanted not in sizes:
        told = f"decoder '{step}': an output of shape {list(port.shape)} has no side of {wanted} numbers"
        raise ModelError(f"{told}: correct the labels, the background or the columns")
    return table if sizes[1] == wanted else table.T


def parts(table: Array, columns: Columns, box: int = 4) -> tuple[Array, Array | None, Array]:
    """Box numbers [n, box], object scores [n] or None, and class scores [n, classes] of a table's rows."""
    match columns:
        case "box_classes":
            return table[:, :box], None, table[:, box:]
        case "box_object_classes":
            return table[:, :box], table[:, box], table[:, box + 1 :]
        case "object_box_classes":
            return table[:, 1 : box + 1], table[:, 0], table[:, box + 1 :]
        case "classes_box":
            return table[:, -box:], None, table[:, :-box]


def in_pixels(boxes: Array, unit: str, view: View) -> Array:
    """Boxes in pixels of the model's picture."""
    return boxes * np.array(picture_size(view) * 2, np.float64) if unit == "fraction" else boxes


def label_of(number: int, labels: tuple[str, ...], step: str) -> str:
    """The label of a class; its number when the model has no labels. Raises ModelError for a class beyond them."""
    if not labels:
        return str(number)
    if not 0 <= number < len(labels):
        raise ModelError(f"decoder '{step}': class {number} has no label, there are {len(labels)}: correct the labels")
    return labels[number]


def _box(row: list[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = row
    return left, top, right, bottom


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
