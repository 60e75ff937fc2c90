"""A small dense network in numpy: trained with Adam, quantised to int8, written as ONNX.

Owns training and export of stacks of `x @ w + b` with ReLU between them. The ONNX graph is quantised in QDQ form, uint8
activations and int8 weights, which ONNX Runtime fuses into integer kernels: per output channel symmetric weights, int32
biases at scale input * weight. Sources: Kingma and Ba, arXiv:1412.6980; Jacob et al., arXiv:1712.05877.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float64]
Disturb = Callable[[np.random.Generator, Floats], tuple[Floats, Floats]]
"""Views [n, size] -> what the network is fed, and what it shall make of it."""


@dataclass(frozen=True, slots=True)
class Scale:
    """real = scale * (raw - zero), raw uint8."""

    scale: float
    zero: int


@dataclass(frozen=True, slots=True)
class Dense:
    """Weights [in, out] and biases [out], layer by layer."""

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    def layers(self, x: Floats) -> list[Floats]:
        """`x` [n, in] and the output of every layer."""
        outputs = [x]
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = outputs[-1] @ w + b
            outputs.append(np.maximum(y, 0) if i < len(self.weights) - 1 else y)
        return outputs


def train_autoencoder(
    x: Floats, sizes: tuple[int, ...], seed: int, epochs: int = 15, batch: int = 64, disturb: Disturb | None = None
) -> Dense:
    """A network that gives back `x` [n, sizes[0]] through its narrowest layer; least squares, cosine learning rate.

    With `disturb` it learns to give back what was there before something was spoilt (a denoising autoencoder: Vincent
    et al., ICML 2008).
    """
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0, np.sqrt(2 / a), (a, b)) for a, b in pairwise(sizes)]
    net = Dense(tuple(weights), tuple(np.zeros(b) for b in sizes[1:]))
    parameters = [*net.weights, *net.biases]
    first, second = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    step, steps = 0, epochs * -(-len(x) // batch)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for at in range(0, len(x), batch):
            step += 1
            rate = 1e-3 * (1 + np.cos(np.pi * step / steps))
            views = x[order[at : at + batch]]
            fed, wanted = disturb(rng, views) if disturb else (views, views)
            for i, g in enumerate(_gradients(net, fed, wanted)):
                first[i] += 0.1 * (g - first[i])
                second[i] += 0.001 * (g * g - second[i])
                spread = np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8
                parameters[i] -= rate * first[i] / (1 - 0.9**step) / spread
    return net


def _gradients(net: Dense, fed: Floats, wanted: Floats) -> list[Floats]:
    """Of the mean squared error of what the network makes of `fed`, for the weights and then the biases."""
    outputs = net.layers(fed)
    g = 2 * (outputs[-1] - wanted) / wanted.size
    weights: list[Floats] = []
    biases: list[Floats] = []
    for i in reversed(range(len(net.weights))):
        weights.insert(0, outputs[i].T @ g)
        biases.insert(0, g.sum(axis=0))
        g = (g @ net.weights[i].T) * (outputs[i] > 0)
    return [*weights, *biases]


def scales(net: Dense, x: Floats, ends: Scale) -> list[Scale]:
    """Scales of input, hidden layers and output: given for the two ends, what `x` [n, in] reaches for those between."""
    hidden = [Scale(float(np.quantile(h, 0.9999)) / 255, 0) for h in net.layers(x)[1:-1]]
    return [ends, *hidden, ends]


def onnx_int8(net: Dense, steps: list[Scale], name: str, doc: str) -> bytes:
    """The network as ONNX, input "x" and output "y", uint8 [1, n]. The same bytes for the same numbers."""
    nodes, constants = [], []
    value = "x"
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        scale_w = np.abs(w).max(axis=0) / 127
        scale_b = steps[i].scale * scale_w
        constants += [
            numpy_helper.from_array(np.rint(w / scale_w).astype(np.int8), f"w{i}"),
            numpy_helper.from_array(np.zeros(len(b), np.int8), f"w{i}_zero"),
            numpy_helper.from_array(scale_w.astype(np.float32), f"w{i}_scale"),
            numpy_helper.from_array(np.rint(b / scale_b).astype(np.int32), f"b{i}"),
            numpy_helper.from_array(np.zeros(len(b), np.int32), f"b{i}_zero"),
            numpy_helper.from_array(scale_b.astype(np.float32), f"b{i}_scale"),
            *_scale(steps[i], f"a{i}"),
        ]
        made = f"q{i}" if i < len(net.weights) - 1 else "y"
        nodes += [
            helper.make_node("DequantizeLinear", [value, f"a{i}_scale", f"a{i}_zero"], [f"a{i}_real"]),
            helper.make_node("DequantizeLinear", [f"w{i}", f"w{i}_scale", f"w{i}_zero"], [f"w{i}_real"], axis=1),
            helper.make_node("DequantizeLinear", [f"b{i}", f"b{i}_scale", f"b{i}_zero"], [f"b{i}_real"], axis=0),
            helper.make_node("Gemm", [f"a{i}_real", f"w{i}_real", f"b{i}_real"], [f"y{i}"]),
            # A zero point of 0 makes the quantisation of a hidden layer its ReLU: what is negative becomes 0.
            helper.make_node("QuantizeLinear", [f"y{i}", f"a{i + 1}_scale", f"a{i + 1}_zero"], [made]),
        ]
        value = made
    constants += _scale(steps[-1], f"a{len(net.weights)}")
    ends = [
        helper.make_tensor_value_info(port, TensorProto.UINT8, [1, size])
        for port, size in (("x", net.weights[0].shape[0]), ("y", net.weights[-1].shape[1]))
    ]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], constants, doc_string=doc)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="limpet")
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _scale(step: Scale, name: str) -> list[TensorProto]:
    return [
        numpy_helper.from_array(np.array(step.scale, np.float32), f"{name}_scale"),
        numpy_helper.from_array(np.array(step.zero, np.uint8), f"{name}_zero"),
    ]
