"""One model tried on a few views: what it found, what it was fed, how long each stage took.

Goes the agent's own way (`agent.inference`), and keeps what people want to see besides: the map of classes laid over
the source picture, the zones and lines of the model's steps, the tensor that the first view became.
"""

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.drawing.picture import Scene, Shape, Tint
from agent.feed import Feed
from agent.inference import Inference, Inferred
from agent.manifest import Manifest
from agent.records import Array, Finding, View
from agent.runtime import Runner, dequantise
from agent.tryout.nearest import Nearest
from pipelines import make_step
from pipelines.boxes import picture_size
from pipelines.segment import class_map

_MOST_PX = 1600
_KEPT_VIEWS = 8
"""Views that are remembered, at most and spread over the stream."""
_SMALL_NUMBERS, _FED_SMALL_VIEWS = 1 << 16, 400
"""Sounds often begin with silence: of views with fewer numbers than this, so many are searched for `Tryout.fed`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A view and what the model made of it."""

    view: View
    inferred: Inferred


Found = tuple[float | None, Finding]
"""A finding and when its view began, stream seconds; none: at the end of the input."""


class Tryout:
    """A stream of views through a model: all findings and times are remembered, and a few views themselves."""

    def __init__(self, manifest: Manifest, runner: Runner) -> None:
        """Raises ModelError on a wrong step."""
        self.manifest, self.runner = manifest, runner
        self.count = 0
        """Views so far."""
        self.kept: list[Seen] = []
        """Some of them, evenly spread; the first is always among them."""
        self.fed: dict[str, Array] = {}
        """The raw tensors, by port, of that one of the first views in which most happens."""
        self.fed_of: View | None = None
        """The view that became them."""
        self.found: list[Found] = []
        self.nearest = Nearest(manifest)
        """As long as nothing is found: the best of what was not enough."""
        self._stride = 1
        self._times_ms: list[dict[str, float]] = []
        self._inference = Inference(manifest, runner)

    def look(self, view: View) -> Seen:
        """Run one view. Raises ModelError."""
        one = Seen(view, self._inference(view))
        self._keep(one)
        if self.count < (_FED_SMALL_VIEWS if view.data.size < _SMALL_NUMBERS else _KEPT_VIEWS):
            self._keep_fed(view)
        self.count += 1
        self._times_ms.append(dict(one.inferred.timings_ms))
        self.found += [(view.t0_s, finding) for finding in one.inferred.findings]
        if not self.found:
            self.nearest.look(self.real_outputs(one), self._made(view)[self.manifest.feeds[0].name][1])
        return one

    def _keep(self, one: Seen) -> None:
        """Keep every so many views; when there are enough, every other one goes and the step doubles."""
        if self.count % self._stride:
            return
        if len(self.kept) == _KEPT_VIEWS:
            self.kept, self._stride = self.kept[::2], 2 * self._stride
        if self.count % self._stride == 0:
            self.kept.append(one)

    def _keep_fed(self, view: View) -> None:
        fed = {port: tensor for port, (tensor, _) in self._made(view).items()}
        if self.fed_of is None or _variety(fed) > _variety(self.fed):
            self.fed, self.fed_of = fed, view

    def finish(self) -> None:
        """The input is over: what was still open is found."""
        self.found += [(None, finding) for finding in self._inference.finish()]

    @property
    def remembers(self) -> bool:
        """Whether what it says of a view depends on the views before."""
        return bool(self.manifest.states or self.manifest.post)

    def real_outputs(self, seen: Seen) -> dict[str, Array]:
        """The outputs as real values, by port."""
        return {port.name: dequantise(seen.inferred.outputs[port.name], port) for port in self.runner.outputs}

    def median_ms(self) -> dict[str, float]:
        """The median of each stage over all views but the first, which warms up."""
        rows = self._times_ms[1:] or self._times_ms
        return {stage: statistics.median(row.get(stage, 0.0) for row in rows) for stage in ("pre", "run", "post")}

    def scene(self, seen: Seen, caption: str = "") -> Scene:
        """What is drawn besides the findings of a picture."""
        return Scene(self.manifest.labels, self._tint(seen), _shapes(self.manifest), caption)

    def _tint(self, seen: Seen) -> Tint | None:
        decoder = self.manifest.decoder or {}
        if decoder.get("step") != "segments":
            return None
        outputs = self.real_outputs(seen)
        port = outputs[decoder.get("output") or next(iter(outputs))]
        numbers, _ = class_map(port, decoder.get("form", "numbers"), decoder.get("activation", "none"))
        _, fed = next(iter(self._made(seen.view).values()))
        return Tint(over_source(numbers, fed), self.manifest.labels)

    def _made(self, view: View) -> dict[str, tuple[Array, View]]:
        """Each fed port's tensor (that of the first cell), and the view as its steps left it."""
        first = self.manifest.feeds[0].name
        made = {}
        for port in self.runner.inputs:
            if port.name not in {feed.name for feed in self.manifest.feeds}:
                continue
            tables = [table for table in self.manifest.pre if table.get("input", first) == port.name]
            steps = tuple(_pre(table, str(self.manifest)) for table in tables)
            fed = Feed(port, steps)(view)
            made[port.name] = (fed.tensors[0], fed.view)
        return made


def over_source(numbers: Array, view: View) -> Array:
    """A map of the model's picture, int [rows, columns], as a map of the source picture; -1 where it says nothing.

    `view`: as the steps left it, with the way back to the source.
    """
    wide, high = view.size
    factor = min(1.0, _MOST_PX / max(wide, high))
    picture = picture_size(view)
    places = []
    for axis, (size, points) in enumerate(((wide, numbers.shape[1]), (high, numbers.shape[0]))):
        source = (np.arange(max(1, round(size * factor))) + 0.5) / factor
        at = np.floor((source - view.offset[axis]) / view.scale[axis] / picture[axis] * points).astype(np.int64)
        places.append(np.where((at >= 0) & (at < points), at, -1))
    columns, rows = places
    laid: Array = numbers[np.ix_(rows, columns)].astype(np.int64)
    laid[rows < 0] = -1
    laid[:, columns < 0] = -1
    return laid


def _variety(fed: dict[str, Array]) -> int:
    """How many different numbers there are: silence and black pictures have few."""
    return sum(len(np.unique(tensor)) for tensor in fed.values())


def _pre(table: Any, where: str) -> Any:
    return make_step("pre", {key: value for key, value in table.items() if key != "input"}, where)


def _shapes(manifest: Manifest) -> tuple[Shape, ...]:
    made = []
    for table in manifest.post:
        for zone in table.get("zone", ()) if table.get("step") == "zones" else ():
            made.append(Shape(zone["name"], tuple((x, y) for x, y in zone["polygon"]), closed=True))
        for line in table.get("line", ()) if table.get("step") == "lines" else ():
            made.append(Shape(line["name"], (tuple(line["start"]), tuple(line["end"])), closed=False))
    return tuple(made)
