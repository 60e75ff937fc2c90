"""Mel bands, tapers and cosine tables: the constants of speech front ends, as pure functions.

Sources: HTK mel 2595 log10(1 + f / 700), cosine transform and lifter, Young et al., The HTK Book 3.4, sections 5.4
to 5.6; Slaney's mel scale and filter areas, Auditory Toolbox, Interval Research TR 1998-010; the weights over mel are
those of TensorFlow's tf.signal.linear_to_mel_weight_matrix; the taper "povey" is Kaldi's.
"""

from functools import lru_cache
from typing import Literal

import numpy as np

from agent.records import Array

Taper = Literal["hann_periodic", "hann_symmetric", "hamming_periodic", "hamming_symmetric", "povey", "rectangular"]
MelScale = Literal["htk", "slaney"]
MelSlope = Literal["mel", "hz"]
MelNorm = Literal["none", "slaney"]
DctNorm = Literal["htk", "ortho", "none"]


def taper(name: Taper, length: int) -> Array:
    """The window function, float64 [length]; the period is `length` samples, one less for symmetric ones."""
    if name == "rectangular":
        return np.ones(length)
    period = length if name.endswith("periodic") else max(1, length - 1)
    low, high = (0.54, 0.46) if name.startswith("hamming") else (0.5, 0.5)
    curve = low - high * np.cos(2 * np.pi * np.arange(length) / period)
    return curve**0.85 if name == "povey" else curve


def mel_weights(
    rate_hz: int, fft_length: int, bands: int, ends_hz: tuple[float, float],
    *, scale: MelScale = "htk", slope: MelSlope = "mel", norm: MelNorm = "none",
) -> Array:  # fmt: skip
    """Triangles that weigh spectrum bins into mel bands, float64 [fft_length // 2 + 1, bands].

    `slope`: whether their sides are straight over mel (TensorFlow, Kaldi) or over Hz (librosa, torchaudio);
    `norm` "slaney": equal areas, 2 / width in Hz.
    """
    hz = np.linspace(0, rate_hz / 2, fft_length // 2 + 1)
    to_mel, to_hz = (_htk, _htk_hz) if scale == "htk" else (_slaney, _slaney_hz)
    low, high = to_mel(np.array(ends_hz))
    edges: Array = np.linspace(low, high, bands + 2)
    edges_hz = to_hz(edges)
    x, at = (to_mel(hz), edges) if slope == "mel" else (hz, edges_hz)
    rising = (x[:, None] - at[:-2]) / (at[1:-1] - at[:-2])
    falling = (at[2:] - x[:, None]) / (at[2:] - at[1:-1])
    weights: Array = np.maximum(0, np.minimum(rising, falling))
    return weights * (2 / (edges_hz[2:] - edges_hz[:-2])) if norm == "slaney" else weights


@lru_cache(maxsize=32)
def cosines(size: int, kept: int, norm: DctNorm, lifter: float = 0.0) -> Array:
    """Type-II discrete cosine transform to the lowest `kept` coefficients, float32 [size, kept]."""
    k = np.arange(kept)
    table = np.cos(np.pi * np.outer(np.arange(size) + 0.5, k) / size)
    table *= 2 if norm == "none" else np.sqrt(2 / size)
    if norm == "ortho":
        table[:, 0] *= np.sqrt(0.5)
    if lifter:
        table *= 1 + lifter / 2 * np.sin(np.pi * k / lifter)
    return table.astype(np.float32)


def _htk(hz: Array) -> Array:
    return 2595 * np.log10(1 + hz / 700)


def _htk_hz(mel: Array) -> Array:
    return 700 * (10 ** (mel / 2595) - 1)


def _slaney(hz: Array) -> Array:
    """Straight up to 1 kHz (15 mel), then 27 steps per factor 6.4."""
    above = 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4)
    return np.where(hz < 1000, hz * 3 / 200, above)


def _slaney_hz(mel: Array) -> Array:
    above = 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27)
    return np.where(mel < 15, mel * 200 / 3, above)
