"""How the raw heads of a detector lie in its outputs: ports -> one table of numbers per grid.

Owns the order of axes and nothing of what the numbers mean. A grid's candidates stand row by row, the anchors of a
cell one after the other. Refuses ports whose sizes do not fit labels, anchors and strides.
"""

import math
from dataclasses import dataclass

import numpy as np

from agent.errors import ModelError
from agent.records import Array
from pipelines.candidates import rows_of

STEP = "box_grid"


@dataclass(frozen=True, slots=True)
class Grid:
    """One grid: `columns` cells in a row, their side in pixels across and down, and where its rows lie in the table."""

    columns: int
    stride: tuple[float, float]
    rows: slice


def table(port: Array, anchors: int, width: int) -> tuple[Array, tuple[int, int] | None]:
    """[cells * anchors, width] numbers of a port, and its grid (columns, rows) unless it is a table already.

    The port is [1, ...] or without that dimension: [anchors * width, rows, columns], [rows, columns, anchors * width],
    [anchors, rows, columns, width], or a table. Raises ModelError.
    """
    array = port[0] if port.ndim > 2 and port.shape[0] == 1 else port
    if array.ndim == 4 and array.shape[0] == anchors and array.shape[3] == width:
        return array.transpose(1, 2, 0, 3).reshape(-1, width), (array.shape[2], array.shape[1])
    if array.ndim == 3 and array.shape[0] == anchors * width:
        high, wide = array.shape[1:]
        if anchors == 1:  # turned without a copy: scores are then looked at along their memory, which is quicker too
            return array.reshape(width, -1).T, (wide, high)
        split = array.reshape(anchors, width, high, wide).transpose(2, 3, 0, 1)
        return split.reshape(-1, width), (wide, high)
    if array.ndim == 3 and array.shape[2] == anchors * width:
        return array.reshape(-1, width), (array.shape[1], array.shape[0])
    if array.ndim > 2:
        told = f"decoder '{STEP}': a head of shape {list(port.shape)} has no {anchors} x {width} numbers per cell"
        raise ModelError(f"{told}: correct labels, anchors, bins or columns")
    return rows_of(array, width, STEP), None


def grids(
    count: int, shape: tuple[int, int] | None, strides: tuple[int, ...], size: tuple[int, int], anchors: tuple[int, ...]
) -> list[Grid]:
    """The grids that a table of `count` rows holds: one of a known `shape`, or one per stride, one after the other.

    `size`: width and height of the model's picture; `anchors`: how many a cell has, per stride. Raises ModelError.
    """
    if shape is not None:
        side = (strides[0], strides[0]) if strides else (size[0] / shape[0], size[1] / shape[1])
        return [Grid(shape[0], side, slice(0, count))]
    made, start = [], 0
    for stride, each in zip(strides, anchors, strict=True):
        wide, high = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        made.append(Grid(wide, (stride, stride), slice(start, start + wide * high * each)))
        start += wide * high * each
    if start != count:
        told = f"decoder '{STEP}': {count} candidates do not fill grids of strides {list(strides)}"
        raise ModelError(f"{told} over {size[0]}x{size[1]} pixels, which have {start}: correct 'strides' or 'anchors'")
    return made


def shifted(grid: Grid, rows: Array, each: int, point: float) -> Array:
    """[n, 2] where the points of candidates lie, in cells: column and row of the cell, plus `point` in both."""
    made, cells = np.empty((len(rows), 2)), rows if each == 1 else rows // each
    made[:, 0], made[:, 1] = cells % grid.columns, cells // grid.columns
    return made + point
