"""What a model is: `model.toml`, schema 1, read strictly into frozen types.

Owns: the vocabulary of ports, artifacts and golden inputs (docs/models.md explains every key), and the rules that
span keys. Refuses: unknown keys, dimensions left open, state ports that do not fit each other, file names that leave
the model's folder, files larger than their limit. Reads `model.toml` and the labels file and nothing else: the
artifacts are the business of `agent.registry`. Every refusal is a ModelError that names file, table and key.
"""

import hashlib
from pathlib import Path

from agent.errors import ConfigError, ModelError
from agent.manifest.rules import open_dimensions, problems, stays_inside
from agent.manifest.tables import (
    RUNTIME_OF,
    Artifact,
    Budget,
    Dtype,
    Format,
    Golden,
    Input,
    Layout,
    Manifest,
    Port,
    PortChange,
    Requires,
    Rounding,
    Runtime,
    StatePair,
    Step,
    Table,
)
from agent.strict import build
from agent.tomlfile import parse, read_plain

__all__ = [
    "MANIFEST_FILE", "RUNTIME_OF", "Artifact", "Budget", "Dtype", "Format", "Golden", "Input", "Layout", "Manifest",
    "Port", "PortChange", "Requires", "Rounding", "Runtime", "StatePair", "Step", "load_manifest", "stays_inside",
]  # fmt: skip

MANIFEST_FILE = "model.toml"
MANIFEST_LIMIT_BYTES = 256 * 1024
LABELS_LIMIT_BYTES = 1024 * 1024


def load_manifest(folder: Path) -> Manifest:
    """Read and check `folder`/model.toml. Raises ModelError that names file, table and key, all problems at once."""
    path = folder / MANIFEST_FILE
    text = _read(path, MANIFEST_LIMIT_BYTES, "manifest")
    try:
        raw = parse(text)
    except ValueError as exc:
        raise ModelError(f"{path}: this is not TOML in UTF-8: {exc}") from exc
    _refuse([f"{path}: {problem}" for problem in open_dimensions(raw)])
    try:
        table = build(Table, raw, str(path))
    except ConfigError as exc:
        raise ModelError(str(exc)) from exc
    _refuse([f"{path}: {problem}" for problem in problems(table)])
    labels_text = _read(folder / table.labels_file, LABELS_LIMIT_BYTES, "labels file") if table.labels_file else b""
    labels = table.labels or _labels(labels_text, folder / table.labels_file)
    digest = hashlib.sha256(text + b"\0" + labels_text).hexdigest()
    return Manifest(
        folder=folder, digest=digest, name=table.name, version=table.version, modality=table.modality,
        inputs=table.input, outputs=table.output, states=table.state, artifacts=table.artifact, labels=labels,
        window=table.window, pre=table.pre, decoder=table.decoder, goldens=table.golden, accuracy=table.accuracy,
        labels_file=table.labels_file,
        description=table.description, licence=table.licence, origin=table.origin, training=table.training,
        demonstration=table.demonstration,
        budget=table.budget, post=table.post,
    )  # fmt: skip


def _read(path: Path, limit_bytes: int, what: str) -> bytes:
    try:
        data = read_plain(path, limit_bytes)
    except OSError as exc:
        raise ModelError(f"{path}: the {what} cannot be read: {exc.strerror}: put it there") from exc
    if len(data) > limit_bytes:
        raise ModelError(f"{path}: the {what} is larger than {limit_bytes} bytes: shorten it")
    return data


def _labels(data: bytes, path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in data.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as exc:
        raise ModelError(f"{path}: the labels file is not UTF-8: {exc}: convert it") from exc


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ModelError("\n".join(problems))
