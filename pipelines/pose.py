"""Decoders of the pose of a single person: one finding per point of the body, and one for the whole.

Owns `keypoints` (the graph tells coordinates: MoveNet, BlazePose) and `heatmaps` (it tells how likely each point is
where, with or without offsets: PoseNet, arXiv:1803.08225 section 3, stacked hourglasses). A point is a box without
area, in source pixels; its label is the model's. Refuses outputs that do not fit the labels.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.boxes import picture_size, to_source
from pipelines.outputs import Activation, Share, activated, chosen, need_finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Posed:
    """What both decoders tell."""

    threshold: Share = 0.2
    """Points below this score are not told."""
    whole: str = "person"
    """Label of the finding that spans the points told: its score is their mean; empty: no such finding."""
    min_points: Annotated[int, Range(1, 1000)] = 5
    """With fewer points there is nobody, and nothing is told."""

    def told(self, points: Array, scores: Array, view: View, labels: tuple[str, ...], step: str) -> tuple[Finding, ...]:
        """Findings for points [n, 2], pixels of the model's picture, with scores [n]. Raises ModelError."""
        if labels and len(labels) != len(points):
            raise ModelError(f"decoder '{step}': {len(points)} points but {len(labels)} labels: correct the labels")
        if view.cells:
            raise ModelError(f"decoder '{step}' reads whole pictures: leave the step 'cells' out")
        need_finite(points, step)
        need_finite(scores, step)
        good = np.flatnonzero(scores >= self.threshold)
        if len(good) < self.min_points:
            return ()
        placed = to_source(points, view)
        found = tuple(
            Finding(labels[i] if labels else str(i), float(scores[i]), (*placed[i].tolist(), *placed[i].tolist()))
            for i in good
        )
        if not self.whole:
            return found
        low, high = placed[good].min(axis=0).tolist(), placed[good].max(axis=0).tolist()
        return (Finding(self.whole, float(scores[good].mean()), (*low, *high)), *found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keypoints(Posed):
    """A table of coordinates, [points, columns]; dimensions of size 1 around it do not matter."""

    output: str = ""
    """Port to read; the first one when empty."""
    scores: str = ""
    """Port of the scores, when they have their own."""
    columns: Annotated[tuple[Literal["x", "y", "score", "other"], ...], Range(2, 16)] = ("y", "x", "score")
    """What a row holds."""
    unit: Literal["fraction", "px"] = "fraction"
    """Of the model's picture."""
    activation: Activation = "none"
    """What brings the scores to 0..1 when the graph does not."""

    def __post_init__(self) -> None:
        if any(self.columns.count(name) != 1 for name in ("x", "y")) or self.columns.count("score") > 1:
            raise ValueError("columns must name x and y once, and score at most once")

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        port = outputs[chosen(outputs, self.output, "keypoints")]
        if port.size % len(self.columns):
            told = f"an output of shape {list(port.shape)} has no rows of {len(self.columns)} numbers"
            raise ModelError(f"decoder 'keypoints': {told}: correct the columns")
        table = port.reshape(-1, len(self.columns)).astype(np.float64)
        points = table[:, [self.columns.index("x"), self.columns.index("y")]]
        points = points * np.array(picture_size(view)) if self.unit == "fraction" else points
        return self.told(points, self._scores(outputs, table), view, labels, "keypoints")

    def _scores(self, outputs: Tensors, table: Array) -> Array:
        if self.scores:
            scores = outputs[chosen(outputs, self.scores, "keypoints")].ravel()
        elif "score" in self.columns:
            scores = table[:, self.columns.index("score")]
        else:
            return np.ones(len(table))
        if len(scores) != len(table):
            raise ModelError(f"decoder 'keypoints': {len(scores)} scores for {len(table)} points: name the right port")
        return activated(scores, self.activation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmaps(Posed):
    """A map of scores per point, [rows, columns, points] or [points, rows, columns]: the best place of each counts."""

    heatmaps: str = ""
    """Port to read; the first one when empty."""
    offsets: str = ""
    """Port of what is added to a place, pixels of the model's picture: twice as many channels, all y before all x."""
    channels: Literal["last", "first"] = "last"
    stride: Annotated[float, Range(0, 1024)] = 0.0
    """Pixels of the model's picture from place to place; 0: as many as fit, and places are the middles of cells."""
    activation: Activation = "none"
    """What brings the scores to 0..1 when the graph does not."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        maps = self._maps(outputs[chosen(outputs, self.heatmaps, "heatmaps")])
        high, wide, count = maps.shape
        best = maps.reshape(-1, count).argmax(axis=0)
        rows, columns = best // wide, best % wide
        scores = activated(maps[rows, columns, np.arange(count)], self.activation)
        points = self._places(rows, columns, picture_size(view), (wide, high))
        if self.offsets:
            points += self._shifts(outputs, rows, columns, maps.shape)
        return self.told(points, scores, view, labels, "heatmaps")

    def _places(self, rows: Array, columns: Array, size: tuple[int, int], grid: tuple[int, int]) -> Array:
        points = np.stack([columns, rows], axis=1).astype(np.float64)
        return points * self.stride if self.stride else (points + 0.5) * (np.array(size) / grid)

    def _shifts(self, outputs: Tensors, rows: Array, columns: Array, shape: tuple[int, ...]) -> Array:
        shift = self._maps(outputs[chosen(outputs, self.offsets, "heatmaps")])
        count = shape[2]
        if shift.shape != (*shape[:2], 2 * count):
            told = f"offsets of shape {list(shift.shape)} do not go with heatmaps of shape {list(shape)}"
            raise ModelError(f"decoder 'heatmaps': {told}: name the right port")
        each = np.arange(count)
        return np.stack([shift[rows, columns, count + each], shift[rows, columns, each]], axis=1)

    def _maps(self, port: Array) -> Array:
        array = port[0] if port.ndim == 4 and port.shape[0] == 1 else port
        if array.ndim != 3:
            raise ModelError(f"decoder 'heatmaps': an output of shape {list(port.shape)} holds no maps: name another")
        return array if self.channels == "last" else np.moveaxis(array, 0, -1)
