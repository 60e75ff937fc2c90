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
from pipelines.moments import Z_LIMIT, Memory, Moments, fresh
from pipelines.outputs import chosen
from pipelines.series import channel, table


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingZScore(Memory):
    """Detector: how many standard deviations a reading lies from the running mean of those before it.

    Needs no model and no training. For each reading x with mean m and variance v, z = (x - m) / sqrt(v); then both are
    moved towards x by the weight `alpha`, an outlier counting as no farther away than `clip` standard deviations. One
    finding per channel and view, of its strangest reading: label `label` (`label`/channel with several channels), score
    abs(z) / `threshold`, the reading as value. A missing reading changes nothing. Views must not overlap, or readings
    count twice. Raises ModelError when the number of channels changes.
    """

    threshold: Annotated[float, Range(0.1, 1e6)] = 7.0
    """So many standard deviations away a reading is anomalous."""
    always: bool = False
    """True: a finding for every view, for rules that watch the score; False: only for anomalous ones."""
    label: Annotated[str, Range(1, 100)] = "anomaly"
    """What the findings are called."""

    def initial(self) -> Moments | None:
        return None

    def __call__(self, state: Moments | None, view: View, /) -> tuple[Moments, tuple[Finding, ...]]:
        data = table(view)
        moments = fresh(data.shape[1]) if state is None else state
        scores = np.full(data.shape, np.nan)
        for i, row in enumerate(data):
            moments, z = self.learn(moments, row, self.threshold)
            scores[i] = np.abs(z) / self.threshold
        found = (self._finding(view, data[:, c], scores[:, c], c) for c in range(data.shape[1]))
        return moments, tuple(finding for finding in found if finding is not None)

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
    """What the findings are called."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        error = self.error(outputs, view)
        score = max(0.0, (error - self.mean) / self.std / self.threshold)
        if score < 1 and not self.always:
            return ()
        return (Finding(self.label, min(score, Z_LIMIT), interval=(view.t0_s, view.t1_s), value=error),)

    def error(self, outputs: Tensors, view: View) -> float:
        """Mean squared difference of the model's output and the view it saw."""
        name = chosen(outputs, self.output, "reconstruction")
        made, seen = np.asarray(outputs[name], np.float64).ravel(), np.asarray(view.data, np.float64).ravel()
        if made.size != seen.size:
            raise ModelError(f"decoder 'reconstruction': output '{name}' has {made.size} values, the input "
                             f"{seen.size}: it must be as large as what the pre steps make")  # fmt: skip
        error = float(np.mean((made - seen) ** 2))
        if not np.isfinite(error):
            raise ModelError("decoder 'reconstruction': input or output hold no numbers: leave rows with missing "
                             "readings out (window 'rows', nan = \"drop\" or \"hold\")")  # fmt: skip
        return error

