"""Writes a guess as `model.toml`, each part with how sure it is and why.

Owns the layout and the words before a guess: `known`, `likely`, and `???` for what should be checked. Comments keep to
the width of the page; strings are JSON's, which are TOML's as well.
"""

import hashlib
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from agent.skeleton.facts import Facts, Shaped, is_silero
from agent.skeleton.parts import Guess, Labels, Part

_WIDTH = 110
"""Characters of a line."""
_GOLDEN = {"image": "png", "audio": "wav", "series": "csv"}
_WORDS = {"known": "known", "likely": "likely", "guess": "??? guess"}


def written(facts: Facts, guess: Guess, *, inline: bool = False) -> str:
    """The text of `model.toml`. `inline`: labels stand in it even where a file beside it has them."""
    lines = [
        *_top(facts, guess, inline),
        *(line for port in facts.inputs for line in _input(port, facts, guess)),
        *(line for port in facts.outputs for line in _port("output", port, facts)),
        *(line for take, give in guess.states for line in _state(take, give)),
        *_steps(guess),
        *_end(facts, guess),
    ]
    return "\n".join(lines) + "\n"


def _top(facts: Facts, guess: Guess, inline: bool) -> Iterator[str]:
    name = re.sub(r"[^a-z0-9._-]+", "-", facts.path.stem.lower()).strip("-._") or "model"
    yield "# Guessed from the model file: known, likely, or ??? for what to check. docs/models.md explains every key."
    for remark in guess.remarks:
        yield from _comment(f"??? {remark}")
    yield "schema = 1"
    yield f'name = "{name[:64]}"'
    yield 'version = "1.0.0"'
    yield from _comment(f"{_sure(guess.modality)}: {guess.modality.why}")
    yield f'modality = "{guess.modality.keys["modality"]}"'
    notes = facts.graph.notes
    for key, known, words in (
        ("description", notes.get("description", ""), "what it tells"),
        ("licence", notes.get("license", notes.get("licence", "")), "SPDX name"),
        ("origin", notes.get("author", ""), "where the file comes from"), ("training", "", "data and method"),
    ):  # fmt: skip
        told = "noted in the file" if known else f"??? {words}"
        yield f"{key} = {quoted(' '.join(known.split())[:300])}  # {told}"
    yield from _labels(guess.labels, inline)


def _labels(labels: Labels | None, inline: bool) -> Iterator[str]:
    if labels is None:
        yield '# labels = ["...", "..."]  # or labels_file = "labels.txt"; without them classes are told by number'
        return
    yield from _comment(f"{_WORDS[labels.sure]}: {labels.why}")
    if labels.file and not inline:
        yield f"labels_file = {quoted(labels.file)}"
        return
    whole = f"labels = [{', '.join(map(quoted, labels.names))}]"
    if len(whole) <= _WIDTH:
        yield whole
        return
    yield "labels = ["
    line = "   "
    for one in map(quoted, labels.names):
        if len(line) + len(one) + 2 > _WIDTH:
            yield line
            line = "   "
        line += f" {one},"
    yield line
    yield "]"


def _input(port: Shaped, facts: Facts, guess: Guess) -> Iterator[str]:
    yield from _port("input", port, facts)
    if port.name in guess.layouts:
        yield f'layout = "{guess.layouts[port.name]}"'
    if port.name in guess.constants:
        value, why = guess.constants[port.name]
        yield f"value = {value:g}  # {why}"


def _port(table: str, port: Shaped, facts: Facts) -> Iterator[str]:
    yield ""
    yield f"[[{table}]]"
    yield f"name = {quoted(port.name)}"
    yield f"shape = {list(port.shape)}{_shape_words(port, facts)}"
    yield f'dtype = "{port.dtype}"'
    if port.scale:
        yield f"scale = {port.scale!r}" + ("  # from the operator beside the port" if facts.format != "tflite" else "")
        yield f"zero_point = {port.zero_point}"
    elif facts.format != "tflite" and port.dtype in ("int8", "uint8") and not facts.graph.ops:
        yield "# scale = ???  # ONNX keeps it in the graph: see the (De)QuantizeLinear next to this port"
        yield "# zero_point = ???"


def _shape_words(port: Shaped, facts: Facts) -> str:
    if port.unknown:
        return "  # ??? the file does not say the shape: write it"
    left = [axis for axis in port.open if port.shape[axis] == -1]
    if left:
        return f"  # ??? dimension {left[0]} is open: write the size to run with"
    chosen = [str(axis) for axis in port.open if axis]
    if not chosen:
        return ""
    if port in facts.outputs and port.name in facts.answers:
        return "  # open in the file: as a run gave it"
    sure = "likely: this family's size" if is_silero(facts.inputs) else "??? a guess"
    return f"  # dimension {', '.join(chosen)} is open in the file; {sure}"


def _state(take: str, give: str) -> Iterator[str]:
    yield ""
    yield "# likely: the two ports are alike in shape and name: a state that is carried from run to run"
    yield "[[state]]"
    yield f"input = {quoted(take)}"
    yield f"output = {quoted(give)}"


def _steps(guess: Guess) -> Iterator[str]:
    if guess.window:
        yield from _part("[window]", guess.window)
    for part in guess.pre:
        yield from _part("[[pre]]", part)
    if guess.decoder:
        yield from _part("[decoder]", guess.decoder)
    else:
        yield from ("", "# [decoder]  # ??? what turns the outputs into findings")
    for part in guess.post:
        yield from _part("[[post]]", part)


def _part(head: str, part: Part) -> Iterator[str]:
    yield ""
    yield from _comment(f"{_sure(part)}: {part.why}" + (f"; else: {part.instead}" if part.instead else ""))
    yield head
    for key, value in part.keys.items():
        yield from _pair(key, value)


def _pair(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        yield f"{key} = ["
        for one in value:
            yield "    { " + ", ".join(f"{k} = {quoted(v)}" for k, v in one.items()) + " },"
        yield "]"
    else:
        yield f"{key} = {quoted(value)}"


def _end(facts: Facts, guess: Guess) -> Iterator[str]:
    yield ""
    yield "[[artifact]]"
    yield f"file = {quoted(facts.path.name)}"
    with facts.path.open("rb") as file:
        yield f'sha256 = "{hashlib.file_digest(file, "sha256").hexdigest()}"'
    yield f'format = "{facts.format}"'
    yield f'precision = "{_precision(facts)}"  # of the weights, as far as the ports and operators tell'
    yield ""
    yield "# A golden input makes `limpet models verify` meaningful:"
    yield "# [[golden]]"
    yield f'# input = "golden/one.{_GOLDEN.get(guess.modality.keys["modality"], "npy")}"'
    yield '# label = "what it shows"'


def _precision(facts: Facts) -> str:
    dtype = facts.inputs[0].dtype if facts.inputs else "float32"
    whole = {"int8": "int8", "uint8": "int8", "int16": "int16", "float16": "float16"}.get(dtype, "float32")
    quantised = any(op.kind in ("DequantizeLinear", "QLinearConv", "ConvInteger") for op in facts.graph.ops)
    return "int8" if whole == "float32" and quantised else whole


def _sure(part: Part) -> str:
    return _WORDS[part.sure]


def _comment(text: str) -> Iterator[str]:
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    yield from (f"# {line}" for line in textwrap.wrap(clean, _WIDTH - 2))


def quoted(value: Any) -> str:
    """A TOML value."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
