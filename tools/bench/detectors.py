"""Detectors made for the benchmark: as small, as common and as slow as wanted, with weights from a fixed seed.

A MobileNet of depth-wise separable blocks down to a stride of 16, and the anchor-free head of FastestDet: per cell
objectness, four box numbers and 80 class scores, activated in the graph. What they see means nothing; what they cost
is that of their kind. The bias of objectness is set so that a few cells of a picture reach the threshold.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from agent.records import Array

CLASSES = 80
THRESHOLD = 0.5
STRIDE_PX = 16
SURE = 12.0
"""How far apart class scores are spread: enough that one class of a cell stands out, as in a trained model."""
SEEN = 4
"""Cells of the first picture that reach the threshold."""


@dataclass(frozen=True, slots=True)
class Detector:
    """One detector: `side_px` is that of its square input, `width` the channels behind the stem."""

    name: str
    side_px: int
    width: int
    blocks: int
    words: str

    @property
    def cells(self) -> int:
        """Cells in a row of its grid."""
        return self.side_px // STRIDE_PX


DETECTORS = (
    Detector("small", 144, 8, 4, "0.3 ms"),
    Detector("medium", 256, 24, 4, "2 ms"),
    Detector("large", 320, 24, 5, "4 ms"),
)
"""The milliseconds are those of one thread of a 2.8 GHz Xeon of 2021; what they take elsewhere is measured."""

_MANIFEST = """schema = 1
name = "{name}"
version = "1.0.0"
modality = "image"
description = "Made for the benchmark: weights are random."
licence = "Apache-2.0"
origin = "tools/bench/detectors.py"
labels = {labels}

[[input]]
name = "picture"
shape = [1, 3, {side}, {side}]
dtype = "float32"
layout = "NCHW"

[[output]]
name = "cells"
shape = [1, {channels}, {cells}, {cells}]
dtype = "float32"

[[pre]]
step = "resize"
width_px = {side}
height_px = {side}
interpolation = "linear"

[[pre]]
step = "normalise"
divide_by = 255

[decoder]
step = "box_grid"
columns = "object_box_classes"
move = "tanh"
grow = "sigmoid"
size_of = "picture"
activation = "none"
object_activation = "none"
object_power = 0.6
class_power = 0.4
threshold = {threshold}
nms_iou = 0.45

[[artifact]]
file = "model.onnx"
sha256 = "{sha256}"
format = "onnx"
precision = "float32"
"""


def write(folder: Path, detector: Detector, picture: Array) -> Path:
    """Write the model's folder, as the agent takes it, below `folder`; returns the ONNX file.

    `picture`: uint8 [height, width, 3] BGR, of the film that it will look at.
    """
    home = folder / detector.name
    home.mkdir(parents=True)
    file = home / "model.onnx"
    file.write_bytes(_calibrated(detector, picture))
    labels = [f"thing-{n}" for n in range(CLASSES)]
    text = _MANIFEST.format(
        name=detector.name, labels=str(labels).replace("'", '"'), side=detector.side_px, cells=detector.cells,
        channels=CLASSES + 5, threshold=THRESHOLD, sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )  # fmt: skip
    (home / "model.toml").write_text(text)
    return file


def _calibrated(detector: Detector, picture: Array) -> bytes:
    """The graph whose objectness lets `SEEN` cells of `picture` pass."""
    graph = _graph(detector, 0.0).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    small = cv2.resize(picture, (detector.side_px,) * 2).astype(np.float32) / 255
    (cells,) = session.run(None, {"picture": small.transpose(2, 0, 1)[None]})
    objects, classes = cells[0, 0].ravel(), cells[0, 5:].max(axis=0).ravel()
    least = np.minimum((THRESHOLD / classes**0.4) ** (1 / 0.6), 0.999)
    missing = np.log(least / (1 - least)) - np.log(objects / (1 - objects))
    return _graph(detector, float(np.sort(missing)[SEEN])).SerializeToString()


@dataclass(slots=True)
class _Drawing:
    """A graph that grows layer by layer."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    last: str = "picture"
    channels: int = 3

    def conv(self, out: int, size: int, stride: int = 1, groups: int = 1, bias: Array | None = None) -> None:
        """A convolution, and ReLU unless a bias is given: that is the head."""
        shape = (out, self.channels // groups, size, size)
        scale = np.full((out, 1, 1, 1), np.sqrt(2.0 / np.prod(shape[1:])))
        scale[5:] *= 1.0 if bias is None else SURE
        names = [self._weight(self.rng.normal(0, scale, shape)), self._weight(np.zeros(out) if bias is None else bias)]
        pads = [size // 2] * 4
        self.add("Conv", *names, kernel_shape=[size, size], strides=[stride] * 2, pads=pads, group=groups)
        self.channels = out
        if bias is None:
            self.add("Relu")

    def block(self, out: int, stride: int) -> None:
        """A depth-wise separable block."""
        self.conv(self.channels, 3, stride, groups=self.channels)
        self.conv(out, 1)

    def add(self, kind: str, *weights: str, outputs: int = 1, **attributes: object) -> list[str]:
        """A node behind the last one; returns its outputs."""
        made = [f"t{len(self.nodes)}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(kind, [self.last, *weights], made, **attributes))
        self.last = made[0]
        return made

    def _weight(self, values: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name


def _graph(detector: Detector, object_bias: float) -> onnx.ModelProto:
    drawing = _Drawing(np.random.default_rng(20260101))
    drawing.conv(detector.width, 3, stride=2)
    for out, stride in _blocks(detector):
        drawing.block(out, stride)
    bias = np.zeros(CLASSES + 5)
    bias[0] = object_bias
    drawing.conv(CLASSES + 5, 1, bias=bias)
    _head(drawing)
    side, cells = detector.side_px, detector.cells
    graph = helper.make_graph(
        drawing.nodes, detector.name,
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("cells", TensorProto.FLOAT, [1, CLASSES + 5, cells, cells])],
        drawing.weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _blocks(detector: Detector) -> Iterator[tuple[int, int]]:
    """Channels and stride of each block behind the stem."""
    width = detector.width
    yield from ((width * 2, 2), (width * 2, 1), (width * 4, 2), (width * 4, 1), (width * 8, 2))
    yield from ((width * 8, 1),) * detector.blocks


def _head(drawing: _Drawing) -> None:
    """Objectness by sigmoid, box numbers as they are, classes by softmax, together again as [1, 85, h, w]."""
    drawing.weights.append(numpy_helper.from_array(np.array([1, 4, CLASSES], np.int64), "split"))
    objects, boxes, classes = drawing.add("Split", "split", outputs=3, axis=1)
    drawing.last = objects
    (objects,) = drawing.add("Sigmoid")
    drawing.last = classes
    (classes,) = drawing.add("Softmax", axis=1)
    drawing.nodes.append(helper.make_node("Concat", [objects, boxes, classes], ["cells"], axis=1))
