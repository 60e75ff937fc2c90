"""Joins the graphs of a streaming model into one: a front end, feature extractors, one or more heads; ONNX in and out.

Public wake words come as several files in a row, each looking at the newest rows that the one before gave. Joined, they
are one model for the agent: one digest, one run per step, and the rows that are kept between two steps are state
tensors, which it carries, resets after a gap and never mixes between streams. Heads share what is before them. The
graphs are copied as they are (see `tools.join_graph`).

Each run takes `samples` samples, the newest `hop_samples` of which are new. State starts at zeros, so that scores mean
nothing until it is full: the manifest's step `words` waits for that. A file for it:

    name = "hey-computer"
    version = "1.0.0"
    samples = 1760
    hop_samples = 1280
    sample_scale = "int16"
    [[stage]]
    file = "melspectrogram.onnx"
    gain = 0.1
    shift = 2.0
    [[stage]]
    file = "embedding.onnx"
    rows = 76
    [[head]]
    file = "hey_computer.onnx"
    rows = 16
    labels = ["hey computer"]

    python -m tools.join_models chain.toml FOLDER
"""

import argparse
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from agent.errors import ConfigError, LimpetError, ModelError
from agent.strict import Range, build
from agent.tomlfile import parse, read_plain
from tools.join_graph import Joined, newest_opset

LIMIT_BYTES = 64 * 1024

_Rows = Annotated[int, Range(1, 65_536)]
_Name = Annotated[str, Range(1, 200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A graph that gives rows of features; the first one takes samples."""

    file: _Name
    rows: _Rows = 1
    """How many of the newest rows of the stage before it takes; nothing for the first."""
    gain: float = 1.0
    """What it gives is multiplied by it."""
    shift: float = 0.0
    """Then this is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A graph that gives scores."""

    file: _Name
    labels: Annotated[tuple[_Name, ...], Range(1, 1000)]
    """One per score."""
    rows: _Rows = 1
    """How many of the newest rows of the last stage it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFile:
    """The file that describes what is joined."""

    name: _Name
    version: str
    samples: Annotated[int, Range(1, 1 << 20)]
    """Samples of a run."""
    hop_samples: Annotated[int, Range(1, 1 << 20)]
    """New samples of a run; the others are those before them."""
    rate_hz: Annotated[int, Range(1000, 192_000)] = 16_000
    sample_scale: Literal["unit", "int16"] = "unit"
    """What the first graph takes: samples divided by 32768, or the numbers they are."""
    threshold: Annotated[float, Range(0, 1)] = 0.5
    patience: Annotated[int, Range(1, 1000)] = 1
    debounce_s: Annotated[float, Range(0, 3600)] = 1.0
    description: str = ""
    licence: str = ""
    origin: str = ""
    stage: Annotated[tuple[Stage, ...], Range(1, 8)]
    head: Annotated[tuple[Head, ...], Range(1, 16)]

    def __post_init__(self) -> None:
        if self.hop_samples > self.samples:
            raise ValueError(f"key 'hop_samples': {self.hop_samples} is more than samples = {self.samples}")


def joined(chain: ChainFile, folder: Path) -> tuple[Any, Joined]:
    """The joined model and what was made for it; files are relative to `folder`. Raises ModelError."""
    files = [*(stage.file for stage in chain.stage), *(head.file for head in chain.head)]
    made = Joined(chain.samples, newest_opset([folder / file for file in files]))
    rows, new, width = "samples", chain.samples, 1
    for i, stage in enumerate(chain.stage):
        taken = stage.rows if i else chain.samples
        source = made.buffered(rows, new, width, taken, f"rows{i}") if i else rows
        out, shape = made.graph(folder / stage.file, f"stage{i}/", source, taken * width)
        new, width = math.prod(shape[:-1]), shape[-1]
        out = made.node("Mul", [out, made.constant(f"gain{i}", np.float32(stage.gain))], f"scaled{i}")
        out = made.node("Add", [out, made.constant(f"shift{i}", np.float32(stage.shift))], f"shifted{i}")
        rows = made.reshaped(out, (new, width), f"given{i}")
    scores = _heads(made, chain, folder, (rows, new, width))
    made.node("Concat", scores, "scores", axis=1)
    return made.model(sum(len(head.labels) for head in chain.head)), made


def _heads(made: Joined, chain: ChainFile, folder: Path, last: tuple[str, int, int]) -> list[str]:
    """The scores of every head, [1, labels] each, over one common store of rows."""
    rows, new, width = last
    whole = made.buffered(rows, new, width, max(head.rows for head in chain.head), "features")
    scores = []
    for i, head in enumerate(chain.head):
        source = made.newest(whole, head.rows, f"seen{i}")
        out, shape = made.graph(folder / head.file, f"head{i}/", source, head.rows * width)
        if math.prod(shape) != len(head.labels):
            raise ModelError(f"{folder / head.file}: it gives {math.prod(shape)} scores for {len(head.labels)} labels")
        scores.append(made.reshaped(out, (1, len(head.labels)), f"scores{i}"))
    return scores


def manifest(chain: ChainFile, made: Joined, sha256: str) -> str:
    """The text of model.toml for the joined model in model.onnx."""
    labels = [label for head in chain.head for label in head.labels]
    lead, settle = chain.samples - chain.hop_samples, sum(made.steps) * chain.hop_samples
    lines = ["schema = 1", *(f"{key} = {json.dumps(getattr(chain, key))}" for key in ("name", "version"))]
    lines += ['modality = "audio"', f"labels = {json.dumps(labels, ensure_ascii=False)}"]
    lines += [f"{key} = {json.dumps(getattr(chain, key))}" for key in ("description", "licence", "origin")]
    lines += _port("input", "samples", (made.samples,))
    lines += [line for kept in made.kept for line in _port("input", kept.name, kept.shape)]
    lines += _port("output", "scores", (1, len(labels)))
    for kept in made.kept:
        lines += _port("output", f"{kept.name}_next", kept.shape)
    for kept in made.kept:
        lines += ["", "[[state]]", f'input = "{kept.name}"', f'output = "{kept.name}_next"']
    lines += ["", "[window]", 'step = "frames"', f"rate_hz = {chain.rate_hz}"]
    lines += [f"length_s = {chain.samples / chain.rate_hz!r}", f"hop_s = {chain.hop_samples / chain.rate_hz!r}"]
    lines += [f"lead_s = {lead / chain.rate_hz!r}", "", "[[pre]]", 'step = "waveform"']
    lines += [f'sample_scale = "{chain.sample_scale}"', "", "[decoder]", 'step = "sounds"', "threshold = 0.0"]
    lines += [f"top_k = {len(labels)}", "", "[[post]]", 'step = "words"', f"threshold = {chain.threshold}"]
    lines += [f"patience = {chain.patience}", f"debounce_s = {chain.debounce_s}"]
    lines += [f"settle_s = {settle / chain.rate_hz!r}", "", "[[artifact]]", 'file = "model.onnx"']
    lines += [f'sha256 = "{sha256}"', 'format = "onnx"', 'precision = "mixed"']
    return "\n".join(lines) + "\n"


def _port(kind: str, name: str, shape: tuple[int, ...]) -> list[str]:
    return ["", f"[[{kind}]]", f'name = "{name}"', f"shape = {list(shape)}", 'dtype = "float32"']


def load_chain(path: Path) -> ChainFile:
    """Read the description. Raises ConfigError."""
    try:
        raw = read_plain(path, LIMIT_BYTES)
        if len(raw) > LIMIT_BYTES:
            raise ConfigError(f"{path}: it is larger than {LIMIT_BYTES} bytes")
        return build(ChainFile, parse(raw), str(path))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: it cannot be read: {exc}") from exc


def main(argv: list[str] | None = None) -> int:
    """Write model.onnx and model.toml into the folder; 1 with a message when that is not possible."""
    parser = argparse.ArgumentParser(description="Join the graphs of a streaming model into one.")
    parser.add_argument("chain", type=Path, metavar="CHAIN.toml", help="what is joined; files count from its folder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where model.onnx and model.toml are written")
    args = parser.parse_args(argv)
    try:
        chain = load_chain(args.chain)
        model, made = joined(chain, args.chain.parent)
    except LimpetError as exc:
        print(exc, file=sys.stderr)
        return 1
    data = model.SerializeToString(deterministic=True)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "model.onnx").write_bytes(data)
    (args.folder / "model.toml").write_text(manifest(chain, made, hashlib.sha256(data).hexdigest()))
    print(f"{args.folder}: {len(data)} bytes, {len(made.kept)} states")
    return 0


if __name__ == "__main__":
    sys.exit(main())
