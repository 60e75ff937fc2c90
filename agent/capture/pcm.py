"""Raw audio bytes of any width, rate and channel count become int16 mono chunks at one rate.

16-bit mono at the wanted rate passes bit for bit. Values that are no numbers become silence and are counted.
"""

import numpy as np
import numpy.typing as npt

from agent.capture.resample import Floats, Resampler
from agent.settings.capture import Encoding, Mix, PcmFormat

Pcm16 = npt.NDArray[np.int16]

WIDTH_BYTES: dict[Encoding, int] = {
    "u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8, "alaw": 1, "mulaw": 1,
}  # fmt: skip


def decode(raw: bytes | bytearray | memoryview, encoding: Encoding) -> npt.NDArray[np.float64]:
    """Bytes -> float64 [n], full scale at 1. Telephone codes after ITU-T G.711."""
    match encoding:
        case "u8":
            return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
        case "s16le":
            return np.frombuffer(raw, "<i2") / 32768.0
        case "s24le":
            wide = np.zeros((len(raw) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
            return wide.view("<i4")[:, 0] / 2147483648.0
        case "s32le":
            return np.frombuffer(raw, "<i4") / 2147483648.0
        case "f32le":
            return np.frombuffer(raw, "<f4").astype(np.float64)
        case "f64le":
            return np.frombuffer(raw, "<f8").astype(np.float64)
        case "alaw":
            return _ALAW[np.frombuffer(raw, np.uint8)]
        case "mulaw":
            return _MULAW[np.frombuffer(raw, np.uint8)]


class ToMono:
    """A stream of bytes in one PCM format -> int16 mono at `rate_hz`, in chunks of `chunk` samples."""

    def __init__(self, pcm: PcmFormat, channel: Mix, rate_hz: int, chunk: int) -> None:
        """Raises ValueError when `channel` does not exist or the rates cannot be converted."""
        if channel != "mix" and channel >= pcm.channels:
            raise ValueError(f"channel {channel} does not exist: the sound has {pcm.channels}, counted from 0")
        self._pcm = pcm
        self._channel = channel
        self._frame_bytes = pcm.channels * WIDTH_BYTES[pcm.encoding]
        self._resampler = Resampler(pcm.rate_hz, rate_hz)
        self._chunk = chunk
        self._rest = b""
        self._ready = np.zeros(0, np.int16)
        self.not_a_number = 0
        """Values that were NaN or infinite."""

    def push(self, raw: bytes) -> list[Pcm16]:
        """Give bytes, cut anywhere; get the chunks that are full."""
        raw = self._rest + raw
        whole = len(raw) - len(raw) % self._frame_bytes
        self._rest = raw[whole:]
        return self._cut(self._resampler.push(self._mono(raw[:whole])))

    def flush(self) -> list[Pcm16]:
        """The end of the sound: the last chunks, the very last one possibly shorter. Half a frame is dropped."""
        chunks = self._cut(self._resampler.flush())
        if len(self._ready):
            chunks.append(self._ready)
            self._ready = np.zeros(0, np.int16)
        return chunks

    def _mono(self, raw: bytes) -> Floats:
        x = decode(raw, self._pcm.encoding).reshape(-1, self._pcm.channels)
        bad = ~np.isfinite(x)
        if bad.any():
            self.not_a_number += int(bad.sum())
            x = np.where(bad, 0.0, x)
        mono = x.mean(axis=1) if self._channel == "mix" else x[:, self._channel]
        return mono.astype(np.float32)

    def _cut(self, x: Floats) -> list[Pcm16]:
        scaled = np.clip(np.rint(x.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
        ready = np.concatenate([self._ready, scaled])
        full = len(ready) - len(ready) % self._chunk
        self._ready = ready[full:]
        return [chunk.copy() for chunk in ready[:full].reshape(-1, self._chunk)]


def _alaw() -> npt.NDArray[np.float64]:
    code = np.arange(256) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, code & 15
    size = np.where(exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, size, -size) / 4096


def _mulaw() -> npt.NDArray[np.float64]:
    code = ~np.arange(256) & 0xFF
    exponent, mantissa = (code >> 4) & 7, code & 15
    size = ((2 * mantissa + 33) << exponent) - 33
    return np.where(code & 0x80, -size, size) / 8192


_ALAW = _alaw()
_MULAW = _mulaw()
