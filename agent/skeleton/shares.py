"""What the rules about outputs share: what scores look like, how many cells a grid has, whose labels they are.

Pure, over the answer to noise and the picture's size.
"""

import math

import numpy as np

from agent.records import Array
from agent.skeleton.known import COCO, COCO_90
from agent.skeleton.said import Labels

Size = tuple[int, int]
"""Height and width of the picture, pixels."""

FACE = Labels(("face",), "likely", "one class, and the number of candidates is that of a face detector")
_STEP = 0.02
"""So far beyond 0 and 1 may a share be that came out of a quantised port."""


def cells(size: Size, strides: tuple[int, ...]) -> int:
    """How many cells grids of these strides have over the picture."""
    return sum(math.ceil(size[0] / stride) * math.ceil(size[1] / stride) for stride in strides)


def adds_up(rows: Array) -> bool:
    """Whether each row is a distribution."""
    return bool(rows.min() >= -_STEP and np.abs(rows.sum(axis=1) - 1).max(initial=0) < 0.03)


def are_shares(numbers: Array | None) -> bool:
    """Whether numbers lie between 0 and 1, as activated scores do; unknown ones are taken for it."""
    return numbers is None or bool(numbers.min(initial=0) >= -_STEP and numbers.max(initial=0) <= 1 + _STEP)


def in_fractions(numbers: Array | None) -> bool:
    """Whether coordinates count in fractions of the picture; unknown ones do not."""
    return numbers is not None and float(np.abs(numbers).max(initial=0)) < 4


def coco(classes: int) -> Labels | None:
    """COCO's labels where their number says that they are."""
    if classes == len(COCO):
        return Labels(COCO, "likely", "80 classes are COCO's nearly always")
    return Labels(COCO_90, "likely", "90 classes are COCO's numbers 1 to 90") if classes == len(COCO_90) else None
