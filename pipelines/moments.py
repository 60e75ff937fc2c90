"""What a channel has been like so far: an exponentially weighted mean and variance that outliers barely move.

Owns the statistic behind the detector `streaming_zscore`, and the window `running_rows`, which measures every row in
standard deviations from the rows before it. Causal, a few numbers per channel, no training, no channel disturbs
another.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Sample, View
from agent.strict import Range
from pipelines.series import ROW_LIMIT, Rows, RowWindow, expect_series

Z_LIMIT = 1e6
"""Largest deviation: a constant channel that moves is infinitely unlikely, and an event must stay JSON."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What is remembered of each channel; float64 or int64 [channels]."""

    mean: Array
    variance: Array
    count: Array
    """Readings since the start, or since the level was learned anew."""
    strange: Array
    """How many readings in a row were strange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """How a channel is remembered. For each reading x with mean m, variance v and weight a: z = (x - m) / sqrt(v);
    then, with the step d = x - m cut to +-`clip` sqrt(v) so that an anomaly does not hide the next one (winsorising),
    m += a d and v = (1 - a) (v + a d^2): West's incremental form ("Updating mean and variance estimates", CACM 1979)
    with constant weight. At first the weight is 1/n.
    """

    alpha: Annotated[float, Range(1e-6, 0.5)] = 0.01
    """Weight of a new reading: the memory is about 1 / alpha readings long."""
    clip: Annotated[float, Range(0.5, 1e6)] = 3.0
    """Deviations beyond so many standard deviations are learned as if they were this large."""
    warm_rows: Annotated[int, Range(2, 1_000_000)] = 50
    """Readings at the start that are learned from and not judged."""
    relearn_rows: Annotated[int, Range(0, 1_000_000)] = 100
    """After so many strange readings in a row the channel is learned anew: this is how it is now. 0: never."""
    min_deviation: Annotated[float, Range(0)] = 0.0
    """Least standard deviation that counts, in the channel's unit: its resolution, say."""

    def learn(self, now: Moments, row: Array, strange_z: float) -> tuple[Moments, Array]:
        """Judge one row [channels] by those before it, and learn from it. |z| >= `strange_z` counts as strange.

        Returns the next moments and z [channels], NaN where a reading is missing or the channel is not known yet.
        Raises ModelError when the number of channels changes.
        """
        if len(now.mean) != len(row):
            raise ModelError(f"{len(row)} channels came after {len(now.mean)}: a source must keep its channels")
        there = np.isfinite(row)
        step = np.where(there, row - now.mean, 0.0)
        judged = there & (now.count >= self.warm_rows)
        # Rounding alone must not look like a deviation: 1e-9 of the level is far above it and below any sensor's step.
        spread = np.maximum(np.sqrt(now.variance), np.maximum(self.min_deviation, 1e-9 * np.abs(now.mean)))
        z = np.where(judged, _ratio(step, spread), np.nan)
        run = np.where(judged & (np.abs(z) >= strange_z), now.strange + 1, 0)
        strange = np.where(there, run, now.strange)
        bound = np.where(judged, self.clip * spread, np.inf)
        learned = self._with(now, there, np.clip(step, -bound, bound), strange)
        return _cleared(learned, (strange >= self.relearn_rows) & (self.relearn_rows > 0)), z

    def _with(self, now: Moments, there: Array, step: Array, strange: Array) -> Moments:
        count = now.count + there
        weight = np.maximum(self.alpha, 1 / np.maximum(count, 1))
        mean = np.where(there, now.mean + weight * step, now.mean)
        variance = np.where(there, (1 - weight) * (now.variance + weight * step**2), now.variance)
        return Moments(mean, variance, count, strange)


@dataclass(frozen=True, slots=True)
class RunningState:
    """What the window `running_rows` remembers."""

    rows: Rows
    moments: Moments | None = None
    """None before the first row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRows(Memory):
    """Window: `length` rows every `hop` rows, each reading in standard deviations from its channel's running mean.

    So a model can be made for series of any unit, level and size. Rows with a missing reading are left out. A gap
    starts a new view and keeps what was learned. Raises ConfigError when the source delivers no series, ModelError when
    its channels change in number.
    """

    length: Annotated[int, Range(1, ROW_LIMIT)]
    """Rows of a view."""
    hop: Annotated[int, Range(1, ROW_LIMIT)] | None = None
    """Rows from the start of a view to the start of the next; by default `length`: views do not overlap."""
    strange_z: Annotated[float, Range(0.1, 1e6)] = 7.0
    """Deviation that counts for `relearn_rows`."""

    def initial(self) -> RunningState:
        return RunningState(RowWindow(self.length, self.hop).initial())

    def __call__(self, state: RunningState, sample: Sample, /) -> tuple[RunningState, tuple[View, ...]]:
        expect_series(sample, "running_rows")
        before = state.moments or fresh(len(sample.data))
        moments, z = self.learn(before, sample.data, self.strange_z)
        rows, views = RowWindow(self.length, self.hop)(state.rows, replace(sample, data=z))
        return RunningState(rows, moments), views


def fresh(channels: int) -> Moments:
    """Moments of channels of which nothing is known."""
    zero, none = np.zeros(channels), np.zeros(channels, np.int64)
    return Moments(zero, zero, none, none)


def _cleared(now: Moments, anew: Array) -> Moments:
    """`now` with the channels in `anew` back at the start."""
    if not anew.any():
        return now
    return Moments(*(np.where(anew, 0, field) for field in (now.mean, now.variance, now.count, now.strange)))


def _ratio(x: Array, unit: Array) -> Array:
    """x / unit, at most `Z_LIMIT` to either side; 0 / 0 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.clip(x / unit, -Z_LIMIT, Z_LIMIT)
    return np.where(x == 0, 0.0, ratio)
