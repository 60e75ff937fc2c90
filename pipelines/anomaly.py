"""Anomaly: what is unlike everything before it, by a streaming statistic or by what a model cannot reconstruct.

Owns the detector `streaming_zscore` and the decoder `reconstruction`. Both give a score in multiples of their
threshold, so that 1 is the border of the anomalous whichever is used, and a rule's `min_score` reads the same.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines.series import channel, table

SCORE_LIMIT = 1e6
"""Largest score: a constant channel that moves is infinitely unlikely, and an event must stay JSON."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What the detector remembers of each channel; float64 or int64 [channels]."""

    mean: Array
    variance: Array
    count: Array
    """Readings since the start, or since the level was learned anew."""
    strange: Array
    """How many readings in a row were anomalous."""


@dataclass(frozen=True, slots=True)
class StreamingZScore:
    """Detector: how many standard deviations a reading lies from the exponentially weighted mean of those before it.

    Causal, a few numbers per channel, no training. For each reading x with mean m, variance v and weight a:
    z = |x - m| / sqrt(v); then, with the step d = x - m cut to +-`clip` sqrt(v) so that an anomaly does not hide the
    next one (winsorising), m += a d and v = (1 - a) (v + a d^2): West's incremental form ("Updating mean and variance
    estimates", CACM 22, 1979) with constant weight. The first `warm_rows` readings are learned from, with weight 1/n,
    and not judged.
    One finding per channel and view, of its strangest reading: label `label` (`label`/channel with several channels),
    score z / `threshold`, the reading as value. A missing reading changes nothing. Views must not overlap, or readings
    count twice. Channels may not change in number: raises ModelError.
    """

    threshold: Annotated[float, Range(0.1, 1e6)] = 7.0
    """z from which a reading is anomalous."""
    alpha: Annotated[float, Range(1e-6, 0.5)] = 0.01
    """Weight of a new reading: the memory is about 1 / alpha readings long."""
    clip: Annotated[float, Range(0.5, 1e6)] = 3.0
    """Deviations beyond so many standard deviations are learned as if they were this large."""
    warm_rows: Annotated[int, Range(2, 1_000_000)] = 50
    """Readings at the start that are learned from and not judged."""
    relearn_rows: Annotated[int, Range(0, 1_000_000)] = 100
    """After so many anomalous readings in a row the channel is learned anew: this is how it is now. 0: never."""
    min_deviation: Annotated[float, Range(0)] = 0.0
    """Least standard deviation that counts, in the channel's unit: its resolution, say."""
    always: bool = False
    """True: a finding for every view, for rules that watch the score; False: only for anomalous ones."""
    label: Annotated[str, Range(1, 100)] = "anomaly"

    def initial(self) -> Moments | None:
        return None

    def __call__(self, state: Moments | None, view: View, /) -> tuple[Moments, tuple[Finding, ...]]:
        data = table(view)
        moments = _fresh(data.shape[1]) if state is None else state
        if len(moments.mean) != data.shape[1]:
            raise ModelError(f"detector 'streaming_zscore': {data.shape[1]} channels came after {len(moments.mean)}: "
                             "a source must keep its channels")  # fmt: skip
        scores = np.full(data.shape, np.nan)
        for i, row in enumerate(data):
            moments, scores[i] = self._take(moments, row)
        found = (self._finding(view, data[:, c], scores[:, c], c) for c in range(data.shape[1]))
        return moments, tuple(finding for finding in found if finding is not None)

    def _take(self, now: Moments, row: Array) -> tuple[Moments, Array]:
        """Judge one row and learn from it. Returns the next moments and the scores [channels], NaN where not judged."""
        there = np.isfinite(row)
        step = np.where(there, row - now.mean, 0.0)
        judged = there & (now.count >= self.warm_rows)
        # Rounding alone must not look like a deviation: 1e-9 of the level is far above it and below any sensor's step.
        spread = np.maximum(np.sqrt(now.variance), np.maximum(self.min_deviation, 1e-9 * np.abs(now.mean)))
        score = _ratio(np.abs(step), spread * self.threshold)
        strange = np.where(there, np.where(judged & (score >= 1), now.strange + 1, 0), now.strange)
        bound = np.where(judged, self.clip * spread, np.inf)
        learned = self._learn(now, there, np.clip(step, -bound, bound), strange)
        anew = (strange >= self.relearn_rows) & (self.relearn_rows > 0)
        return _cleared(learned, anew), np.where(judged, score, np.nan)

    def _learn(self, now: Moments, there: Array, step: Array, strange: Array) -> Moments:
        count = now.count + there
        weight = np.maximum(self.alpha, 1 / np.maximum(count, 1))
        mean = np.where(there, now.mean + weight * step, now.mean)
        variance = np.where(there, (1 - weight) * (now.variance + weight * step**2), now.variance)
        return Moments(mean, variance, count, strange)

    def _finding(self, view: View, values: Array, scores: Array, index: int) -> Finding | None:
        if np.isnan(scores).all():
            return None
        worst = int(np.nanargmax(scores))
        if scores[worst] < 1 and not self.always:
            return None
        about = channel(view, index)
        t_s = view.t0_s + (view.t1_s - view.t0_s) * worst / len(values)
        label = self.label if len(view.channels) <= 1 else f"{self.label}/{about.name}"
        return Finding(label, float(scores[worst]), interval=(t_s, t_s), value=float(values[worst]), unit=about.unit)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Decoder: a model that was trained to give back what is normal gives back badly what is not.

    The error is the mean square of (output - input) over all values, in the square of the unit that the model's pre
    steps end with. A view whose error e has (e - mean) / std >= threshold is anomalous; with the defaults of mean and
    std the threshold is an error. Score: that figure / threshold, at least 0; value: e; interval: that of the view.
    Raises ModelError when output and input differ in size or hold NaN.
    """

    threshold: Annotated[float, Range(1e-300)]
    mean: float = 0.0
    """Mean error of normal views, if the threshold counts in standard deviations."""
    std: Annotated[float, Range(1e-300)] = 1.0
    """Standard deviation of the error of normal views."""
    output: str = ""
    """The port that reconstructs the input; empty: the first."""
    always: bool = False
    """True: a finding for every view, for rules that watch the score; False: only for anomalous ones."""
    label: Annotated[str, Range(1, 100)] = "anomaly"

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        error = self.error(outputs, view)
        score = max(0.0, (error - self.mean) / self.std / self.threshold)
        if score < 1 and not self.always:
            return ()
        return (Finding(self.label, min(score, SCORE_LIMIT), interval=(view.t0_s, view.t1_s), value=error),)

    def error(self, outputs: Tensors, view: View) -> float:
        """Mean squared difference of the model's output and the view it saw."""
        name = self.output or next(iter(outputs))
        if name not in outputs:
            raise ModelError(f"decoder 'reconstruction': there is no output '{name}': name one of {', '.join(outputs)}")
        made, seen = np.asarray(outputs[name], np.float64).ravel(), np.asarray(view.data, np.float64).ravel()
        if made.size != seen.size:
            raise ModelError(f"decoder 'reconstruction': output '{name}' has {made.size} values, the input "
                             f"{seen.size}: it must be as large as what the pre steps make")  # fmt: skip
        error = float(np.mean((made - seen) ** 2))
        if not np.isfinite(error):
            raise ModelError("decoder 'reconstruction': input or output hold no numbers: leave rows with missing "
                             "readings out (window 'rows', nan = \"drop\" or \"hold\")")  # fmt: skip
        return error


def _fresh(channels: int) -> Moments:
    zero, none = np.zeros(channels), np.zeros(channels, np.int64)
    return Moments(zero, zero, none, none)


def _cleared(now: Moments, anew: Array) -> Moments:
    """`now` with the channels in `anew` back at the start."""
    if not anew.any():
        return now
    return Moments(*(np.where(anew, 0, field) for field in (now.mean, now.variance, now.count, now.strange)))


def _ratio(x: Array, unit: Array) -> Array:
    """x / unit, at most `SCORE_LIMIT`; 0 / 0 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.minimum(x / unit, SCORE_LIMIT)
    return np.where(x == 0, 0.0, ratio)
