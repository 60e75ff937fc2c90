"""How good a quantised autoencoder is: its errors as the agent computes them, false alarms, areas under curves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime
from dense import Floats, Scale

from agent.manifest import Input
from agent.runtime.quant import dequantise, quantise


class Quantised:
    """An int8 autoencoder on views that its pre steps have made, as the agent runs it."""

    def __init__(self, model: bytes, size: int, ends: Scale) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._port = Input("x", (1, size), "uint8", ends.scale, ends.zero)

    def raw(self, views: Floats) -> npt.NDArray[np.uint8]:
        """What the graph makes of views [n, size], uint8 [n, size]."""
        fed = quantise(views, self._port)
        return np.concatenate([self._session.run(None, {"x": row[None]})[0] for row in fed])

    def errors(self, views: Floats) -> Floats:
        """Reconstruction errors [n]: what the decoder `reconstruction` computes."""
        return np.asarray(np.mean((dequantise(self.raw(views), self._port) - views) ** 2, axis=1))


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on data that nothing was learned from."""

    threshold: float
    false_alarms: float
    """Share of healthy scores at or above the threshold."""
    healthy: int
    """How many healthy scores there were."""
    auc: Mapping[str, float]
    detected: Mapping[str, float]
    """Share of scores at or above the threshold, by kind of anomaly."""


def measure(threshold: float, healthy: Floats, sick: Mapping[str, Floats]) -> Figures:
    """Figures for scores of healthy data and of each kind of anomaly."""
    return Figures(
        threshold=threshold,
        false_alarms=float((healthy >= threshold).mean()),
        healthy=len(healthy),
        auc={kind: auc(healthy, scores) for kind, scores in sick.items()},
        detected={kind: float((scores >= threshold).mean()) for kind, scores in sick.items()},
    )


def auc(negative: Floats, positive: Floats) -> float:
    """Area under the ROC curve: how often a positive lies above a negative (Mann-Whitney; ties count half)."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left") + np.searchsorted(order, positive, "right")
    return float(below.mean() / 2 / len(order))
