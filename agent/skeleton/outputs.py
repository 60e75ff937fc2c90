"""What the rules about outputs share: what scores look like, how many cells a grid has, whose labels they are.

Pure, over the answer to noise and the picture's size.
"""

import math

import numpy as np

from agent.records import Array
from agent.skeleton.label_sets import COCO, COCO_90
from agent.skeleton.parts import Labels

Size = tuple[int, int]
"""Height and width of the picture, pixels."""

FACE = Labels(("face",), "likely", "one class, and the number of candidates is that of a face detector")
_TOLERANCE = 0.02
"""How far beyond 0 and 1 a score may lie that comes out of a quantised port."""


def cell_count(size: Size, strides: tuple[int, ...]) -> int:
    """How many cells grids of these strides have over the picture."""
    return sum(math.ceil(size[0] / stride) * math.ceil(size[1] / stride) for stride in strides)


def are_distributions(rows: Array) -> bool:
    """Whether each row is a probability distribution: nothing negative, the sum 1."""
    return bool(rows.min() >= -_TOLERANCE and np.abs(rows.sum(axis=1) - 1).max(initial=0) < 0.03)


def in_unit_range(numbers: Array | None) -> bool:
    """Whether numbers lie between 0 and 1, as activated scores do; True where there are none to look at."""
    return numbers is None or bool(numbers.min(initial=0) >= -_TOLERANCE and numbers.max(initial=0) <= 1 + _TOLERANCE)


def in_fractions(numbers: Array | None) -> bool:
    """Whether coordinates are fractions of the picture; False where there are none to look at."""
    return numbers is not None and float(np.abs(numbers).max(initial=0)) < 4


def coco_labels(classes: int) -> Labels | None:
    """COCO's labels where there are as many classes."""
    if classes == len(COCO):
        return Labels(COCO, "likely", "80 classes are COCO's nearly always")
    return Labels(COCO_90, "likely", "90 classes are COCO's numbers 1 to 90") if classes == len(COCO_90) else None
