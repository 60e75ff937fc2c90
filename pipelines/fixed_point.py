"""The whole-number arithmetic of a speech front end for microcontrollers, on whole arrays.

Owns what must come out as models were trained on it, rounding included: a 16-bit Fourier transform, square root,
logarithm, and the curve of an automatic gain. Sources: the signal library of TensorFlow Lite for Microcontrollers (its
microfrontend) and the transform that it uses, KISS FFT with 16-bit samples. All functions are pure, on int64 arrays of
any leading dimensions.
"""

from functools import lru_cache

import numpy as np

from agent.records import Array

FULL = 32767
"""Largest int16: what 1.0 stands for."""
LOG_SEGMENTS = 128
"""Straight pieces that stand for the logarithm between two powers of two."""
GAIN_INTERVALS = 32
"""Powers of two in a uint32: the gain is tabulated between each two of them."""


def rounded_shift(x: Array) -> Array:
    """Products of two 15-bit fractions back to 15 bits, halves up."""
    return (x + (1 << 14)) >> 15


def real_fft(x: Array) -> tuple[Array, Array]:
    """[..., n] samples of 16 bits -> real and imaginary part, [..., n / 2 + 1], each divided by n.

    n is twice a power of four. Rounding happens at every stage, as on the microcontroller.
    """
    half = x.shape[-1] // 2
    re, im = _complex_fft(x[..., 0::2], x[..., 1::2])
    re, im, mirrored = _divided(re, 2), _divided(im, 2), _divided(-im, 2)  # rounding is not the same for both signs
    k = np.arange(1, half // 2 + 1)
    sum_re, sum_im = re[..., k] + re[..., half - k], im[..., k] + mirrored[..., half - k]
    apart = re[..., k] - re[..., half - k], im[..., k] - mirrored[..., half - k]
    turned_re, turned_im = _turned(*apart, *_last_turns(half))
    out_re, out_im = np.empty((*x.shape[:-1], half + 1), np.int64), np.zeros((*x.shape[:-1], half + 1), np.int64)
    out_re[..., 0], out_re[..., half] = re[..., 0] + im[..., 0], re[..., 0] - im[..., 0]
    out_re[..., k], out_im[..., k] = (sum_re + turned_re) >> 1, (sum_im + turned_im) >> 1
    out_re[..., half - k], out_im[..., half - k] = (sum_re - turned_re) >> 1, (turned_im - sum_im) >> 1
    return out_re, out_im


def _complex_fft(re: Array, im: Array) -> tuple[Array, Array]:
    """Radix 4, decimation in time: each stage joins four transforms of a quarter of the size, all of them at once."""
    size = re.shape[-1]
    if size == 1:
        return re, im
    shape = (*re.shape[:-1], size // 4, 4)
    re, im = _complex_fft(re.reshape(shape).swapaxes(-1, -2), im.reshape(shape).swapaxes(-1, -2))
    re, im = _divided(re, 4), _divided(im, 4)
    (b_re, c_re, d_re), (b_im, c_im, d_im) = (
        np.moveaxis(part, -2, 0) for part in _turned(re[..., 1:, :], im[..., 1:, :], *_turns(size))
    )
    a_re, a_im = re[..., 0, :], im[..., 0, :]
    minus_re, minus_im, plus_re, plus_im = a_re - c_re, a_im - c_im, a_re + c_re, a_im + c_im
    odd_re, odd_im, turn_re, turn_im = b_re + d_re, b_im + d_im, b_re - d_re, b_im - d_im
    return (
        np.concatenate((plus_re + odd_re, minus_re + turn_im, plus_re - odd_re, minus_re - turn_im), axis=-1),
        np.concatenate((plus_im + odd_im, minus_im - turn_re, plus_im - odd_im, minus_im + turn_re), axis=-1),
    )


def _divided(x: Array, by: int) -> Array:
    return rounded_shift(x * (FULL // by))


def _turned(re: Array, im: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
    """Complex product, rounded to 15 bits."""
    return rounded_shift(re * cos - im * sin), rounded_shift(re * sin + im * cos)


@lru_cache(maxsize=16)
def _turns(size: int) -> tuple[Array, Array]:
    """What the second, third and fourth quarter of a stage are turned by: cosine and sine, [3, size / 4]."""
    return _rounded(-2 * np.pi * np.outer((1, 2, 3), np.arange(size // 4) / size))


@lru_cache(maxsize=16)
def _last_turns(half: int) -> tuple[Array, Array]:
    """The same for the step from a complex transform to a real one, [half / 2]."""
    return _rounded(-np.pi * (np.arange(1, half // 2 + 1) / half + 0.5))


def _rounded(phase: Array) -> tuple[Array, Array]:
    return np.floor(0.5 + FULL * np.cos(phase)).astype(np.int64), np.floor(0.5 + FULL * np.sin(phase)).astype(np.int64)


def bits(x: Array) -> Array:
    """How many bits each number needs; 0 for 0."""
    return np.asarray(np.where(x > 0, np.frexp(x.astype(np.float64))[1], 0), np.int64)


def root(x: Array) -> Array:
    """Square root to the nearest whole number, of numbers below 2^52."""
    low = np.sqrt(x.astype(np.float64)).astype(np.int64)
    return np.asarray(low + (x - low * low > low))


def log_scaled(x: Array, shift: int) -> Array:
    """Natural logarithm times 2^shift; 0 for numbers up to 1."""
    x = np.maximum(x, 1)
    whole = bits(x) - 1
    over = x - (1 << whole)
    part = np.where(whole < 16, over << np.maximum(16 - whole, 0), over >> np.maximum(whole - 16, 0))
    segment = part >> 9
    table = _log_table()
    bend = ((table[segment + 1] - table[segment]) * (part - (segment << 9))) >> 16
    natural = (45426 * ((whole << 16) + part + table[segment] + bend) + (1 << 15)) >> 16
    return np.asarray(((natural << shift) + (1 << 15)) >> 16)


@lru_cache(maxsize=1)
def _log_table() -> Array:
    """How far log2(1 + x) lies above x, times 2^16, at the ends of 128 segments."""
    x = np.arange(LOG_SEGMENTS + 2) / LOG_SEGMENTS
    return np.rint((np.log2(1 + x) - x) * (1 << 16)).astype(np.int64)


@lru_cache(maxsize=8)
def gain_curve(strength: float, offset: float, gain_bits: int, input_bits: int) -> Array:
    """[33, 3]: parabolas through 2^gain_bits (x / 2^input_bits + offset)^-strength, one per bit length of x."""

    def at(x: int) -> int:
        x_scaled = np.float32(x) / np.float32(1 << input_bits)
        gain = np.float32(1 << gain_bits) * np.power(x_scaled + np.float32(offset), np.float32(-strength))
        return min(0x7FFF, int(gain + np.float32(0.5)))

    rows = [[at(0), 0, 0], [at(1), 0, 0]]
    for interval in range(2, GAIN_INTERVALS + 1):
        low = 1 << (interval - 1)
        high = 2 * low - 1 if interval == GAIN_INTERVALS else 2 * low
        start, middle, end = at(low), at(low + (low >> 1)), at(high)
        slope = 4 * (middle - start) - (end - start)
        rows.append([start, slope, end - start - slope])
    return np.array(rows, np.int64)


def gain(x: Array, curve: Array) -> Array:
    """The curve at x; beyond 2^32 at its end."""
    x = np.minimum(x, (1 << GAIN_INTERVALS) - 1)
    interval = bits(x)
    part = np.where(interval < 11, x << np.maximum(11 - interval, 0), x >> np.maximum(interval - 11, 0)) & 0x3FF
    start, slope, bend = (curve[interval, i] for i in range(3))
    bent = (((bend * part) >> 5) + (slope << 5)) * part
    return np.asarray(np.where(x > 2, start + ((bent + (1 << 14)) >> 15), start))
