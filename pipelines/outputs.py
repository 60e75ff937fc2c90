"""What decoders share: how they are called, the port they read, the range of a score, what brings scores to it."""

import math
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, Finding, Tensors, View
from agent.strict import Range
from pipelines import Decoder

Share = Annotated[float, Range(0, 1)]
Activation = Literal["none", "softmax", "sigmoid"]


def decoded(decoder: Decoder, outputs: Tensors, view: View, labels: tuple[str, ...]) -> tuple[Finding, ...]:
    """What `decoder` finds. Raises ModelError, also where outputs of these shapes cannot be what it reads."""
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by name
            return decoder(outputs, view, labels)
    except (ValueError, IndexError) as exc:  # numpy's words for arrays that do not go together
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        name = type(decoder).__name__
        raise ModelError(f"decoder {name} cannot read {shapes} ({exc}): correct [decoder] or [[output]]") from exc


def chosen(outputs: Tensors, name: str, decoder: str) -> str:
    """`name` when there is such an output, the first one's when it is empty. Raises ModelError that names `decoder`."""
    if name and name not in outputs:
        raise ModelError(f"decoder '{decoder}': there is no output '{name}': name one of {', '.join(outputs)}")
    return name or next(iter(outputs))


def activated(values: Array, activation: Activation) -> Array:
    """As float64; softmax runs along the last axis, the tanh form of the sigmoid cannot overflow."""
    values = values.astype(np.float64)
    if activation == "sigmoid":
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))
    if activation == "softmax":
        raised = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
    return values


def need_finite(scores: Array, step: str) -> None:
    """Raises ModelError when a score is not finite."""
    # the extremes tell it without an array of truth values: NaN is passed on by both
    if scores.size and not (math.isfinite(scores.min()) and math.isfinite(scores.max())):
        raise ModelError(f"decoder '{step}': a score is not finite: check the model's weights and its input")
