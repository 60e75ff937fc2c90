"""Slow series that nobody measured: temperatures, loads, speeds, as a logger would read them, healthy and not.

Owns the signal model of `train_series`: daily and other periods, switching, drift, noise with memory and now and then a
heavy tail; and four kinds of anomaly. Every number is drawn from a numpy generator. Units are standard deviations of
the healthy series.
"""

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float64]

ANOMALIES = ("spike", "shift", "burst", "collapse")
ANOMALY_ROWS = 24
"""Rows that a burst or collapse lasts."""


def draw(rng: np.random.Generator, rows: int) -> Signal:
    """A healthy series [rows], mean 0, standard deviation 1."""
    noise = _noise(rng, rows)
    parts = [noise * rng.uniform(0.1, 1.0)]
    if rng.random() < 0.7:
        parts.append(_periods(rng, rows) * rng.uniform(0.2, 2.0))
    if rng.random() < 0.3:
        parts.append(_switching(rng, rows) * rng.uniform(0.2, 1.0))
    if rng.random() < 0.3:
        drift = np.cumsum(rng.normal(size=rows))
        parts.append(drift / drift.std() * rng.uniform(0, 1.0))
    x = np.sum(parts, axis=0)
    return np.asarray((x - x.mean()) / x.std())


def spoil(rng: np.random.Generator, healthy: Signal, kind: str, at: int, size: float) -> Signal:
    """`healthy` with an anomaly of `size` standard deviations that begins at row `at`."""
    x, sign = healthy.copy(), rng.choice((-1.0, 1.0))
    if kind == "spike":
        x[at] += sign * size
    elif kind == "shift":
        x[at:] += sign * size
    elif kind == "burst":
        x[at : at + ANOMALY_ROWS] += size / 2 * rng.normal(size=ANOMALY_ROWS)
    else:  # the reading falls to the end of its scale and comes back
        x[at : at + ANOMALY_ROWS] = -size
    return x


def _noise(rng: np.random.Generator, rows: int) -> Signal:
    """First-order autoregressive, of normal or Student's t innovations."""
    push = rng.standard_t(rng.choice((5, 8, 30)), rows)
    memory = rng.choice((0.0, rng.uniform(0, 0.98)))
    x = np.zeros(rows)
    for i in range(1, rows):
        x[i] = memory * x[i - 1] + push[i]
    return np.asarray(x / x.std())


def _periods(rng: np.random.Generator, rows: int) -> Signal:
    """A period of 30 to 2000 rows (often 288: a day of five minutes) with a few harmonics."""
    period = rng.choice((288.0, rng.uniform(30, 400), rng.uniform(100, 2000)))
    turns = np.arange(rows) / period
    harmonics = (rng.exponential(1 / k) * np.sin(2 * np.pi * (k * turns + rng.random())) for k in range(1, 6))
    x = np.sum(list(harmonics), axis=0)
    return np.asarray(x / x.std())


def _switching(rng: np.random.Generator, rows: int) -> Signal:
    """On and off with steep but not sudden edges."""
    turns = np.arange(rows) / rng.uniform(50, 600)
    return np.asarray(np.clip(8 * np.sin(2 * np.pi * (turns + rng.random())), -1, 1))
