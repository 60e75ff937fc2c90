"""What a batch of log-mel views goes through before the network learns from it: other speakers, rooms and pitches.

Owns: the changes that a spectrogram stands without the word changing, on whole batches. Each view is changed anew in
every epoch, so that no voice is seen twice as it is. Everything random comes from the generator that is passed in.
"""

import numpy as np
import numpy.typing as npt

Views = npt.NDArray[np.float32]
"""[n, frames, bands], the mean of each band taken out."""

PACE, DRIFT_FRAMES, SHIFT_FRAMES = 0.18, 1.5, 3.0
"""Natural logarithm of the pace, how far sounds may wander in time besides, and the whole word."""
TRACT, DRIFT_BANDS, SHIFT_BANDS = 0.08, 1.0, 1.5
"""The same over mel bands: a longer or shorter vocal tract, formants that sit elsewhere, pitch."""
CONTRAST, BLUR, GRAIN = 0.25, 0.25, 0.3
"""Loudness range (natural logarithm), smear into neighbours, and noise (in units of ln power)."""
MASKED_BANDS, MASKED_FRAMES = 7, 9
"""SpecAugment (Park et al., arXiv:1904.08779): two masks of each kind, at most this wide."""


def widened(views: Views, rng: np.random.Generator, strength: float = 1.0) -> Views:
    """The same words by other speakers in other rooms: warped, smeared, flattened or raised, grained and masked.

    `strength` scales everything but the masks.
    """
    s = strength
    x = _stretched(views, rng, 1, s * PACE, s * SHIFT_FRAMES, s * DRIFT_FRAMES)
    x = _stretched(x, rng, 2, s * TRACT, s * SHIFT_BANDS, s * DRIFT_BANDS)
    x = _smeared(_smeared(x, rng, 2, s * BLUR), rng, 1, s * BLUR)
    n, _, bands = x.shape
    x *= np.exp(_uniform(rng, n, -s * CONTRAST, s * CONTRAST)[:, None] + _slow(rng, n, bands, s * 0.2)[:, None, :])
    sometimes = _uniform(rng, n, 0, 1) < 0.5
    x += rng.standard_normal(x.shape, np.float32) * (_uniform(rng, n, 0, s * GRAIN) * sometimes)[:, None]
    return np.where(_masks(rng, x.shape), np.float32(0), x)


def blended(views: Views, wanted: Views, rng: np.random.Generator) -> tuple[Views, Views]:
    """A quarter of the batch mixed with itself (mixup, Zhang et al., arXiv:1710.09412); labels are mixed alike."""
    some = len(views) // 4
    share = rng.beta(0.3, 0.3, (some, 1)).astype(np.float32)
    other = rng.permutation(some)
    views[:some] = share[..., None] * views[:some] + (1 - share[..., None]) * views[:some][other]
    wanted[:some] = share * wanted[:some] + (1 - share) * wanted[:some][other]
    return views, wanted


def _stretched(x: Views, rng: np.random.Generator, axis: int, log_rate: float, shift: float, drift: float) -> Views:
    """Frames (axis 1) or bands (axis 2) read at places that run faster or slower, are shifted, and wander."""
    n, size = len(x), x.shape[axis]
    centre = _uniform(rng, n, 0, size) if axis == 1 else np.zeros((n, 1), np.float32)
    rate = np.exp(_uniform(rng, n, -log_rate, log_rate))
    at = centre + (np.arange(size, dtype=np.float32) - centre) * rate
    at = (at + _uniform(rng, n, -shift, shift) + _slow(rng, n, size, drift)).clip(0, size - 1.001)
    low = at.astype(np.int64)
    part = (at - low).astype(np.float32)
    low, part = (low[..., None], part[..., None]) if axis == 1 else (low[:, None], part[:, None])
    below, above = np.take_along_axis(x, low, axis), np.take_along_axis(x, low + 1, axis)
    return np.asarray(below * (1 - part) + above * part)


def _smeared(x: Views, rng: np.random.Generator, axis: int, most: float) -> Views:
    """In two views of five, each value takes up to `most` of each neighbour along `axis`: echo, or wider formants."""
    n = len(x)
    share = (_uniform(rng, n, 0, most) * (_uniform(rng, n, 0, 1) < 0.4))[:, None]
    padded = np.pad(x, [(0, 0), *((1, 1) if k == axis else (0, 0) for k in (1, 2))], mode="edge")
    before, after = (padded[:, :-2], padded[:, 2:]) if axis == 1 else (padded[..., :-2], padded[..., 2:])
    return np.asarray((1 - 2 * share) * x + share * (before + after))


def _masks(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """[n, frames, bands], True where a mask lies; one view of five has none."""
    n, frames, bands = shape
    hidden = np.zeros(shape, bool)
    some = (_uniform(rng, n, 0, 1) < 0.8)[..., None]
    for _ in range(2):
        first, last = _uniform(rng, n, 0, bands), _uniform(rng, n, 0, MASKED_BANDS)
        band = (np.arange(bands) >= first) & (np.arange(bands) < first + last)
        first, last = _uniform(rng, n, 0, frames), _uniform(rng, n, 0, MASKED_FRAMES)
        frame = (np.arange(frames) >= first) & (np.arange(frames) < first + last)
        hidden |= some & (band[:, None, :] | frame[:, :, None])
    return hidden


def _uniform(rng: np.random.Generator, n: int, low: float, high: float) -> Views:
    """[n, 1]"""
    return rng.uniform(low, high, (n, 1)).astype(np.float32)


def _slow(rng: np.random.Generator, n: int, size: int, height: float) -> Views:
    """[n, size]: curves of one or two bends, at most 1.5 `height` high."""
    t = np.linspace(0, 2 * np.pi, size, dtype=np.float32)
    one = _uniform(rng, n, -height, height) * np.sin(0.7 * t + _uniform(rng, n, 0, 6.283))
    two = _uniform(rng, n, -height / 2, height / 2) * np.sin(1.6 * t + _uniform(rng, n, 0, 6.283))
    return one + two
