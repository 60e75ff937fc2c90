"""The few immutable types that cross the system.

`Sample` leaves a source, `View` is a sample (or a window of several) on its way to a model, `Finding` is what a
decoder saw, `Result` is one run of a pipeline on one view, `Draft` is what a rule asks to be told, `Event` is a
draft that the store has accepted. Times: `*_mono_s` counts from an arbitrary point and never jumps, `*_wall_s`
is seconds since 1970 UTC, and `t_s` is the position in the stream that the source delivers (media time in a recording).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]
"""Tensors in flight: port name -> array."""

Modality = Literal["image", "audio", "series", "tensor"]
ClockState = Literal["synced", "unsynced"]
CacheUse = Literal["miss", "exact", "similar"]
EventClass = Literal["critical", "routine"]


@dataclass(frozen=True, slots=True)
class Channel:
    """One quantity of a sensor: its name and its unit (UCUM code, "1" for a bare number)."""

    name: str
    unit: str = "1"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a source delivers.

    `data` is read-only. image: uint8 [height, width, 3] in BGR order, or [height, width] for grey. audio: int16 [n]
    mono, n samples at `rate_hz`. series: float64 [channels], one row, NaN for no reading. tensor: any array, given to
    the model as it is.
    """

    source: str
    seq: int
    """Counts from 0 everything the source produced, dropped samples included, so that every drop can be computed."""
    t_s: float
    """Start of the sample in the stream, seconds."""
    t_mono_s: float
    t_wall_s: float
    modality: Modality
    data: Array
    clock: ClockState = "unsynced"
    rate_hz: float = 0.0
    """Samples per second of audio or nominal rows per second of a series; 0 when unknown."""
    channels: tuple[Channel, ...] = ()
    gap: bool = False
    """True when something was lost between the previous sample of this source and this one."""
    replay: bool = False
    """True when it comes from a recording."""


@dataclass(frozen=True, slots=True)
class View:
    """An array on its way to a model, with the way back to its source.

    For images a point (x, y) of `data` lies at (x * scale[0] + offset[0], y * scale[1] + offset[1]) in source pixels.
    """

    data: Array
    t0_s: float = 0.0
    t1_s: float = 0.0
    rate_hz: float = 0.0
    size: tuple[int, int] = (0, 0)
    """Width and height of the source image, pixels."""
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    channels: tuple[Channel, ...] = ()
    gap: bool = False
    cells: tuple[tuple[float, float, float, float], ...] = ()
    """When not empty, `data` holds one array per cell along its first axis; each is run alone, and the decoder sees the
    outputs stacked in this order. The boxes are x1, y1, x2, y2 in source pixels."""

    def of(self, data: Array) -> "View":
        """This view of other data: `dataclasses.replace` at a tenth of its price, which every picture pays."""
        return View(
            data, self.t0_s, self.t1_s, self.rate_hz, self.size, self.scale, self.offset, self.channels, self.gap,
            self.cells,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a decoder saw. `box` is x1, y1, x2, y2 in source pixels; `interval` is t0, t1 in stream seconds."""

    label: str
    score: float
    box: tuple[float, float, float, float] | None = None
    interval: tuple[float, float] | None = None
    value: float | str | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model said it: `sha256` is that of the artifact which ran, in hex."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Result:
    """One run of a pipeline on one view. `timings_ms` maps a stage (gate, pre, run, post) to milliseconds."""

    pipeline: str
    source: str
    seq: int
    t_s: float
    t_mono_s: float
    t_wall_s: float
    findings: tuple[Finding, ...]
    clock: ClockState = "unsynced"
    model: ModelRef | None = None
    cache: CacheUse = "miss"
    input_digest: str = ""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    replay: bool = False
    runs: int = 0
    """How often the model ran for it: 0 when the cache knew the answer, several times for a view with cells."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a rule or the agent itself asks to be told; the store turns it into an `Event`."""

    stream: str
    kind: str
    """appears, clears, crosses, counts, every, gap, alarm ..."""
    body: Mapping[str, Any]
    t_wall_s: float
    t_mono_s: float
    event_class: EventClass = "critical"
    clock: ClockState = "unsynced"
    replay: bool = False
    model: ModelRef | None = None
    pipeline: str = ""
    pipeline_digest: str = ""
    config_digest: str = ""
    input_digest: str = ""
    cache: CacheUse | None = None
    decided_by: str = ""
    """Which rule decided, as written in the pipeline."""
    media: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An accepted event. `id` is a UUIDv7; (`stream`, `seq`) is unique for the life of the device.

    `boot` names the process start.
    """

    id: str
    boot: str
    seq: int
    draft: Draft
