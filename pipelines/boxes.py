"""Boxes as arrays: overlap, suppression of doubles, the size of a model's picture and the way back to the source.

A set of boxes is float64 [n, 4], each row x1, y1, x2, y2 with x1 <= x2 and y1 <= y2; coordinates count pixel edges, as
in `pipelines.image`. Owns nothing that a model decides: decoders make the boxes. Pure numpy, so that tracking and
zones need nothing else.
"""

from functools import lru_cache
from typing import Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, View

Order = Literal["xyxy", "yxyx", "xywh", "yxhw"]
"""The four numbers of a box: two corners, or the centre and the size; y first or x first."""
_FEW, _HANDFUL = 64, 12
"""Up to so many boxes are suppressed in other ways than large sets, because they are quicker for few."""


def corners(numbers: Array, order: Order) -> Array:
    """[n, 4] numbers in `order` as boxes. Sides of negative length become points."""
    values = numbers.astype(np.float64)
    if order in ("yxyx", "yxhw"):
        values = values[:, [1, 0, 3, 2]]
    if order in ("xywh", "yxhw"):
        half = np.maximum(values[:, 2:], 0.0) / 2
        return np.concatenate([values[:, :2] - half, values[:, :2] + half], axis=1)
    return np.concatenate([values[:, :2], np.maximum(values[:, 2:], values[:, :2])], axis=1)


def areas(boxes: Array) -> Array:
    """[n] areas."""
    made: Array = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return made


def iou(one: Array, other: Array) -> Array:
    """[n, m] intersection over union of every box of `one` [n, 4] with every box of `other` [m, 4]; 0 for points."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.maximum(high - low, 0.0).prod(axis=2)
    union = areas(one)[:, None] + areas(other)[None] - shared
    made: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return made


def suppressed(boxes: Array, limit: float, most: int, classes: Array | None = None) -> list[int]:
    """Which boxes stay when each that overlaps a better one by more than `limit` (IoU) goes; at most `most`.

    `boxes` [n, 4] best first; the answer is in that order. With `classes`, int [n], a box removes only those of its own
    class. Greedy non-maximum suppression; memory is that of n numbers, or of a small table for few boxes.
    """
    if len(boxes) < 2:
        return list(range(min(len(boxes), most)))
    if len(boxes) <= _HANDFUL:
        return _suppressed_handful(boxes.tolist(), limit, most, classes)
    if len(boxes) <= _FEW:
        return _suppressed_few(boxes, limit, most, classes)
    left, kept = np.arange(len(boxes)), list[int]()
    while left.size and len(kept) < most:
        best, rest = left[0], left[1:]
        kept.append(int(best))
        stays = iou(boxes[best : best + 1], boxes[rest])[0] <= limit
        left = rest[stays if classes is None else stays | (classes[rest] != classes[best])]
    return kept


def _suppressed_handful(boxes: list[list[float]], limit: float, most: int, classes: Array | None) -> list[int]:
    """Pair by pair, the same arithmetic without arrays: those of a handful take longer to make than to fill."""
    names, kept = [0] * len(boxes) if classes is None else classes.tolist(), list[int]()
    for i, box in enumerate(boxes):
        if len(kept) < most and not any(names[k] == names[i] and _overlap(boxes[k], box) > limit for k in kept):
            kept.append(i)
    return kept


def _overlap(one: list[float], other: list[float]) -> float:
    """As `iou`, of two boxes."""
    wide = max(min(one[2], other[2]) - max(one[0], other[0]), 0.0)
    high = max(min(one[3], other[3]) - max(one[1], other[1]), 0.0)
    shared = wide * high
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union > 0 else 0.0


def _suppressed_few(boxes: Array, limit: float, most: int, classes: Array | None) -> list[int]:
    """All overlaps at once: for some dozens of boxes calls cost more than numbers."""
    doubles = iou(boxes, boxes) > limit
    if classes is not None:
        doubles &= classes[:, None] == classes
    gone, kept = np.zeros(len(boxes), bool), list[int]()
    for i in range(len(boxes)):
        if not gone[i] and len(kept) < most:
            kept.append(i)
            gone |= doubles[i]
    return kept


def picture_size(view: View) -> tuple[int, int]:
    """Width and height of the picture that the model saw, also behind a step `layout`; (1, 1) when none is known."""
    shape = view.data.shape[1:] if view.cells else view.data.shape
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 3 and shape[2] > 4:  # channels or a batch of one come first
        shape = shape[1:]
    return (shape[1], shape[0]) if len(shape) >= 2 else (1, 1)


def to_source(boxes: Array, view: View, cell: int | None = None) -> Array:
    """Boxes (or points, [n, 2]) of the model's picture in source pixels, kept inside the source.

    `cell`: they were found in that cell of the view. Raises ModelError when there is no such cell.
    """
    if cell is None:
        scale, offset = view.scale, view.offset
    else:
        if cell >= len(view.cells):
            raise ModelError(f"the outputs tell of cell {cell}, but the view has {len(view.cells)}: check the model")
        left, top, right, bottom = view.cells[cell]
        width, height = picture_size(view)
        scale, offset = ((right - left) / width, (bottom - top) / height), (left, top)
    factors, shift, limits = _way_back(scale, offset, view.size, boxes.shape[1] // 2)
    moved: Array = boxes * factors
    moved += shift
    return moved if view.size == (0, 0) else np.minimum(np.maximum(moved, 0.0, out=moved), limits, out=moved)


@lru_cache(maxsize=64)
def _way_back(
    scale: tuple[float, float], offset: tuple[float, float], size: tuple[int, int], times: int
) -> tuple[Array, Array, Array]:
    """Factors, shift and limits of rows of `times` points; a stream's pictures all go the same way."""
    return np.array(scale * times), np.array(offset * times), np.array(size * times, np.float64)
