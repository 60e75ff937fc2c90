"""Several pictures on one sheet, in rows, so that a film can be looked at as one picture."""

import math
from collections.abc import Sequence

import numpy as np

from agent.drawing.canvas import fitted
from agent.drawing.colours import GROUND
from agent.records import Array

_SIDE_PX = 1600
_GAP_PX = 6


def sheet(pictures: Sequence[Array]) -> Array:
    """The pictures, uint8 [h, w, 3] BGR of one shape or several, in reading order on a dark ground.

    A single one stays as it is. Raises ValueError when there is none.
    """
    if not pictures:
        raise ValueError("a sheet needs a picture")
    if len(pictures) == 1:
        return pictures[0]
    high, wide = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    columns = _columns(len(pictures), wide / high)
    rows = math.ceil(len(pictures) / columns)
    cell_wide = min(wide, (_SIDE_PX - _GAP_PX * (columns + 1)) // columns)
    cell_high = max(1, round(cell_wide * high / wide))
    made = np.full((rows * (cell_high + _GAP_PX) + _GAP_PX, columns * (cell_wide + _GAP_PX) + _GAP_PX, 3), GROUND,
                   np.uint8)  # fmt: skip
    for i, picture in enumerate(pictures):
        small = fitted(picture, cell_wide, cell_high)
        top = _GAP_PX + i // columns * (cell_high + _GAP_PX) + (cell_high - small.shape[0]) // 2
        left = _GAP_PX + i % columns * (cell_wide + _GAP_PX) + (cell_wide - small.shape[1]) // 2
        made[top : top + small.shape[0], left : left + small.shape[1]] = small
    return made


def _columns(count: int, proportion: float) -> int:
    """So many columns that the sheet comes closest to a screen's shape, 16 : 10."""
    def shape(columns: int) -> float:
        return proportion * columns / math.ceil(count / columns)

    return min(range(1, count + 1), key=lambda columns: (abs(math.log(shape(columns) / 1.6)), columns))
