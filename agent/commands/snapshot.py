"""snapshot: one picture, clip or window of a source, now, sent as an event that only the device's readers can open.

Off unless [commands] snapshot says so. A shutter stands among the inboxes of each source's lane and lets everything
pass until it is opened; then it keeps what was asked for, within `MEDIA_BYTES`, and closes again.
"""

import base64
import math
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import numpy as np

from agent.commands.table import Move, Operation
from agent.errors import CommandError
from agent.inbox import Inbox
from agent.journal import Command
from agent.records import Draft, Sample
from agent.settings.names import AnyName
from agent.strict import Range

MEDIA_BYTES: Final = 72 * 1024
"""Largest media before base64, bytes: with it an event stays within [store] event_kib = 128."""
STREAM: Final = "snapshot"
WAIT_S: Final = 60.0
"""How long a source may take to deliver, seconds."""
_QUALITIES: Final = (85, 70, 55, 40, 25)
_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")


@dataclass(frozen=True, slots=True)
class SnapshotArgs:
    """snapshot: what to take."""

    source: AnyName
    """Name of the [sources.<name>] table; a pipeline must look at it."""
    seconds: Annotated[float, Range(0.1, 10)] = 2.0
    """Length of a clip of sound or of a window of rows, seconds; less when more does not fit."""
    width: Annotated[int, Range(16, 1920)] = 640
    """Largest width of a picture, pixels."""


class Shutter(Inbox):
    """An inbox that keeps nothing until it is opened."""

    def __init__(self) -> None:
        super().__init__(1, "drop_oldest")
        self._guard = threading.Lock()
        self._wanted_s = 0.0
        self._kept: list[Sample] | None = None
        self._bytes = 0

    def open(self, seconds: float) -> None:
        """Keep what comes from now on. Raises CommandError when somebody else waits for it."""
        with self._guard:
            if self._kept is not None:
                raise CommandError("another snapshot of this source is under way: try again", "REJECTED_BUSY")
            self._kept, self._wanted_s, self._bytes = [], seconds, 0

    def shut(self) -> None:
        """Nothing is wanted any more."""
        with self._guard:
            self._kept = None

    def put(self, sample: Sample, timeout_s: float = 0.0) -> bool:
        """Never makes the source wait."""
        with self._guard:
            if self._kept is not None and not self._complete():
                self._kept.append(sample)
                self._bytes += sample.data.nbytes
        return True

    def taken(self) -> list[Sample] | None:
        """What was asked for, once it is complete; then the shutter is closed."""
        with self._guard:
            if not self._kept or not self._complete():
                return None
            kept, self._kept = self._kept, None
            return kept

    def _complete(self) -> bool:
        if not self._kept:
            return False
        first, last = self._kept[0], self._kept[-1]
        if first.modality in ("image", "tensor"):
            return True
        length_s = len(last.data) / last.rate_hz if last.modality == "audio" and last.rate_hz else 0.0
        return last.t_s + length_s - first.t_s >= self._wanted_s or self._bytes >= MEDIA_BYTES


@dataclass(slots=True)
class Snapshot:
    """The handler. `shutters`: one per source that is looked at; `accept` takes the event."""

    shutters: Mapping[str, Shutter]
    accept: Callable[[Draft], object]
    _under: dict[str, str] = field(default_factory=dict)
    """id -> source."""

    def begin(self, command: Command) -> Move | None:
        source = str(command.args["source"])
        if source not in self.shutters:
            known = ", ".join(sorted(self.shutters)) or "none"
            raise CommandError(f"no source {source} is looked at: there is {known}", "REJECTED_UNSUPPORTED")
        self.shutters[source].open(float(command.args.get("seconds", 2.0)))
        self._under[command.id] = source
        return None

    def follow(self, command: Command) -> Move | None:
        """The last move, once the source has delivered. Raises CommandError for what cannot be shown, StoreError."""
        source = self._under[command.id]
        samples = self.shutters[source].taken()
        if samples is None:
            return None
        del self._under[command.id]
        first = samples[0]
        shown = media(samples, int(command.args.get("width", 640)))
        body = {"request": command.id, "source": source, "by": command.by}
        self.accept(Draft(
            STREAM, "snapshot", body, first.t_wall_s, first.t_mono_s, clock=first.clock, replay=first.replay,
            media=shown,
        ))  # fmt: skip
        told = {"stream": STREAM, "source": source, "type": shown["type"], "t_wall_s": first.t_wall_s}
        return Move("successful", f"the event is on its way in e/{STREAM}", detail=told)

    def resume(self, command: Command) -> Move | None:
        return None

    def cancel(self, command: Command) -> bool:
        source = self._under.pop(command.id, None)
        if source is not None:
            self.shutters[source].shut()
        return True


def operation(shutters: Mapping[str, Shutter], accept: Callable[[Draft], object]) -> Operation:
    """It changes nothing on the device, and so runs beside other commands."""
    handler = Snapshot(shutters, accept)
    return Operation("technician", handler, SnapshotArgs, mutating=False, state_s={"executing": WAIT_S})


def media(samples: list[Sample], width: int) -> dict[str, Any]:
    """A picture as JPEG, sound as WAV, rows as numbers. Raises CommandError for a tensor."""
    first = samples[0]
    match first.modality:
        case "image":
            return _picture(first, width)
        case "audio":
            return _sound(samples)
        case "series":
            return _rows(samples)
    raise CommandError("this source delivers tensors: there is no picture of them", "REJECTED_UNSUPPORTED")


def _picture(sample: Sample, width: int) -> dict[str, Any]:
    """The best quality that fits; a picture full of noise is made smaller until it does."""
    from pipelines.image import jpeg  # OpenCV is loaded by who looks at pictures, and by nobody else

    while True:
        for quality in _QUALITIES:
            data, size = jpeg(sample.data, width, quality)
            if len(data) <= MEDIA_BYTES:
                about = {"type": "image/jpeg", "width": size[0], "height": size[1]}
                return about | {"base64": base64.b64encode(data).decode()}
        width = max(16, width // 2)


def _sound(samples: list[Sample]) -> dict[str, Any]:
    rate = round(samples[0].rate_hz) or 16000
    sound = np.concatenate([sample.data for sample in samples]).astype("<i2")[: (MEDIA_BYTES - _HEADER.size) // 2]
    data = _HEADER.pack(
        b"RIFF", 36 + sound.nbytes, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", sound.nbytes
    )
    about = {"type": "audio/wav", "rate_hz": rate, "seconds": round(len(sound) / rate, 3)}
    return about | {"base64": base64.b64encode(data + sound.tobytes()).decode()}


def _rows(samples: list[Sample]) -> dict[str, Any]:
    """Rows of numbers, the first ones that fit at 12 bytes a number; no reading is null."""
    channels = [[channel.name, channel.unit] for channel in samples[0].channels]
    most = max(1, MEDIA_BYTES // (12 * (1 + len(samples[0].data))))
    rows = [
        [round(sample.t_s, 6), *(None if math.isnan(value) else float(value) for value in sample.data)]
        for sample in samples[:most]
    ]
    return {"type": "rows", "channels": channels, "rows": rows}
