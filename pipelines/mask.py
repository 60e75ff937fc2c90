"""Privacy masks: parts of a picture that nobody gets to see. The step `mask`, and `paint`, which sources use.

A mask paints one flat colour, because a blurred or coarsened face can be told again. Where it sits decides what it
protects: as `[sources.NAME.mask]` it is burned into every picture before anything else of the agent has it (gates,
models, cache, snapshots, recordings of recent input, events); as a `[[pre]]` step it only keeps its model from
looking there. Refuses masks that would cover nothing, and boxes that do not lie in the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np

from agent.errors import ConfigError
from agent.records import Array, View
from agent.strict import Range
from pipelines.geometry import Point, Polygon, area, cover
from pipelines.pixels import Box, Unit, check_box, extent_px, pixel_box

Corners = Annotated[tuple[Point, ...], Range(3, 64)]


@dataclass(frozen=True, slots=True)
class Mask:
    """Paints boxes and polygons over: what they cover reaches no model, no cache and no event of this pipeline.

    To keep it from snapshots and recordings too, give the source the mask: [sources.NAME.mask].
    """

    boxes: Annotated[tuple[Box, ...], Range(0, 64)] = ()
    """Each [left, top, right, bottom]."""
    polygons: Annotated[tuple[Corners, ...], Range(0, 64)] = ()
    """Each a list of corners [x, y]; every pixel that one touches is painted."""
    unit: Unit = "px"
    """Pixels of the view that the step gets, or fractions of it."""
    fill: Annotated[int, Range(0, 255)] = 0
    """Grey level that is painted."""

    def __post_init__(self) -> None:
        if not self.boxes and not self.polygons:
            raise ValueError("give 'boxes' or 'polygons': this mask covers nothing")
        for box in self.boxes:
            check_box(box, self.unit)
        check_polygons(self.polygons, 1.0 if self.unit == "fraction" else None)

    def __call__(self, view: View, /) -> View:
        extent = extent_px(view, "mask")
        boxes = [pixel_box(box, self.unit, extent, "mask") for box in self.boxes]
        shapes = tuple(_in_pixels(polygon, self.unit, extent) for polygon in self.polygons)
        painted = np.array(view.data)
        for cell in painted if view.cells else (painted,):
            for left, top, right, bottom in boxes:
                cell[top:bottom, left:right] = self.fill
            _cover(cell, shapes, self.fill)
        return view.of(painted)


def paint(image: Array, polygons: tuple[Polygon, ...], fill: int) -> Array:
    """A picture, uint8 [height, width] or [height, width, 3], with polygons painted over; in place where it can be.

    `polygons` in fractions of the picture, so that a camera that changes its resolution is masked in the same places.
    """
    height, width = image.shape[:2]
    painted = image if image.flags.writeable else np.array(image)
    _cover(painted, tuple(_in_pixels(polygon, "fraction", (width, height)) for polygon in polygons), fill)
    return painted


def check_polygons(polygons: Sequence[Polygon], most: float | None) -> None:
    """Raises ValueError unless each has an area and lies within 0 .. `most`."""
    for polygon in polygons:
        numbers = [number for corner in polygon for number in corner]
        if min(numbers) < 0 or (most is not None and max(numbers) > most):
            limits = "from 0" if most is None else f"from 0 to {most:g}"
            raise ValueError(f"polygon {[list(corner) for corner in polygon]} must have corners [x, y] {limits}")
        if area(polygon) == 0:
            raise ValueError(f"polygon {[list(corner) for corner in polygon]} has no area: it would cover nothing")


def _in_pixels(polygon: Polygon, unit: str, extent: tuple[int, int]) -> Polygon:
    width, height = extent
    if unit == "fraction":
        return tuple((x * width, y * height) for x, y in polygon)
    if max(x for x, _ in polygon) > width or max(y for _, y in polygon) > height:
        corners, picture = [list(corner) for corner in polygon], f"{width}x{height} pixels"
        raise ConfigError(f"step 'mask': polygon {corners} lies outside a picture of {picture}: correct it")
    return polygon


def _cover(image: Array, polygons: tuple[Polygon, ...], fill: int) -> None:
    height, width = image.shape[:2]
    for row, start, end in _runs(polygons, width, height):
        image[row, start:end] = fill


@lru_cache(maxsize=16)
def _runs(polygons: tuple[Polygon, ...], width: int, height: int) -> tuple[tuple[int, int, int], ...]:
    """What the polygons touch as runs of pixels (row, start, end): painting them is far faster than by a mask."""
    touched = np.zeros((height, width + 2), np.int8)
    for polygon in polygons:
        touched[:, 1:-1] |= cover(polygon, width, height)
    steps = np.diff(touched, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    return tuple(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
