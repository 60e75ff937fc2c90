"""Reads WAV files, also those whose headers lie.

A recorder that lost power leaves sizes of 0 or 0xFFFFFFFF: then, and when a size reaches past the end of the file, the
sound is what is there, and the log says so. What cannot be true (no channels, no rate, no sound) is refused.
Formats: PCM 8 to 32 bit, IEEE float 32 and 64 bit, A-law, mu-law, plain, extensible and RF64.
"""

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.errors import CaptureError
from agent.settings.capture import Encoding, PcmFormat

log = logging.getLogger(__name__)

_ENCODINGS: dict[tuple[int, int], Encoding] = {
    (1, 1): "u8", (1, 2): "s16le", (1, 3): "s24le", (1, 4): "s32le", (3, 4): "f32le", (3, 8): "f64le",
    (6, 1): "alaw", (7, 1): "mulaw",
}  # fmt: skip
"""(format tag, bytes per value) -> encoding."""
_EXTENSIBLE = 0xFFFE
_UNKNOWN_SIZES = {0, 0xFFFFFFFF}
_MOST_CHUNKS = 1000


@dataclass(frozen=True, slots=True)
class Wav:
    """Where the sound lies in a WAV file and what its bytes mean."""

    pcm: PcmFormat
    start: int
    size: int
    """Bytes, whole frames only."""


def probe(path: Path) -> Wav:
    """Read the header of `path`. Raises CaptureError when there is no sound that could be played."""
    try:
        with path.open("rb") as file:
            return _probe(path, file, path.stat().st_size)
    except OSError as exc:
        raise CaptureError(f"{path}: cannot be read: {exc.strerror}") from exc
    except struct.error as exc:
        raise CaptureError(f"{path}: the WAV header is cut off: record it again") from exc


def blocks(path: Path, wav: Wav, block_bytes: int) -> Iterator[bytes]:
    """The sound of `path` in pieces of at most `block_bytes`. Raises CaptureError when the file shrinks or fails."""
    left = wav.size
    try:
        with path.open("rb") as file:
            file.seek(wav.start)
            while left:
                raw = file.read(min(left, block_bytes))
                if not raw:
                    raise CaptureError(f"{path}: became shorter while it was read: {left} bytes are missing")
                left -= len(raw)
                yield raw
    except OSError as exc:
        raise CaptureError(f"{path}: cannot be read: {exc.strerror}") from exc


def _probe(path: Path, file: BinaryIO, file_size: int) -> Wav:
    if file_size == 0:
        raise CaptureError(f"{path}: is empty (0 bytes): record it again")
    magic, _, kind = struct.unpack("<4sI4s", file.read(12))
    if magic not in (b"RIFF", b"RF64", b"BW64") or kind != b"WAVE":
        raise CaptureError(f"{path}: is no WAV file: convert it, e.g. ffmpeg -i IN -ac 1 -ar 16000 OUT.wav")
    pcm: PcmFormat | None = None
    long_size: int | None = None
    for _ in range(_MOST_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            break
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            return _data(path, pcm, file.tell(), long_size if long_size and size == 0xFFFFFFFF else size, file_size)
        body_at = file.tell()
        if name == b"fmt ":
            pcm = _format(path, file.read(min(size, 64)))
        elif name == b"ds64":
            long_size = struct.unpack("<QQ", file.read(16))[1]
        file.seek(body_at + size + size % 2)
    raise CaptureError(f"{path}: holds no sound (no data chunk): record it again")


def _format(path: Path, body: bytes) -> PcmFormat:
    tag, channels, rate_hz, _, frame_bytes, bits = struct.unpack("<HHIIHH", body[:16])
    if tag == _EXTENSIBLE:
        tag = struct.unpack("<H", body[24:26])[0]
    if not 1 <= channels <= 64:
        raise CaptureError(f"{path}: the header claims {channels} channels (1 to 64 make sense): record it again")
    if not 100 <= rate_hz <= 768_000:
        raise CaptureError(f"{path}: the header claims {rate_hz} samples per second (100 to 768000): record it again")
    width = frame_bytes // channels
    encoding = _ENCODINGS.get((tag, width))
    if encoding is None or frame_bytes % channels or not 0 < bits <= 8 * width:
        raise CaptureError(
            f"{path}: WAV format {tag} with {bits} bits in {frame_bytes} bytes for {channels} channels is not"
            " supported: convert it, e.g. ffmpeg -i IN -c:a pcm_s16le OUT.wav"
        )
    return PcmFormat(encoding=encoding, rate_hz=rate_hz, channels=channels)


def _data(path: Path, pcm: PcmFormat | None, start: int, claimed: int, file_size: int) -> Wav:
    if pcm is None:
        raise CaptureError(f"{path}: the sound comes before its format (no fmt chunk): record it again")
    there = file_size - start
    size = there if claimed in _UNKNOWN_SIZES or claimed > there else claimed
    if size != claimed:
        log.warning("wav=%s header claims %d bytes of sound, file holds %d: taking what is there", path, claimed, there)
    size -= size % _frame_bytes(pcm)
    if not size:
        raise CaptureError(f"{path}: holds no sound (0 samples): record it again")
    return Wav(pcm, start, size)


def _frame_bytes(pcm: PcmFormat) -> int:
    width = {encoding: width for (_, width), encoding in _ENCODINGS.items()}[pcm.encoding]
    return pcm.channels * width
