"""Image steps: from an image file to the part of a picture, in the size, that a model looks at.

Owns the one way from image files to pixels (`decode_image`) and the `pre` steps that move or recolour pixels. Each of
them keeps `View.scale` and `View.offset`, so that a box found in the model's picture is told in source pixels.
Coordinates count pixel edges: the left edge of the picture is 0, its right edge the width. A view with cells is
treated cell by cell. Refuses to guess an interpolation: a model's scores depend on it.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import cv2
import numpy as np

from agent.errors import CaptureError, ConfigError, ModelError
from agent.records import Array, View
from agent.strict import Range
from pipelines.imagefile import check_size, image_size
from pipelines.pixels import Box, Unit, check_box, each, extent_px, need_picture, pixel_box

cv2.setNumThreads(1)  # a resize of half a millisecond is not worth waking three threads; lanes work side by side

Interpolation = Literal["nearest", "linear", "area", "cubic"]
Pixels = Annotated[int, Range(1, 8192)]

_FLAGS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
}


def decode_image(data: bytes, where: str, max_megapixels: float = 50.0) -> Array:
    """The picture in the image file `data` (see `pipelines.imagefile`) as uint8 [height, width, 3], BGR.

    Grey becomes three equal channels, 16 bit becomes 8, transparency is dropped, the EXIF orientation is applied.
    `where` names the file. Raises CaptureError when it is over a limit, cut off, or no picture.
    """
    check_size(where, *image_size(data, where), max_megapixels)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise CaptureError(f"{where}: the image cannot be decoded ({exc.err}): the file is damaged") from exc
    if image is None:
        raise CaptureError(f"{where}: the image cannot be decoded: the file is damaged, copy it again")
    image.flags.writeable = False
    return image


def jpeg(image: Array, width: int, quality: int) -> tuple[bytes, tuple[int, int]]:
    """A picture, uint8 [height, width, 3] BGR or [height, width], as JPEG of at most `width` pixels; its new size.

    `quality`: 1 to 100. Raises CaptureError for what JPEG cannot hold.
    """
    height, full = image.shape[:2]
    if full > width:
        image = _resized(image, width, max(1, round(height * width / full)), "area")
    try:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as exc:
        raise CaptureError(f"the picture cannot be written as JPEG: {exc.err}") from exc
    if not done:
        raise CaptureError("the picture cannot be written as JPEG")
    return data.tobytes(), (image.shape[1], image.shape[0])


def channels_of(picture: Array) -> tuple[Array, ...]:
    """The channels of uint8 [height, width, 3], each [height, width] for itself."""
    return tuple(cv2.split(picture))


def image_view(image: Array, t_s: float = 0.0) -> View:
    """The view of a whole picture."""
    need_picture(image, "a view")
    return View(data=image, t0_s=t_s, t1_s=t_s, size=(image.shape[1], image.shape[0]))


@dataclass(frozen=True, slots=True)
class Resize:
    """Resizes the whole picture, whatever its shape; `area` averages and is the right one for making smaller."""

    width_px: Pixels
    height_px: Pixels
    interpolation: Interpolation

    def __call__(self, view: View, /) -> View:
        old_width, old_height = extent_px(view, "resize")
        data = each(view, lambda image: _resized(image, self.width_px, self.height_px, self.interpolation))
        return _moved(view, data, (old_width / self.width_px, old_height / self.height_px))


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Fits the picture into width_px x height_px with its shape kept, and fills the rest with `fill`."""

    width_px: Pixels
    height_px: Pixels
    interpolation: Interpolation
    fill: Annotated[int, Range(0, 255)] = 114
    align: Literal["centre", "top_left"] = "centre"
    enlarge: bool = True
    """Whether a smaller picture grows."""

    def __call__(self, view: View, /) -> View:
        old_width, old_height = extent_px(view, "letterbox")
        ratio = min(self.width_px / old_width, self.height_px / old_height)
        ratio = ratio if self.enlarge else min(ratio, 1.0)
        width, height = max(1, round(old_width * ratio)), max(1, round(old_height * ratio))
        centred = self.align == "centre"
        left, top = (self.width_px - width) // 2 * centred, (self.height_px - height) // 2 * centred

        def fit(image: Array) -> Array:
            canvas = np.full((self.height_px, self.width_px, *image.shape[2:]), self.fill, image.dtype)
            canvas[top : top + height, left : left + width] = _resized(image, width, height, self.interpolation)
            return canvas

        scale = old_width / width, old_height / height
        return _moved(view, each(view, fit), scale, (-left * scale[0], -top * scale[1]))


@dataclass(frozen=True, slots=True)
class Crop:
    """Cuts out left, top, right, bottom: pixels, or fractions of width and height."""

    box: Box
    unit: Unit = "px"

    def __post_init__(self) -> None:
        check_box(self.box, self.unit)

    def __call__(self, view: View, /) -> View:
        left, top, right, bottom = pixel_box(self.box, self.unit, extent_px(view, "crop"), "crop")
        data = each(view, lambda image: image[top:bottom, left:right])
        return _moved(view, data, offset=(left, top))


@dataclass(frozen=True, slots=True)
class CentreCrop:
    """Cuts the largest centred piece of shape `aspect` (width / height), then keeps `fraction` of both its sides."""

    aspect: Annotated[float, Range(0.01, 100)] = 1.0
    fraction: Annotated[float, Range(0.01, 1)] = 1.0

    def __call__(self, view: View, /) -> View:
        old_width, old_height = extent_px(view, "centre_crop")
        width = max(1, round(min(old_width, old_height * self.aspect) * self.fraction))
        height = max(1, round(min(old_height, old_width / self.aspect) * self.fraction))
        left, top = (old_width - width) // 2, (old_height - height) // 2
        data = each(view, lambda image: image[top : top + height, left : left + width])
        return _moved(view, data, offset=(left, top))


@dataclass(frozen=True, slots=True)
class Cells:
    """Cuts several boxes out of one picture, each resized to width_px x height_px: digits of a display, say.

    Either `boxes`, or `rows` x `columns` equal cells in reading order. `margin` widens (or, negative, narrows) every
    box on each side by that share of its width and height, clipped at the picture's edge.
    """

    width_px: Pixels
    height_px: Pixels
    interpolation: Interpolation
    boxes: Annotated[tuple[Box, ...], Range(0, 256)] = ()
    unit: Unit = "px"
    rows: Annotated[int, Range(0, 64)] = 0
    columns: Annotated[int, Range(0, 64)] = 0
    margin: Annotated[float, Range(-0.4, 0.4)] = 0.0

    def __post_init__(self) -> None:
        if bool(self.boxes) == bool(self.rows and self.columns):
            raise ValueError("give either 'boxes' or both 'rows' and 'columns'")
        for box in self.boxes:
            check_box(box, self.unit)

    def __call__(self, view: View, /) -> View:
        if view.cells:
            raise ModelError("step 'cells': the view has cells already: use the step once")
        extent = extent_px(view, "cells")
        boxes = [self._widened(pixel_box(b, self.unit, extent, "cells"), extent) for b in self.boxes or ()]
        boxes = boxes or [self._widened(b, extent) for b in self._grid(extent)]
        images = [view.data[top:bottom, left:right] for left, top, right, bottom in boxes]
        data = np.stack([_resized(image, self.width_px, self.height_px, self.interpolation) for image in images])
        return replace(view, data=data, cells=tuple(source_box(view, box) for box in boxes))

    def _grid(self, extent: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        if self.columns > extent[0] or self.rows > extent[1]:
            size = f"{extent[0]}x{extent[1]} pixels"
            raise ConfigError(f"step 'cells': {self.columns}x{self.rows} cells do not fit {size}: use fewer cells")
        x = [round(extent[0] * i / self.columns) for i in range(self.columns + 1)]
        y = [round(extent[1] * i / self.rows) for i in range(self.rows + 1)]
        return [(x[c], y[r], x[c + 1], y[r + 1]) for r in range(self.rows) for c in range(self.columns)]

    def _widened(self, box: tuple[int, int, int, int], extent: tuple[int, int]) -> tuple[int, int, int, int]:
        left, top, right, bottom = box
        x, y = round((right - left) * self.margin), round((bottom - top) * self.margin)
        left, top = max(0, left - x), max(0, top - y)
        return left, top, min(extent[0], max(left + 1, right + x)), min(extent[1], max(top + 1, bottom + y))


@dataclass(frozen=True, slots=True)
class Colour:
    """Changes the channels of a BGR or grey picture. Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""

    to: Literal["rgb", "bgr", "grey"]

    def __call__(self, view: View, /) -> View:
        extent_px(view, "colour")
        return view.of(each(view, self._converted))

    def _converted(self, image: Array) -> Array:
        if image.ndim == 2:
            return image if self.to == "grey" else np.repeat(image[:, :, None], 3, axis=2)
        if self.to == "bgr":
            return image
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if self.to == "rgb" else cv2.COLOR_BGR2GRAY)


def regions(mask: Array, most: int) -> tuple[Array, list[tuple[int, int, int, int]]]:
    """The largest `most` connected regions of a bool mask [height, width], corners touching counts as connected.

    int32 [height, width] with 1 for the largest region, 2 for the next ..., 0 elsewhere; and their boxes in this order.
    """
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    order = (1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable"))[:most]
    renamed = np.zeros(count, np.int32)
    renamed[order] = np.arange(1, len(order) + 1)
    boxes = [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in stats[order, :4]]
    return renamed[numbered], boxes


def source_box(view: View, box: tuple[float, ...]) -> Box:
    """A box of `view.data` (x1, y1, x2, y2) in source pixels."""
    (sx, sy), (ox, oy) = view.scale, view.offset
    return box[0] * sx + ox, box[1] * sy + oy, box[2] * sx + ox, box[3] * sy + oy


def _moved(
    view: View, data: Array, scale: tuple[float, float] = (1.0, 1.0), offset: tuple[float, float] = (0.0, 0.0)
) -> View:
    """The view after a step in which a point p of the new picture lay at p * scale + offset of the old one."""
    if view.cells:  # where a cell lies is told by its box
        return view.of(data)
    (sx, sy), (ox, oy) = view.scale, view.offset
    size = view.size if view.size != (0, 0) else (view.data.shape[1], view.data.shape[0])
    moved = (ox + offset[0] * sx, oy + offset[1] * sy)
    scale = (sx * scale[0], sy * scale[1])
    return View(data, view.t0_s, view.t1_s, view.rate_hz, size, scale, moved, view.channels, view.gap)


def _resized(image: Array, width: int, height: int, interpolation: str) -> Array:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=_FLAGS[interpolation])
