"""Decoders of detectors whose graph already made boxes.

Owns `boxes` (the graph has suppressed doubles itself: the TFLite_Detection_PostProcess operator, exports that end with
NMS) and `box_table` (one row of numbers per candidate: YOLOv5, YOLOv8, DETR, face detectors with decoding in the
graph). Raw heads are read by `pipelines.detect_grid` and `pipelines.detect_anchors`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.boxes import Order, corners
from pipelines.candidates import Candidates, Columns, Kept, by_cell, in_pixels, parts, rows_of
from pipelines.outputs import Activation, Share, activated, chosen, need_finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes(Kept):
    """Boxes that the graph has decoded and suppressed itself.

    Either the four ports of TFLite_Detection_PostProcess (SSD, EfficientDet-Lite), or one table whose `columns` are
    named, as exports write that end with NMS. Doubles are not suppressed again unless `nms_iou` says so.
    """

    nms_iou: Share = 1.0
    """Of two boxes of a class that overlap by more (intersection over union) the better stays; 1: all stay."""
    boxes: str = "boxes"
    """Port of the boxes [n, 4], or of the whole table."""
    classes: str = "classes"
    """Port of the class numbers [n]."""
    scores: str = "scores"
    """Port of the scores [n]."""
    count: str = ""
    """Port that says how many boxes are valid; without it all are that reach the threshold."""
    order: Order = "yxyx"
    """The four numbers of a box: two corners, or centre and size; y first or x first."""
    unit: Literal["fraction", "px"] = "fraction"
    """Of the model's picture."""
    columns: Annotated[tuple[Literal["box", "score", "class", "batch"], ...], Range(0, 4)] = ()
    """What a row of the table holds, e.g. ["box", "score", "class"]; empty: there is a port for each."""

    def __post_init__(self) -> None:
        if self.columns and sorted(set(self.columns) - {"batch"}) != ["box", "class", "score"]:
            raise ValueError("columns must name box, score and class once each, and may name batch")

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        return self.told([self._found(o, view) for o in by_cell(outputs, view)], view, labels, "boxes")

    def _found(self, outputs: Tensors, view: View) -> Candidates:
        numbers, scores, classes = self._table(outputs) if self.columns else self._ports(outputs)
        need_finite(scores, "boxes")
        classes = np.rint(classes).astype(np.int64) - (self.background == "first")
        rows = np.flatnonzero((scores >= self.threshold) & (classes >= 0))
        return Candidates(in_pixels(corners(numbers[rows], self.order), self.unit, view), scores[rows], classes[rows])

    def _ports(self, outputs: Tensors) -> tuple[Array, Array, Array]:
        names = [chosen(outputs, name, "boxes") for name in (self.boxes, self.scores, self.classes)]
        numbers, scores, classes = outputs[names[0]].reshape(-1, 4), *(outputs[n].ravel() for n in names[1:])
        if not len(numbers) == len(scores) == len(classes):
            told = f"{len(numbers)} boxes, {len(scores)} scores and {len(classes)} classes"
            raise ModelError(f"decoder 'boxes': {told}: name the right ports")
        if self.count:
            most = int(outputs[chosen(outputs, self.count, "boxes")].ravel()[0])
            numbers, scores, classes = numbers[:most], scores[:most], classes[:most]
        return numbers, scores.astype(np.float64), classes

    def _table(self, outputs: Tensors) -> tuple[Array, Array, Array]:
        widths = [4 if name == "box" else 1 for name in self.columns]
        table = outputs[chosen(outputs, self.boxes if self.boxes in outputs else "", "boxes")]
        if table.shape[-1] != sum(widths):
            raise ModelError(f"decoder 'boxes': a row has {table.shape[-1]} numbers, columns name {sum(widths)}")
        split = np.split(table.reshape(-1, sum(widths)), np.cumsum(widths)[:-1], axis=1)
        by_name = dict(zip(self.columns, split, strict=True))
        return by_name["box"], by_name["score"][:, 0].astype(np.float64), by_name["class"][:, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTable(Kept):
    """Candidates whose boxes the graph has decoded: one row each, or one column each (found by the sizes).

    The numbers stand in one table (`columns`), or boxes and class scores in two ports.
    """

    boxes: str = ""
    """Port of the table, or of the boxes [n, 4]; the first one when empty."""
    scores: str = ""
    """Port of the class scores [n, classes]; empty: they stand in the table."""
    columns: Columns = "box_classes"
    """The order of a table's numbers; `object` is a score that there is anything at all."""
    order: Order = "xywh"
    """The four numbers of a box: two corners, or centre and size; y first or x first."""
    unit: Literal["fraction", "px"] = "px"
    """Of the model's picture."""
    activation: Activation = "none"
    """What brings the class scores to 0..1 when the graph does not."""
    object_activation: Literal["none", "sigmoid"] = "none"
    """What brings objectness to 0..1 when the graph does not."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        found = [self._found(o, view, len(labels)) for o in by_cell(outputs, view)]
        return self.told(found, view, labels, "box_table")

    def _found(self, outputs: Tensors, view: View, labels: int) -> Candidates:
        port = outputs[chosen(outputs, self.boxes, "box_table")]
        classes = labels + (self.background != "none") if labels else 0
        if self.scores:
            numbers, objects = rows_of(port, 4, "box_table"), None
            scores = rows_of(outputs[chosen(outputs, self.scores, "box_table")], classes, "box_table", len(numbers))
        else:
            extra = 4 + ("object" in self.columns)
            numbers, objects, scores = parts(rows_of(port, classes and classes + extra, "box_table"), self.columns)
        need_finite(scores, "box_table")
        if objects is not None:
            need_finite(objects, "box_table")
            objects = activated(objects, self.object_activation)
        rows, kinds, top = self.best(scores, self.activation, objects)
        return Candidates(in_pixels(corners(numbers[rows], self.order), self.unit, view), top, kinds)
