"""How a picture becomes a port: which port takes one, and the steps before it.

Owns the guesses about size, cut, order of colours and range of numbers. What a quantised port's scale and zero point
span tells its range; for a float port the family of the model does, or its exporter, and otherwise it is a guess that
says so. Channel means are those of ImageNet as torchvision's models want them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.skeleton.facts import SMALLEST_SIDE_PX, Facts, Shaped
from agent.skeleton.parts import Keys, Part, Sure

UNIT: Keys = {"step": "normalise", "divide_by": 255.0}
SIGNED: Keys = {"step": "normalise", "mean": [127.5], "std": [127.5]}
IMAGENET: Keys = {"step": "normalise", "divide_by": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PLAIN: Keys = {"step": "normalise"}
"""What public models want of 0..255: 0..1, -1..1, ImageNet's mean 0 and deviation 1, or the numbers as they are."""
_SPANS = (
    ((0.0, 1.0), UNIT, "0..1"), ((-1.0, 1.0), SIGNED, "-1..1"), ((0.0, 255.0), PLAIN, "0..255"),
    ((-128.0, 127.0), {"step": "normalise", "mean": [128.0]}, "-128..127"),
    ((-2.12, 2.64), IMAGENET, "ImageNet's mean 0 and deviation 1"),
)  # fmt: skip
_MEL_BANDS = {10, 12, 13, 16, 20, 23, 26, 30, 32, 40, 64, 80, 96, 128}
"""Widths that public models' spectrograms and cepstra have: a port as wide may be no picture."""


@dataclass(frozen=True, slots=True)
class Family:
    """How the pictures of a public family of models are prepared, where that differs from the usual."""

    colour: str = "rgb"
    numbers: dict[str, Any] | None = None
    fit: str = "stretch"
    """stretch, or letterbox."""
    interpolation: str = "linear"


FAMILIES: dict[str, tuple[Family, str]] = {
    "ultralytics": (Family(numbers=UNIT, fit="letterbox"), "as Ultralytics trains and evaluates"),
    "yolox": (Family("bgr", PLAIN, "letterbox"), "as YOLOX feeds it: BGR, 0..255, the picture in the upper left"),
    "fastestdet": (Family("bgr", UNIT, interpolation="area"), "as FastestDet's own example feeds it"),
    "nanodet": (Family("bgr", {"step": "normalise", "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]}),
                "as NanoDet's own configuration says"),
    "ultralight": (Family(numbers={"step": "normalise", "mean": [127.0], "std": [128.0]}),
                   "as Ultra-Light-Fast's own example feeds it"),
    "scrfd": (Family(numbers={"step": "normalise", "mean": [127.5], "std": [128.0]}, fit="letterbox"),
              "as InsightFace feeds it"),
    "yunet": (Family("bgr", PLAIN), "as OpenCV feeds it"),
    "blazeface": (Family(numbers=SIGNED, fit="letterbox"), "as MediaPipe feeds it"),
    "mediapipe": (Family(numbers=UNIT, fit="letterbox"), "as MediaPipe feeds it, from a square around the thing"),
    "tf": (Family(numbers=SIGNED, interpolation="area"), "as TensorFlow's detectors and classifiers were trained"),
    "imagenet": (Family(numbers=IMAGENET, interpolation="linear"), "as PyTorch's classifiers were trained"),
}  # fmt: skip


def picture_port(facts: Facts) -> Shaped | None:
    """The first input that takes a picture."""
    return next((port for port in facts.inputs if picture_size(port, facts)), None)


def layout(port: Shaped) -> str:
    """NHWC, NCHW, or nothing."""
    if len(port.shape) != 4:
        return ""
    if port.shape[3] in (1, 3) and (port.shape[1] not in (1, 3) or port.shape[3] == 3):
        return "NHWC"
    return "NCHW" if port.shape[1] in (1, 3) else ""


def channels(port: Shaped) -> int:
    if len(port.shape) < 4:
        return 3 if len(port.shape) == 3 and port.shape[2] == 3 else 1
    return port.shape[3] if layout(port) == "NHWC" else port.shape[1]


def picture_size(port: Shaped, facts: Facts) -> tuple[int, int] | None:
    """Height and width when the port looks like a picture."""
    size = _size(port)
    if size is None or min(size) < SMALLEST_SIDE_PX or port.dtype in ("int32", "int64", "bool"):
        return None
    if channels(port) == 3 or facts.note(port).colour:
        return size
    named = any(word in facts.said_name(port) for word in ("image", "img", "picture", "pixel"))
    square = size[0] == size[1] and size[0] not in (40, 80)
    span = port.span
    bytes_of_a_picture = port.dtype in ("int8", "uint8") and abs(span[1] - span[0] - 1) < 0.01
    features = size[1] in _MEL_BANDS and size[0] != size[1]
    return size if named or bytes_of_a_picture or square or not features else None


def _size(port: Shaped) -> tuple[int, int] | None:
    shape = port.shape
    if layout(port) == "NHWC":
        return shape[1], shape[2]
    if layout(port) == "NCHW":
        return shape[2], shape[3]
    if len(shape) == 3:
        return (shape[0], shape[1]) if shape[2] == 3 else (shape[1], shape[2]) if shape[0] == 1 else None
    return None


def steps(facts: Facts, port: Shaped, family: str) -> Iterator[Part]:
    """[[pre]] for a port that takes pictures."""
    known, why = FAMILIES.get(family, (None, ""))
    yield _fitted(facts, port, known, why)
    yield _coloured(facts, port, known, why)
    numbers = _numbers(facts, port, known, why)
    if numbers is not None:
        yield numbers


def _fitted(facts: Facts, port: Shaped, known: Family | None, why: str) -> Part:
    size = picture_size(port, facts)
    assert size is not None
    keys: dict[str, Any] = {"step": "resize", "width_px": size[1], "height_px": size[0]}
    open_sizes = any(axis > 0 for axis in port.open)
    told = "the graph leaves the size open: this is usual" if open_sizes else f"the port is {size[1]} x {size[0]}"
    sure: Sure = "guess" if open_sizes else "likely"
    if known and known.fit == "letterbox":
        more = {"align": "top_left"} if known.colour == "bgr" else {}
        fill = {"fill": 0} if why.endswith("MediaPipe feeds it") else {}
        keys |= {"step": "letterbox", "interpolation": known.interpolation, **more, **fill}
        return Part(keys, sure, f"{told}; shape kept, {why}", 'step = "resize" stretches the whole picture')
    keys["interpolation"] = known.interpolation if known else "area"
    return Part(keys, sure, f"{told}; the whole picture, stretched",
                'step = "letterbox" keeps its shape; a step "centre_crop" before it takes the middle')  # fmt: skip


def _coloured(facts: Facts, port: Shaped, known: Family | None, why: str) -> Part:
    if channels(port) == 1:
        return Part({"step": "colour", "to": "grey"}, "known", "the port has one channel")
    note = facts.note(port).colour
    if note:
        return Part({"step": "colour", "to": "rgb" if note == "rgb" else "grey"}, "known", "noted in the file")
    if known:
        return Part({"step": "colour", "to": known.colour}, "likely", why)
    if facts.format == "tflite":
        return Part({"step": "colour", "to": "rgb"}, "likely", "TFLite models take RGB nearly always")
    other = 'to = "bgr" (Caffe, OpenCV, OpenVINO)'
    return Part({"step": "colour", "to": "rgb"}, "guess", "most models take RGB", other)


def _numbers(facts: Facts, port: Shaped, known: Family | None, why: str) -> Part | None:
    """What makes the port's numbers of 0..255; None where bytes are fed as they are."""
    if port.dtype == "uint8":
        return None
    if port.scale:
        return _by_span(port)
    if port.dtype == "int8":
        return Part({"step": "normalise", "mean": [128.0]}, "guess", "int8 without a scale: bytes moved by 128")
    note = facts.note(port)
    if note.mean and note.std:
        keys = {"step": "normalise", "mean": [*note.mean], "std": [*note.std]}
        return Part(keys, "known", "mean and std as noted in the file")
    if known and known.numbers is not None:
        return Part(known.numbers, "likely", why, _others(known.numbers))
    if _inside(facts, port):
        return Part(PLAIN, "likely", "the graph itself begins with arithmetic on the picture: it takes 0..255",
                    _others(PLAIN))  # fmt: skip
    usual = UNIT if facts.format != "tflite" else SIGNED
    return Part(usual, "guess", "the file does not say which range its floats have", _others(usual))


def _by_span(port: Shaped) -> Part:
    low, high = port.span
    for (first, last), keys, words in _SPANS:
        if abs(low - first) <= 0.03 * (last - first) and abs(high - last) <= 0.03 * (last - first):
            told = f"scale and zero point span {low:.4g}..{high:.4g}, which is {words}"
            return Part(keys, "known", told)
    middle, half = (low + high) / 2, (high - low) / 2
    keys = {"step": "normalise", "mean": [round(127.5 - 127.5 * middle / half, 3)], "std": [round(127.5 / half, 4)]}
    return Part(keys, "guess", f"0..255 laid over {low:.4g}..{high:.4g}, what scale and zero point span")


def _inside(facts: Facts, port: Shaped) -> bool:
    """Whether the first operator behind the port changes the range."""
    first = next((op for op in facts.graph.ops if port.name in op.inputs), None)
    return first is not None and first.kind.upper() in ("SUB", "DIV", "MUL", "ADD", "CAST")


def _others(chosen: dict[str, Any]) -> str:
    ways = (
        (UNIT, "divide_by = 255.0 for 0..1"), (SIGNED, "mean = [127.5], std = [127.5] for -1..1"),
        (PLAIN, 'step = "normalise" alone for 0..255'),
    )  # fmt: skip
    return "; ".join(words for keys, words in ways if keys != chosen)
