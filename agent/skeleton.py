"""Writes the first `model.toml` of a model from its file: what the file knows is filled in, the rest is asked for."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.errors import ModelError
from agent.manifest import RUNTIME_OF, Format
from agent.runtime import Declared, declared_ports

_FORMATS: dict[str, Format] = {".tflite": "tflite", ".lite": "tflite", ".onnx": "onnx", ".ort": "ort"}


def skeleton(path: Path) -> str:
    """The text of a `model.toml` for the model file at `path`. Raises ModelError when it cannot be loaded.

    Open dimensions: the first becomes 1 (the batch), any other stays -1, which `load_manifest` refuses with
    the words that say what to write.
    """
    if path.suffix.lower() not in _FORMATS:
        raise ModelError(f"{path}: it must be a .tflite, .onnx or .ort file")
    kind = _FORMATS[path.suffix.lower()]
    inputs, outputs = declared_ports(path, RUNTIME_OF[kind])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [
        *_top(path, inputs),
        *(line for port in inputs for line in _port("input", port, kind)),
        *(line for port in outputs for line in _port("output", port, kind)),
        *_states(inputs, outputs),
        *_steps(inputs, outputs),
        "",
        "[[artifact]]",
        f"file = {_quoted(path.name)}",
        f'sha256 = "{sha256}"',
        f'format = "{kind}"',
        f'precision = "{_precision(inputs)}"  # of the weights, as far as the inputs tell',
        "",
        "# A golden input makes `limpet models verify` meaningful:",
        "# [[golden]]",
        '# input = "golden/one.png"',
        '# label = "what it shows"',
    ]
    return "\n".join(lines) + "\n"


def _top(path: Path, inputs: tuple[Declared, ...]) -> Iterator[str]:
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._") or "model"
    yield "# Written from the model file. docs/models.md explains every key; ??? asks for what the file cannot tell."
    yield "schema = 1"
    yield f'name = "{name[:64]}"'
    yield 'version = "1.0.0"'
    yield f'modality = "{_modality(inputs)}"  # ??? image, audio, series or tensor: guessed from the shape'
    for key, words in (
        ("description", "what it tells"), ("licence", "SPDX name"), ("origin", "where the file comes from"),
        ("training", "data and method"),
    ):  # fmt: skip
        yield f'{key} = ""  # ??? {words}'
    yield '# labels = ["...", "..."]  # or labels_file = "labels.txt"'


def _port(table: str, port: Declared, kind: Format) -> Iterator[str]:
    yield ""
    yield f"[[{table}]]"
    yield f"name = {_quoted(port.name)}"
    shape = [_pinned(axis, size) for axis, size in enumerate(port.shape or ())]
    left = [axis for axis, size in enumerate(shape) if size == -1]
    hint = f"  # ??? dimension {left[0]} is open: write the size to run with" if left else ""
    if port.shape is None:
        hint = "  # ??? the file does not say the shape: write it"
    yield f"shape = {shape}{hint}"
    yield f'dtype = "{port.dtype}"'
    if port.scale:
        yield f"scale = {port.scale!r}"
        yield f"zero_point = {port.zero_point}"
    elif kind != "tflite" and port.dtype in ("int8", "uint8"):
        yield "# scale = ???  # ONNX keeps it in the graph: see the (De)QuantizeLinear next to this port"
        yield "# zero_point = ???"
    if table == "input" and (layout := _layout(port)):
        yield f'layout = "{layout}"'
    if table == "input" and port.shape == () and port.dtype != "bool":
        yield "value = 0  # ??? a single number: a constant, e.g. the sampling rate; leave it out to feed it"


def _pinned(axis: int, size: int | None) -> int:
    if size is not None:
        return size
    return 1 if axis == 0 else -1


def _states(inputs: Iterable[Declared], outputs: tuple[Declared, ...]) -> Iterator[str]:
    """Pairs of ports whose names contain each other and whose shapes agree are likely a state that is carried."""
    for take in inputs:
        for give in outputs:
            if take.dtype == give.dtype and _alike(take, give):
                yield ""
                yield "# ??? Looks like a state that is carried from run to run:"
                yield "# [[state]]"
                yield f"# input = {_quoted(take.name)}"
                yield f"# output = {_quoted(give.name)}"


def _alike(take: Declared, give: Declared) -> bool:
    if len(take.shape or ()) < 2 or len(take.shape or ()) != len(give.shape or ()):
        return False
    ours, theirs = take.name.split("/")[-1].lower(), give.name.split("/")[-1].lower()
    return ours.removeprefix("init_") in theirs or theirs in ours


def _steps(inputs: tuple[Declared, ...], outputs: tuple[Declared, ...]) -> Iterator[str]:
    picture = next(((size, _layout(port), port) for port in inputs if (size := _picture(port))), None)
    if picture:
        (height, width), _, port = picture
        yield from ("", "[[pre]]  # ??? or letterbox, centre_crop: as in training")
        yield from ('step = "resize"', f"width_px = {width}", f"height_px = {height}", 'interpolation = "area"')
        yield from ("", "[[pre]]  # ??? pictures arrive as BGR; leave it out when the model was trained on BGR")
        yield from ('step = "colour"', f'to = "{"grey" if _channels(port) == 1 else "rgb"}"')
        if port.dtype != "uint8":
            yield from ("", "[[pre]]  # ??? 0..255 -> the numbers of the training")
            yield from ('step = "normalise"', "divide_by = 255.0")
    elif _modality(inputs) != "tensor":
        yield from ("", "# ??? [window] and [[pre]]: how sound or rows become the input")
    if outputs and len(outputs[0].shape or ()) == 2 and ((outputs[0].shape or (0, 0))[1] or 0) > 1:
        yield from ("", "[decoder]  # ??? one score per class", 'step = "classify"')
    else:
        yield from ("", "# [decoder]  # ??? what turns the outputs into findings")


def _picture(port: Declared) -> tuple[int, int] | None:
    """Height and width when the port looks like a picture."""
    shape, layout = port.shape or (), _layout(port)
    if not layout:
        return None
    height, width = shape[1:3] if layout == "NHWC" else shape[2:4]
    return (height, width) if height and width and min(height, width) >= 16 else None


def _layout(port: Declared) -> str:
    shape = port.shape or ()
    if len(shape) != 4:
        return ""
    if shape[3] in (1, 3):
        return "NHWC"
    return "NCHW" if shape[1] in (1, 3) else ""


def _channels(port: Declared) -> int:
    shape = port.shape or (0, 0, 0, 0)
    return (shape[3] if _layout(port) == "NHWC" else shape[1]) or 0


def _modality(inputs: tuple[Declared, ...]) -> str:
    if any(_picture(port) for port in inputs):
        return "image"
    sizes = [size or 0 for size in (inputs[0].shape or ())] if inputs else []
    if max(sizes, default=0) >= 8000 or len(sizes) == 4:
        return "audio"
    return "tensor"


def _precision(inputs: tuple[Declared, ...]) -> str:
    dtype = inputs[0].dtype if inputs else "float32"
    return {"int8": "int8", "uint8": "int8", "int16": "int16", "float16": "float16"}.get(dtype, "float32")


def _quoted(text: str) -> str:
    return json.dumps(text)
