"""Image steps that change values and not geometry, and the ground that all image steps stand on.

A picture is uint8 [height, width, 3] in BGR order or [height, width] grey, as in `agent.records.Sample`; the steps
before `layout` also take float32. A view with cells is treated cell by cell. Refuses arrays of any other shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from agent.errors import ConfigError, ModelError
from agent.records import Array, View
from agent.strict import Range

Box = tuple[float, float, float, float]
Unit = Literal["px", "fraction"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Stretches each picture so that its `low` and `high` percentiles become 0 and 255. Needs uint8, gives uint8.

    A picture whose percentiles lie less than `min_span` grey levels apart is left alone: it holds only noise.
    """

    low: Annotated[float, Range(0, 49)] = 1.0
    high: Annotated[float, Range(51, 100)] = 99.0
    min_span: Annotated[float, Range(1, 255)] = 12.0

    def __call__(self, view: View, /) -> View:
        extent_px(view, "contrast")
        if view.data.dtype != np.uint8:
            raise ModelError(f"step 'contrast' takes uint8, not {view.data.dtype}: put it before 'normalise'")
        return view.of(each(view, self._stretched))

    def _stretched(self, image: Array) -> Array:
        low, high = np.percentile(image, (self.low, self.high))
        if high - low < self.min_span:
            return image
        # a table of 256 values instead of arithmetic per pixel, and rounding that is the same everywhere
        table = np.rint((np.arange(256) - low) * (255.0 / (high - low))).clip(0, 255).astype(np.uint8)
        return np.asarray(table[image])


@dataclass(frozen=True, slots=True)
class Normalise:
    """(x / divide_by - mean) / std as float32; `mean` and `std` have one value, or one per channel (last axis)."""

    divide_by: Annotated[float, Range(1e-6)] = 1.0
    mean: Annotated[tuple[float, ...], Range(1, 4)] = (0.0,)
    std: Annotated[tuple[Annotated[float, Range(1e-6)], ...], Range(1, 4)] = (1.0,)
    pointwise: ClassVar[bool] = True

    def __call__(self, view: View, /) -> View:
        extent_px(view, "normalise")
        self._check(view.data.shape[-1] if view.data.ndim - bool(view.cells) == 3 else 1)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        data = view.data.astype(np.float32) / np.float32(self.divide_by)
        return view.of((data - mean) / std)

    def fill(self, pixels: Array, made: Array, channels: int, channel: int | None, /) -> None:
        """See `agent.feed.Filling`; arithmetic that changes nothing (- 0, / 1) is left out. Raises ModelError."""
        if not channel:  # once per picture
            self._check(channels)
        np.divide(pixels, np.float32(self.divide_by), out=made)
        if self.mean != (0.0,):
            np.subtract(made, _of(self.mean, channel), out=made)
        if self.std != (1.0,):
            np.divide(made, _of(self.std, channel), out=made)

    def _check(self, channels: int) -> None:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ModelError(f"step 'normalise': {key} has {len(values)} values for {channels} channels")


def _of(values: tuple[float, ...], channel: int | None) -> Array | np.float32:
    """The values of all channels, or of one."""
    return np.asarray(values, np.float32) if channel is None else np.float32(values[channel if len(values) > 1 else 0])


@dataclass(frozen=True, slots=True)
class Layout:
    """The last step: the order of the axes that the model takes, and if need be the dtype.

    NHWC, NCHW: [1, height, width, channels] and [1, channels, height, width]; NHW: [1, height, width], grey only.
    Towards an integer `dtype` values are rounded to nearest (even) and kept inside its range; without it they stay.
    """

    order: Literal["NHWC", "NCHW", "NHW"]
    dtype: Literal["uint8", "int8", "uint16", "int16", "float32"] | None = None

    def __call__(self, view: View, /) -> View:
        extent_px(view, "layout")
        return view.of(np.ascontiguousarray(self._cast(each(view, self._ordered))))

    def _ordered(self, image: Array) -> Array:
        if self.order == "NHW":
            if image.ndim != 2:
                raise ModelError("step 'layout': order NHW takes a grey picture: put step 'colour' to grey first")
            return image[None]
        image = image if image.ndim == 3 else image[:, :, None]
        return image[None] if self.order == "NHWC" else image.transpose(2, 0, 1)[None]

    def _cast(self, data: Array) -> Array:
        if self.dtype is None or data.dtype == self.dtype:
            return data
        if self.dtype == "float32":
            return data.astype(np.float32)
        limits = np.iinfo(self.dtype)
        return np.rint(data).clip(limits.min, limits.max).astype(self.dtype)


def need_picture(image: Array, step: str) -> None:
    """Raises ModelError, naming `step`, unless `image` is a picture."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ModelError(
            f"step '{step}' takes a picture [height, width, 3] or [height, width], not {list(image.shape)}:"
            " give it images, and put it before 'layout'"
        )


def extent_px(view: View, step: str) -> tuple[int, int]:
    """Width and height of the view's picture, or of each of its cells. Raises ModelError when it holds no picture."""
    image = view.data[0] if view.cells else view.data
    need_picture(image, step)
    return image.shape[1], image.shape[0]


def each(view: View, change: Callable[[Array], Array]) -> Array:
    """The view's data with `change` applied to its picture, or to each of its cells."""
    return np.stack([change(cell) for cell in view.data]) if view.cells else change(view.data)


def check_box(box: Box, unit: Unit) -> None:
    """Raises ValueError unless `box` is one."""
    left, top, right, bottom = box
    if not (0 <= left < right and 0 <= top < bottom) or (unit == "fraction" and max(right, bottom) > 1):
        limits = "from 0 to 1" if unit == "fraction" else "from 0"
        raise ValueError(f"box {list(box)} must be [left, top, right, bottom], left < right, top < bottom, {limits}")


def pixel_box(box: Box, unit: Unit, extent: tuple[int, int], step: str) -> tuple[int, int, int, int]:
    """`box` in whole pixels of a picture of `extent`. Raises ConfigError, naming `step`, when it is not inside."""
    width, height = extent
    across, down = (width, height) if unit == "fraction" else (1, 1)
    left, right = round(box[0] * across), round(box[2] * across)
    top, bottom = round(box[1] * down), round(box[3] * down)
    picture = f"a picture of {width}x{height} pixels"
    if right > width or bottom > height:
        raise ConfigError(f"step '{step}': box {list(box)} lies outside {picture}: correct the box")
    if left >= right or top >= bottom:
        raise ConfigError(f"step '{step}': box {list(box)} is empty in {picture}: widen it")
    return left, top, right, bottom
