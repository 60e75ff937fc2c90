"""Real numbers to raw tensors and back: real = scale * (raw - zero_point).

Owns the arithmetic and its rounding. Refuses NaN, and integers of which nobody can tell whether they are raw or real.
Source: the affine scheme of Jacob et al., arXiv:1712.05877, section 2.1, as TFLite and ONNX QuantizeLinear use it.
"""

import numpy as np

from agent.errors import ModelError
from agent.manifest import Input, Port
from agent.records import Array


def quantise(real: Array, port: Port) -> Array:
    """Real numbers -> `port.dtype`, clipped to its range; scale 0 counts as 1. Same shape. Raises ModelError on NaN.

    8-bit ports of float32 numbers are computed in float32 (24 bits hold them exactly), everything else in float64.
    """
    narrow = real.dtype.itemsize <= 4 and real.dtype.kind == "f" and np.dtype(port.dtype).itemsize == 1
    exact = np.float32 if narrow else np.float64
    steps = np.divide(real, exact(port.scale or 1.0), dtype=exact)
    rounding = port.rounding if isinstance(port, Input) else "nearest"
    if rounding == "nearest":
        np.rint(steps, out=steps)
        steps += exact(port.zero_point)
    else:
        steps += exact(port.zero_point)
        (np.trunc if rounding == "trunc" else np.floor)(steps, out=steps)
    low, high = _range(port.dtype)
    np.clip(steps, low, high, out=steps)
    if np.isnan(steps).any():
        raise ModelError(f"input '{port.name}' contains NaN: fill the holes of the source before the model")
    return steps.astype(port.dtype)


def dequantise(raw: Array, port: Port) -> Array:
    """Raw tensor -> real numbers, float32, same shape. Without a scale the numbers are converted as they are.

    What is float32 already is not copied: the answer is `raw` itself.
    """
    if not port.scale:
        return raw.astype(np.float32, copy=False)
    if raw.dtype.itemsize <= 2:  # float32 holds these whole numbers and their differences exactly
        return (raw.astype(np.float32) - np.float32(port.zero_point)) * np.float32(port.scale)
    return ((raw.astype(np.float64) - port.zero_point) * port.scale).astype(np.float32)


def to_port(numbers: Array, port: Port) -> Array:
    """What the last step made -> what the port takes, `port.dtype`, same shape. Raises ModelError.

    The port's own dtype is raw and passes. Floats for an integer port are real and are quantised. Other integers
    must mean themselves: they pass when the port has no scale (or is float) and they fit.
    """
    wanted = np.dtype(port.dtype)
    if numbers.dtype == wanted:
        return numbers
    if wanted.kind == "f" or (wanted.kind == "b" and numbers.dtype.kind in "biu"):
        return numbers.astype(wanted)
    if numbers.dtype.kind == "f" and wanted.kind in "iu":
        return quantise(numbers, port)
    if port.scale or numbers.dtype.kind not in "biu" or wanted.kind not in "iu":
        raise ModelError(
            f"input '{port.name}' takes {port.dtype} with scale {port.scale:g}, the last step made {numbers.dtype}: "
            "end [[pre]] with real numbers (e.g. a normalise step) or with the port's own dtype"
        )
    low, high = np.iinfo(wanted).min, np.iinfo(wanted).max
    if numbers.size and (int(numbers.min()) < low or int(numbers.max()) > high):
        raise ModelError(f"input '{port.name}': numbers beyond {low} .. {high} do not fit {port.dtype}: check [[pre]]")
    return numbers.astype(wanted)


def zeros(port: Port) -> Array:
    """A raw tensor of the port that stands for real zeros."""
    return np.full(port.shape, port.zero_point, dtype=port.dtype)


def _range(dtype: str) -> tuple[float, float]:
    """The least and the largest value of an integer type that float64 can hold without leaving the type."""
    limits = np.iinfo(dtype)
    high = float(limits.max)
    return float(limits.min), high if int(high) <= limits.max else float(np.nextafter(high, 0.0))
