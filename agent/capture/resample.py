"""Changes the rate of a sound: streaming, polyphase, windowed sinc.

y[n] = sum_k x[k] h(n * M/L - k), with h a sinc cut at 0.94 of the lower Nyquist frequency under a Kaiser window of
beta 8 (80 dB) reaching 32 zero crossings to each side (Oppenheim and Schafer, "Discrete-Time Signal Processing",
4.6 and 7.5). Linear phase without delay: sample n of the output lies at n / rate_out of the input. Chunk borders are
exact: any way of cutting the input gives the same output, bit for bit.
"""

from fractions import Fraction

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_ZEROS = 32
_CUTOFF = 0.94
_BETA = 8.0
_MOST_TAPS = 4_000_000  # 16 MB of filter; only absurd pairs of rates come near


class Resampler:
    """From `rate_in` to `rate_out`; equal rates pass through untouched."""

    def __init__(self, rate_in: int, rate_out: int) -> None:
        """Rates in Hz. Raises ValueError for a pair whose filter would not fit in memory."""
        ratio = Fraction(rate_out, rate_in)
        self._up, self._down = ratio.numerator, ratio.denominator
        self._bank = _filter_bank(self._up, self._down)
        self._half = self._bank.shape[1] // 2
        self._held = np.zeros(self._half - 1, np.float32)
        self._held_from = 1 - self._half
        self._taken = 0
        self._made = 0

    def push(self, x: Floats) -> Floats:
        """Give float32 [n]; get every output sample that no longer depends on what is still to come."""
        if self._up == self._down:
            return x
        self._held = np.concatenate([self._held, x])
        self._taken += len(x)
        # output n reads inputs floor(n * M/L) - half + 1 ... floor(n * M/L) + half
        last = self._taken - 1 - self._half
        return self._make(max(self._made, last * self._up // self._down + 1 if last >= 0 else 0))

    def flush(self) -> Floats:
        """The rest, with silence behind the end: all in all ceil(samples in * rate_out / rate_in) samples."""
        if self._up == self._down:
            return np.zeros(0, np.float32)
        total = -(-self._taken * self._up // self._down)
        self._held = np.concatenate([self._held, np.zeros(self._half + 1, np.float32)])
        return self._make(total)

    def _make(self, until: int) -> Floats:
        n = np.arange(self._made, until, dtype=np.int64) * self._down
        if not len(n):
            return np.zeros(0, np.float32)
        first = n // self._up - self._half + 1 - self._held_from
        windows = np.lib.stride_tricks.sliding_window_view(self._held, 2 * self._half)[first]
        y = np.einsum("nk,nk->n", windows, self._bank[n % self._up])
        self._made = until
        self._forget(until)
        return np.asarray(y, np.float32)

    def _forget(self, until: int) -> None:
        """Drop inputs that no later output reads."""
        needed = until * self._down // self._up - self._half + 1
        self._held = self._held[needed - self._held_from :].copy()
        self._held_from = needed


def _filter_bank(up: int, down: int) -> Floats:
    """One row of taps per phase p: h at the distances p/L - j for j = -half+1 ... half. Gain 1 at 0 Hz."""
    wide = max(1.0, down / up)
    half = int(np.ceil(_ZEROS * wide))
    if up * 2 * half > _MOST_TAPS:
        raise ValueError(f"the ratio of the rates is {up}/{down}: a filter for it would not fit in memory")
    distance = np.arange(up)[:, None] / up - np.arange(-half + 1, half + 1)[None, :]
    scaled = distance / wide
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (scaled / _ZEROS) ** 2, 0, None))) / np.i0(_BETA)
    taps = np.sinc(scaled * _CUTOFF) * window
    return np.asarray(taps / taps.sum(axis=1, keepdims=True), np.float32)
