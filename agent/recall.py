"""The device's own memory of recent inputs: short clips, sealed, on which a candidate is compared before it hears live
ones.

Off unless [updates] ring_mb says otherwise, and then bounded by it: the oldest clip makes room. A clip is a run of
consecutive samples of one source, because rules look at several in a row. On disk a clip is deflated CBOR under the
store's key (AES-256-GCM; source and number bound); a file that was damaged, moved or sealed under another key is passed
over. Written sparsely and without a flush: a clip that a power cut takes is no loss. No clip leaves the device.
"""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from agent import cbor
from agent.envelope.message import Zip
from agent.envelope.squeeze import expand, squeeze
from agent.errors import EnvelopeError
from agent.inbox import Inbox
from agent.records import Channel, Sample

log = logging.getLogger(__name__)

TURN_S: Final = 1.0
"""Longest wait before a recorder looks at `stop`, seconds."""
CLIP_SHARE: Final = 8
"""A clip takes at most this fraction of the room, before it is deflated: several sources and times of day fit."""
HEAD_BYTES: Final = 512
"""Allowed for everything but the data, per sample."""
INBOX: Final = 16
"""Samples that may wait for a recorder while it writes."""
_NAME: Final = re.compile(r"(.+)-(\d{10})\.clip")
_CONTEXT: Final = "limpet-recall-v1"


class Cipher(Protocol):
    """What seals and opens: the store's key."""

    def seal(self, plain: bytes, aad: bytes) -> bytes: ...
    def open(self, sealed: bytes, aad: bytes) -> bytes: ...


class Clips:
    """The clips on the disk, of all sources."""

    def __init__(self, folder: Path, cipher: Cipher, limit_bytes: int) -> None:
        """`limit_bytes`: room for all clips together."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._cipher = cipher
        self._lock = threading.Lock()
        self._written = 0

    @property
    def clip_bytes(self) -> int:
        """Room for the data of one clip, bytes."""
        return self.limit_bytes // CLIP_SHARE

    def keep(self, source: str, samples: list[Sample]) -> None:
        """Write a clip and make room for it. Raises OSError."""
        plain = squeeze(cbor.encode([_written(sample) for sample in samples]), Zip.DEFLATE_RAW)
        with self._lock:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = 1 + max((number for _, _, number in self._files()), default=0)
            sealed = self._cipher.seal(plain, _bound(source, number))
            self._make_room(len(sealed))
            fresh = self.folder / "clip.new"
            fresh.write_bytes(sealed)
            fresh.chmod(0o600)
            fresh.rename(self.folder / f"{source}-{number:010d}.clip")
            self._written += len(sealed)

    def of(self, source: str) -> Iterator[list[Sample]]:
        """Every clip of `source` that can be opened, the oldest first."""
        for path, name, number in self._files():
            if name != source:
                continue
            try:
                plain = self._cipher.open(path.read_bytes(), _bound(source, number))
                yield _samples(source, expand(plain, Zip.DEFLATE_RAW, 2 * self.clip_bytes + (1 << 20)))
            except (OSError, EnvelopeError, ValueError, KeyError, TypeError) as exc:
                log.warning("clip=%s passed over: %s", path.name, exc)

    def numbers(self) -> dict[str, float]:
        """What lies there now, and what was written since the start."""
        held = [path.stat().st_size for path, _, _ in self._files()]
        return {"clips": len(held), "held_bytes": sum(held), "written_bytes": self._written}

    def _files(self) -> list[tuple[Path, str, int]]:
        return _clips(self.folder)

    def _make_room(self, size_bytes: int) -> None:
        files = [(path, path.stat().st_size) for path, _, _ in self._files()]
        held = sum(size for _, size in files)
        for path, size in files:
            if held + size_bytes <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            held -= size


@dataclass(slots=True)
class Recorder:
    """Body of a lane that now and then keeps a clip of one source."""

    source: str
    clips: Clips
    every_s: float
    clip_s: float
    mono_s: Callable[[], float]
    inbox: Inbox = field(default_factory=lambda: Inbox(INBOX, "drop_oldest"))
    _held: list[Sample] = field(default_factory=list)
    _held_bytes: int = 0
    _due_s: float = 0.0

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Take samples until `stop` or the end of the recording."""
        while not stop.is_set():
            beat()
            sample = self.inbox.get(TURN_S)
            if sample is not None:
                self.take(sample)
            elif self.inbox.closed:
                return

    def take(self, sample: Sample) -> None:
        """Look at one sample; a gap ends a clip, since what follows it is not consecutive."""
        if not self._held and self.mono_s() < self._due_s:
            return
        size = sample.data.nbytes + HEAD_BYTES
        over = self._held and (
            sample.gap
            or sample.t_s - self._held[0].t_s >= self.clip_s
            or self._held_bytes + size > self.clips.clip_bytes
        )
        if over:
            self._close()
            return
        if size <= self.clips.clip_bytes:
            self._held.append(sample)
            self._held_bytes += size

    def _close(self) -> None:
        samples, self._held, self._held_bytes = self._held, [], 0
        self._due_s = self.mono_s() + self.every_s
        try:
            self.clips.keep(self.source, samples)
        except OSError as exc:
            log.warning("source=%s clip not kept: %s: look at the disk of %s", self.source, exc, self.clips.folder)


def forget(folder: Path) -> None:
    """Remove every clip: what is switched off is not kept either."""
    for path, _, _ in _clips(folder):
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("clip=%s not removed: %s", path, exc)


def _clips(folder: Path) -> list[tuple[Path, str, int]]:
    """Path, source and number of each clip, the oldest first."""
    found = ((path, _NAME.fullmatch(path.name)) for path in folder.glob("*.clip"))
    named = [(path, match[1], int(match[2])) for path, match in found if match]
    return sorted(named, key=lambda one: one[2])


def _bound(source: str, number: int) -> bytes:
    return f"{_CONTEXT}\0{source}\0{number}".encode()


def _written(sample: Sample) -> dict[str, Any]:
    data = np.ascontiguousarray(sample.data)
    return {
        "seq": sample.seq, "t": sample.t_s, "mono": sample.t_mono_s, "wall": sample.t_wall_s,
        "modality": sample.modality, "dtype": data.dtype.str, "shape": list(data.shape), "data": data.tobytes(),
        "clock": sample.clock, "rate": sample.rate_hz, "gap": sample.gap,
        "channels": [[one.name, one.unit] for one in sample.channels],
    }  # fmt: skip


def _samples(source: str, plain: bytes) -> list[Sample]:
    """Undo `_written`; the first one carries a gap, since nobody knows what came before it."""
    made = [_sample(source, entry) for entry in cbor.decode(plain, "clip")]
    return [replace(made[0], gap=True), *made[1:]] if made else []


def _sample(source: str, entry: Mapping[str, Any]) -> Sample:
    data = np.frombuffer(entry["data"], np.dtype(entry["dtype"])).reshape(entry["shape"])
    return Sample(
        source, entry["seq"], float(entry["t"]), float(entry["mono"]), float(entry["wall"]), entry["modality"], data,
        entry["clock"], float(entry["rate"]), tuple(Channel(*pair) for pair in entry["channels"]), entry["gap"],
        replay=True,
    )  # fmt: skip
