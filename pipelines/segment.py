"""Decoder of segmentation: a class for every point of a picture -> how much of it each class covers, and where.

Owns `segments` and `class_map`. The map may be smaller or larger than the picture that the model saw; what a letterbox
added around the source does not count. Refuses maps that do not fit the labels, and scores that are not finite.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.boxes import picture_size, to_source
from pipelines.image import regions
from pipelines.outputs import Activation, Share, activated, chosen, need_finite

Form = Literal["numbers", "scores", "scores_first"]
_STEP = "segments"
_MOST_CLASSES = 65_535


@dataclass(frozen=True, slots=True)
class Segments:
    """One finding per class that covers enough of the picture, largest first: its value is the share, 0 to 1.

    The box spans the whole class, or each connected region when `regions` asks for them (the value is then the region's
    own share). The score is the mean certainty over the points; 1 for a map of class numbers.
    """

    output: str = ""
    """Port to read; the first one when empty."""
    form: Form = "numbers"
    """numbers: a class number for every point [rows, columns]; scores: one per class, [rows, columns, classes], or
    [classes, rows, columns]. A single score per point means yes or no, yes from 0.5 on."""
    activation: Activation = "none"
    """What brings scores to 0..1 when the graph does not."""
    skip: Annotated[tuple[str, ...], Range(0, 1000)] = ("background",)
    """Labels that are not told."""
    min_share: Share = 0.005
    """What covers less of the picture is not told."""
    regions: Annotated[int, Range(0, 100)] = 0
    """Tell so many connected regions of each class, the largest; 0: each class as a whole."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        if view.cells:
            raise ModelError(f"decoder '{_STEP}' reads whole pictures: leave the step 'cells' out")
        whole, certainty = class_map(outputs[chosen(outputs, self.output, _STEP)], self.form, self.activation)
        if not whole.size:
            raise ModelError(f"decoder '{_STEP}': the map of shape {list(whole.shape)} is empty: correct the output")
        rows, columns = _of_the_source(whole.shape, view)
        numbers, sure = whole[rows, columns], None if certainty is None else certainty[rows, columns]
        size = picture_size(view) if view.data.ndim > 1 else whole.shape[::-1]
        grain, corner = np.array(size * 2) / (whole.shape[::-1] * 2), np.array((columns.start, rows.start) * 2)
        found = []
        for number, label in self._named(numbers, labels):
            for mask, share, box in self._areas(numbers == number):
                left, top, right, bottom = to_source(((box + corner) * grain)[None], view)[0].tolist()
                score = 1.0 if sure is None else float(sure[mask].mean())
                found.append(Finding(label, score, (left, top, right, bottom), value=share, unit="1"))
        return tuple(sorted(found, key=lambda f: -float(f.value or 0)))

    def _named(self, numbers: Array, labels: tuple[str, ...]) -> list[tuple[int, str]]:
        """The classes of a map that are told, with their labels; numbers beyond the labels (borders) are not."""
        counted = np.bincount(numbers.ravel() + 1)[1:]  # far faster than a sort of all points; -1 is no class
        large = np.flatnonzero(counted >= max(1.0, self.min_share * numbers.size)).tolist()
        named = [(n, labels[n] if labels else str(n)) for n in large if n < len(labels) or not labels]
        return [(n, label) for n, label in named if label not in self.skip]

    def _areas(self, mask: Array) -> list[tuple[Array, float, Array]]:
        """What is told of a class: masks over the same points with their shares and boxes, int [4]."""
        if not self.regions:
            x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            areas = [(mask, np.array((x[0], y[0], x[-1] + 1, y[-1] + 1)))]
        else:
            numbered, boxes = regions(mask, self.regions)
            areas = [(numbered == i + 1, np.array(box)) for i, box in enumerate(boxes)]
        shares = [(area, np.count_nonzero(area) / area.size, box) for area, box in areas]
        return [(area, share, box) for area, share, box in shares if share >= self.min_share]


def class_map(port: Array, form: Form, activation: Activation) -> tuple[Array, Array | None]:
    """The class number of every point, int [rows, columns], and how certain it is, float64, unless it is not told.

    Raises ModelError when the port is no map of that form.
    """
    array = port[0] if port.ndim > 2 and port.shape[0] == 1 else port
    if form == "numbers":
        array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        if array.ndim != 2:
            raise ModelError(f"decoder '{_STEP}': an output of shape {list(port.shape)} is no map: choose another form")
        need_finite(array, _STEP)
        return array.clip(-1, _MOST_CLASSES).astype(np.int32), None
    if array.ndim != 3:
        raise ModelError(f"decoder '{_STEP}': an output of shape {list(port.shape)} has no scores: choose another form")
    need_finite(array, _STEP)
    scores = activated(array if form == "scores" else np.moveaxis(array, 0, -1), activation)
    if scores.shape[2] == 1:
        scores = np.concatenate([1 - scores, scores], axis=2)
    return scores.argmax(axis=2), scores.max(axis=2)


def _of_the_source(shape: tuple[int, ...], view: View) -> tuple[slice, slice]:
    """Rows and columns of a map of `shape` that show the source, at least one of each."""
    if view.size == (0, 0):
        return slice(0, shape[0]), slice(0, shape[1])
    made = []
    for axis in (1, 0):
        points = shape[1 - axis] / picture_size(view)[axis]
        low = (0 - view.offset[axis]) / view.scale[axis] * points
        high = (view.size[axis] - view.offset[axis]) / view.scale[axis] * points
        start = min(max(round(low), 0), shape[1 - axis] - 1)
        made.append(slice(start, max(start + 1, min(round(high), shape[1 - axis]))))
    return made[0], made[1]
