"""Decoder of heads that correct anchors, boxes laid over the picture beforehand: `box_anchors`.

SSD, RetinaNet, EfficientDet and the face detectors BlazeFace and Ultra-Light-Fast: what a file of anchors holds is
generated from strides and sizes. With a the anchor's centre and size and t the raw numbers:

    centre = a.centre + t * centre_gain * a.size      size = a.size * exp(t * size_gain)  or  a.size * t * size_gain

Source: arXiv:1512.02325 (SSD, equation 2); the gains are what SSD code calls variances, and the inverse of what
TensorFlow calls box coder scales. Refuses a number of anchors that is not the model's.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.boxes import corners, picture_size
from pipelines.candidates import Candidates, Kept, by_cell
from pipelines.outputs import Activation, chosen, need_finite

Side = Annotated[float, Range(0.1, 8192)]
Gain = Annotated[float, Range(1e-6, 100)]
_STEP = "box_anchors"
_MOST_EXPONENT = 50.0  # e^50 is beyond every picture and far from overflow


@dataclass(frozen=True, slots=True)
class AnchorLevel:
    """One grid of anchors: every cell has one of each size, around the same point."""

    stride: Annotated[int, Range(1, 1024)]
    """Side of a cell, pixels of the model's picture."""
    sizes_px: Annotated[tuple[tuple[Side, Side], ...], Range(1, 64)]
    """Width and height of each anchor of a cell, in the order of the model's candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxAnchors(Kept):
    """Raw heads that move and stretch anchors. The candidates stand level by level, row by row, anchor by anchor."""

    level: Annotated[tuple[AnchorLevel, ...], Range(1, 16)]
    """[[decoder.level]] stride and sizes_px, in the order of the model's candidates."""
    boxes: tuple[str, ...] = ("boxes",)
    """Ports of the raw boxes [n, 4 or more], joined in this order; numbers beyond four (landmarks) are left out."""
    scores: tuple[str, ...] = ("scores",)
    """Ports of the raw class scores [n, classes], joined in this order."""
    order: Literal["xywh", "yxhw"] = "xywh"
    """The four numbers: centre and size, x or y first."""
    point: Annotated[float, Range(0, 1)] = 0.5
    """Where in its cell an anchor's centre lies: 0 the corner, 0.5 the middle."""
    clip: bool = False
    """True: anchors' centres and sizes are kept within the picture's before they are used."""
    grow: Literal["exp", "linear"] = "exp"
    """How a number becomes a size: size = anchor * exp(t * size_gain), or anchor * t * size_gain."""
    centre_gain: Gain = 0.1
    """centre = anchor's centre + t * centre_gain * anchor's size."""
    size_gain: Gain = 0.2
    """See `grow`."""
    activation: Activation = "none"
    """What brings the class scores to 0..1 when the graph does not."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        found = [self._found(o, picture_size(view)) for o in by_cell(outputs, view)]
        return self.told(found, view, labels, _STEP)

    def _found(self, outputs: Tensors, size: tuple[int, int]) -> Candidates:
        laid = anchors(self.level, size, self.point, self.clip)
        numbers, scores = (_joined(outputs, names, len(laid)) for names in (self.boxes, self.scores))
        need_finite(scores, _STEP)
        rows, classes, top = self.best(scores, self.activation)
        return Candidates(self._boxes(numbers[rows, :4].astype(np.float64), laid[rows]), top, classes)

    def _boxes(self, numbers: Array, laid: Array) -> Array:
        if self.order == "yxhw":
            numbers = numbers[:, [1, 0, 3, 2]]
        centres = laid[:, :2] + numbers[:, :2] * self.centre_gain * laid[:, 2:]
        growth = numbers[:, 2:] * self.size_gain
        growth = np.exp(np.minimum(growth, _MOST_EXPONENT)) if self.grow == "exp" else growth
        return corners(np.hstack([centres, laid[:, 2:] * growth]), "xywh")


@lru_cache(maxsize=16)
def anchors(levels: tuple[AnchorLevel, ...], size: tuple[int, int], point: float, clip: bool) -> Array:
    """[n, 4] centre and size of every anchor over a picture of `size` (width, height), pixels; read-only."""
    made = []
    for level in levels:
        wide, high = (math.ceil(side / level.stride) for side in size)
        x, y = np.meshgrid((np.arange(wide) + point) * level.stride, (np.arange(high) + point) * level.stride)
        places = np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), len(level.sizes_px), axis=0)
        made.append(np.hstack([places, np.tile(np.array(level.sizes_px), (wide * high, 1))]))
    laid: Array = np.concatenate(made)
    laid = laid.clip(0, np.array(size * 2)) if clip else laid
    laid.flags.writeable = False
    return laid


def _joined(outputs: Tensors, names: tuple[str, ...], count: int) -> Array:
    """[count, k] rows of the ports. Raises ModelError when they are not as many as there are anchors."""
    arrays = [outputs[chosen(outputs, name, _STEP)] for name in names]
    found = sum(math.prod(array.shape[:-1]) for array in arrays)
    if found != count:
        told = f"decoder '{_STEP}': the model tells of {found} boxes, the levels make {count} anchors"
        raise ModelError(f"{told}: correct strides and sizes")
    joined: Array = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
    return joined
