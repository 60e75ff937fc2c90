"""Decoder of raw detector heads that have one set of numbers per grid cell: `box_grid`.

One description for the families that differ only in how a number becomes a place or a size: YOLOv3 to v8, YOLOX,
FastestDet, NanoDet, FCOS. With t the raw numbers, s the sigmoid, (column, row) the cell and `stride` its side in
pixels:

    centred  centre = (column + point + move(t)) * stride,  move: t | s(t) | tanh(t) | 2 s(t) - 0.5
             size   = grow(t) * unit,  grow: t | exp(t) | s(t) | (2 s(t))^2,  unit: stride | anchor | picture
    sides    the four distances from (column + point, row + point) * stride to left, top, right, bottom:
             t | exp(t) | max(t, 0), or with `bins` > 1 the mean of a distribution over 0 .. bins - 1; times stride

Sources: arXiv:1804.02767 (YOLOv3, section 2.1), arXiv:2107.08430 (YOLOX), arXiv:1904.01355 (FCOS), arXiv:2006.04388
(distributions of distances). Only candidates that reach the threshold are decoded.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.boxes import corners, picture_size
from pipelines.candidates import Candidates, Columns, Kept, by_cell, parts
from pipelines.heads import STEP, Grid, grids, shifted, table
from pipelines.outputs import Activation, activated, chosen, need_finite

Side = Annotated[float, Range(0.1, 8192)]
Anchor = tuple[Side, Side]
Power = Annotated[float, Range(0, 4)]
_MOST_EXPONENT = 50.0  # e^50 is beyond every picture and far from overflow
_NONE = np.empty((0, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxGrid(Kept):
    """Raw heads with one set of numbers per cell of one or more grids, each cell with one or more anchors.

    A head is [channels, rows, columns], [rows, columns, channels], [anchors, rows, columns, channels], or a table of
    all cells row by row. Grids and strides follow from the shapes; a table needs its `strides`. Needs labels.
    """

    heads: tuple[str, ...] = ()
    """Ports, one per grid; empty: every output that is not named below, in the order of the manifest."""
    score_heads: tuple[str, ...] = ()
    """Ports of the class scores, one per grid, when they are not in `heads`."""
    object_heads: tuple[str, ...] = ()
    """Ports of objectness or centreness, one per grid, when they are not in `heads`."""
    columns: Columns = "box_object_classes"
    """The order of a cell's numbers when one head holds all of them."""
    strides: Annotated[tuple[Annotated[int, Range(1, 1024)], ...], Range(0, 16)] = ()
    """Side of a cell, pixels of the model's picture, per grid. One table with several strides holds the grids one
    after the other."""
    anchors: Annotated[tuple[tuple[Anchor, ...], ...], Range(0, 16)] = ()
    """Per grid the width and height of each anchor, pixels of the model's picture; empty: none."""
    per_cell: Annotated[int, Range(1, 64)] = 1
    """Boxes per cell when there are no `anchors`."""
    box: Literal["centred", "sides"] = "centred"
    """What the numbers tell: a centre and a size, or the distances to the four sides."""
    point: Annotated[float, Range(0, 1)] = 0.0
    """Where in the cell its point lies: 0 its corner, 0.5 its middle."""
    move: Literal["none", "sigmoid", "tanh", "sigmoid_2"] = "sigmoid"
    """centred: how a number moves the centre from the point, in cells; sigmoid_2: 2 s(t) - 0.5."""
    grow: Literal["none", "exp", "sigmoid", "sigmoid_2_squared"] = "exp"
    """centred: how a number becomes a size; sigmoid_2_squared: (2 s(t))^2."""
    size_of: Literal["stride", "anchor", "picture"] = "stride"
    """centred: what a size counts in."""
    reach: Literal["none", "exp", "relu"] = "none"
    """sides: what makes a distance of a number."""
    bins: Annotated[int, Range(1, 256)] = 1
    """sides: numbers per distance."""
    activation: Activation = "sigmoid"
    """What brings the class scores to 0..1 when the graph does not."""
    object_activation: Literal["none", "sigmoid"] = "sigmoid"
    """What brings objectness or centreness to 0..1 when the graph does not."""
    object_power: Power = 1.0
    """score = object ^ object_power * class ^ class_power."""
    class_power: Power = 1.0
    """See `object_power`."""

    def __post_init__(self) -> None:
        if self.bins > 1 and self.box != "sides":
            raise ValueError("bins > 1 needs box = 'sides'")
        if self.size_of == "anchor" and not self.anchors:
            raise ValueError("size_of = 'anchor' needs 'anchors'")
        count = len(self.strides) if len(self.heads) == 1 and self.strides else len(self.heads)
        for key in ("score_heads", "object_heads", "strides", "anchors"):
            there, wanted = len(getattr(self, key)), count if key in ("strides", "anchors") else len(self.heads)
            if self.heads and there not in (0, wanted):
                raise ValueError(f"'{key}' has {there} entries, 'heads' asks for {wanted}")

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        if not labels:
            raise ModelError(f"decoder '{STEP}': the model has no labels, and without them its heads cannot be split")
        found = [self._found(o, picture_size(view), len(labels)) for o in by_cell(outputs, view)]
        return self.told(found, view, labels, STEP)

    def _found(self, outputs: Tensors, size: tuple[int, int], labels: int) -> Candidates:
        named = {*self.score_heads, *self.object_heads}
        heads = self.heads or tuple(name for name in outputs if name not in named)
        made = [one for i in range(len(heads)) for one in self._level(outputs, heads, i, size, labels)]
        if len(made) == 1:
            return Candidates(*made[0])
        return Candidates(*(np.concatenate(arrays) for arrays in zip(*made, strict=True)))

    def _level(
        self, outputs: Tensors, heads: tuple[str, ...], i: int, size: tuple[int, int], labels: int
    ) -> list[tuple[Array, Array, Array]]:
        """Boxes, scores and classes of each grid that the `i`-th head holds."""
        several = len(heads) == 1 and len(self.strides) > 1
        strides = self.strides if several else self.strides[i : i + 1]
        anchors = (self.anchors if several else self.anchors[i : i + 1]) or ((),) * len(strides) or ((),)
        each = tuple(len(group) or self.per_cell for group in anchors)
        numbers, objects, scores, shape = self._read(outputs, heads[i], i, each[0], labels)
        if shape is None and not strides:
            raise ModelError(f"decoder '{STEP}': '{heads[i]}' is a table and shows no grid: give 'strides'")
        found = []
        for grid, group in zip(grids(len(numbers), shape, strides, size, each), anchors, strict=True):
            own = None if objects is None else objects[grid.rows]
            rows, classes, top = self.best(scores[grid.rows], self.activation, own, self.class_power)
            near = numbers[grid.rows][rows]
            found.append((self._boxes(near, rows, grid, group, size) if len(rows) else _NONE, top, classes))
        return found

    def _read(
        self, outputs: Tensors, head: str, i: int, each: int, labels: int
    ) -> tuple[Array, Array | None, Array, tuple[int, int] | None]:
        """Box numbers, objects (activated), class scores and grid of the `i`-th head and those that go with it."""
        classes, box = labels + (self.background != "none"), 4 * self.bins
        inside = 0 if self.score_heads else classes + ("object" in self.columns)
        numbers, shape = table(outputs[chosen(outputs, head, STEP)], each, box + inside)
        objects = None
        if self.score_heads:
            scores, _ = table(outputs[chosen(outputs, self.score_heads[i], STEP)], each, classes)
        else:
            numbers, objects, scores = parts(numbers, self.columns, box)
        if self.object_heads:
            objects = table(outputs[chosen(outputs, self.object_heads[i], STEP)], each, 1)[0][:, 0]
        need_finite(scores, STEP)
        if objects is not None:
            need_finite(objects, STEP)
            objects = activated(objects, self.object_activation) ** self.object_power
        return numbers, objects, scores, shape

    def _boxes(
        self, numbers: Array, rows: Array, grid: Grid, anchors: tuple[Anchor, ...], size: tuple[int, int]
    ) -> Array:
        each, stride, numbers = len(anchors) or self.per_cell, np.array(grid.stride), numbers.astype(np.float64)
        places = shifted(grid, rows, each, self.point)
        if self.box == "sides":
            reach = self._reach(numbers)
            return corners(np.hstack([places - reach[:, :2], places + reach[:, 2:]]) * np.tile(stride, 2), "xyxy")
        boxes = np.empty((len(rows), 4))
        boxes[:, :2] = (places + _moved(numbers[:, :2], self.move)) * stride
        boxes[:, 2:] = _grown(numbers[:, 2:], self.grow) * self._unit(stride, size, anchors, rows % each)
        return corners(boxes, "xywh")

    def _unit(self, stride: Array, size: tuple[int, int], anchors: tuple[Anchor, ...], which: Array) -> Array:
        if self.size_of == "anchor":
            return np.array(anchors or ((1, 1),))[which]
        return stride if self.size_of == "stride" else np.array(size)

    def _reach(self, numbers: Array) -> Array:
        if self.bins > 1:
            spread = activated(numbers.reshape(-1, 4, self.bins), "softmax")
            return np.asarray(spread @ np.arange(self.bins, dtype=np.float64))
        if self.reach == "exp":
            return np.exp(np.minimum(numbers, _MOST_EXPONENT))
        return np.maximum(numbers, 0.0) if self.reach == "relu" else numbers


def _moved(numbers: Array, how: str) -> Array:
    match how:
        case "none":
            return numbers
        case "tanh":
            return np.tanh(numbers)
        case "sigmoid":
            return activated(numbers, "sigmoid")
    return 2 * activated(numbers, "sigmoid") - 0.5


def _grown(numbers: Array, how: str) -> Array:
    match how:
        case "none":
            return numbers
        case "exp":
            return np.exp(np.minimum(numbers, _MOST_EXPONENT))
        case "sigmoid":
            return activated(numbers, "sigmoid")
    return (2 * activated(numbers, "sigmoid")) ** 2
