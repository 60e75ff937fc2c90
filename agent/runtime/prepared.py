"""Prepared files: what a runtime makes of a model's weights, made once at install, so that they can be mapped.

Both runtimes pack weights into a form of their own when they load a model, into private memory. Packed once and kept as
a file, that form is mapped instead: shared between processes, given back under pressure, there at once. Rules:

- A folder of prepared files belongs to one model file (its sha256), one runtime and version, one kind of CPU and one
  recipe. Any other is stale and not looked at: the runtimes use stale files without a word, and answer wrongly.
- Every file is read and compared with the record before each load: a flipped bit in packed weights is used silently
  too. XXH3-128 and not a cryptographic digest, because record and files have one owner: who may write the one may
  write the other, and permissions keep others away. It costs what reading the file does, and the first run reads it
  anyway.
- Files are written once, under another name, and never changed afterwards: whoever has one mapped keeps what it had.
- There are none of an encrypted model: they would hold its weights in the clear.
"""

import hashlib
import json
import os
import platform
import stat
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import xxhash

from agent.durable import read_limited
from agent.errors import ModelError
from agent.manifest import Artifact

RECORD_FILE: Final = "record.json"
RECORD_LIMIT_BYTES: Final = 64 * 1024
RECIPES: Final[Mapping[str, str]] = {"onnxruntime": "saved-graph-1", "litert": "weight-cache-1"}
"""Runtime of a manifest -> how its files are prepared; the number changes with the way they are made or loaded."""
GRAPH: Final = "model.onnx"
"""ONNX Runtime: the optimised graph."""
WEIGHTS: Final = "weights.data"
"""ONNX Runtime: its weights, as they were and packed."""
CACHE: Final = "weights.xnnpack"
"""LiteRT: XNNPACK's packed weights."""
_FILES: Final = {"onnxruntime": (GRAPH, WEIGHTS), "litert": (CACHE,)}
_PACKAGES: Final = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert"}
_BLOCK_BYTES: Final = 1 << 18
"""Small enough for a processor's cache, so that what was read is hashed there."""


@dataclass(frozen=True, slots=True)
class Key:
    """What prepared files are good for."""

    model: str
    """SHA-256 of the model file, 64 hex digits."""
    runtime: str
    """As the manifest calls it."""
    version: str
    """Of the runtime's package."""
    cpu: str
    """Digest of the processor's model and features, see `cpu_digest`."""
    recipe: str

    @property
    def folder(self) -> str:
        """Name of the folder in the folder of prepared files."""
        return f"{self.model[:16]}-{self.runtime}-{self.version}-{self.cpu}"


@dataclass(frozen=True, slots=True)
class Blob:
    """One prepared file."""

    name: str
    size_bytes: int
    digest: str
    """XXH3-128, 32 hex digits."""


@dataclass(frozen=True, slots=True)
class Record:
    """What lies beside the files, as JSON."""

    key: Key
    files: tuple[Blob, ...]
    refused: str = ""
    """Why there are no files: preparing this model gains nothing here. Then `files` is empty."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured when they were made: plain and prepared, units in the names."""

    def encode(self) -> bytes:
        return json.dumps({"schema": 1, **asdict(self)}, indent=1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Verified prepared files, for `open_runner`. Plain values: a child process can be given them."""

    recipe: str
    files: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Place:
    """Where prepared files lie, and for which models they are worth it: [models] of the configuration."""

    folder: Path
    from_bytes: int = 4_000_000
    """Smallest model file."""
    limit_bytes: int = 4_096_000_000
    """Room for all of them."""


class UnpreparedError(ModelError):
    """There are no prepared files that may be used; the model is loaded plainly."""


class NoGainError(UnpreparedError):
    """Preparing this model was tried here and gains nothing: nobody needs to do anything."""


def key_of(artifact: Artifact) -> Key:
    """What prepared files of `artifact` must be good for on this machine. Raises UnpreparedError."""
    runtime = artifact.runs_on
    if runtime not in RECIPES or artifact.format not in ("onnx", "tflite"):
        raise UnpreparedError(f"{artifact.file}: files of format {artifact.format} are not prepared")
    version = installed_version(_PACKAGES[runtime])
    if not version:
        raise UnpreparedError(f"{_PACKAGES[runtime]} is not installed as a package, so nothing tells its version")
    return Key(artifact.sha256, runtime, version, cpu_digest(), RECIPES[runtime])


@lru_cache(maxsize=8)
def installed_version(package: str) -> str:
    """By the name of its folder beside the package; empty when there is none.

    Python's own importlib.metadata answers the same and takes 3 MB of private memory for it.
    """
    stem = package.replace("-", "_")
    for place in sys.path:
        for path in Path(place).glob(f"{stem}-*.dist-info") if place else ():
            return path.name.removeprefix(f"{stem}-").removesuffix(".dist-info")
    return ""


@lru_cache(maxsize=1)
def cpu_digest() -> str:
    """12 hex digits of the SHA-256 of architecture, model and features of the processor: packing depends on them."""
    told = {platform.machine()}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in names:
            told.add(f"{name}: {' '.join(sorted(value.split()))}")
    return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()[:12]


def find_prepared(root: Path, key: Key) -> Prepared:
    """The files for `key` in the folder of prepared files `root`, every byte of them read and compared.

    Raises NoGainError when preparing was tried and gains nothing, UnpreparedError with the reason when there are none
    or when they may not be used.
    """
    folder = root / key.folder
    record = read_record(folder)
    if record.key != key:
        raise UnpreparedError(f"{folder}: they were made {_apart(record.key, key)}: prepare the model again")
    if record.refused:
        raise NoGainError(record.refused)
    if tuple(blob.name for blob in record.files) != _FILES[key.runtime]:
        raise UnpreparedError(f"{folder}: its record names other files than the recipe makes: prepare the model again")
    _refuse_foreign(root, folder)
    for blob in record.files:
        _refuse_damaged(folder, blob)
    return files_of(key.runtime, folder)


def files_of(runtime: str, folder: Path) -> Prepared:
    """The files that the recipe of `runtime` has in `folder`, whether they are there or not."""
    return Prepared(RECIPES[runtime], {name: folder / name for name in _FILES[runtime]})


def read_record(folder: Path) -> Record:
    """The record in a folder of prepared files. Raises UnpreparedError when there is none, or it is damaged."""
    path = folder / RECORD_FILE
    try:
        table = json.loads(read_limited(path, RECORD_LIMIT_BYTES))
        if table.pop("schema") != 1:
            raise ValueError("it is of another schema")
        key, files = Key(**table.pop("key")), tuple(Blob(**blob) for blob in table.pop("files"))
        return Record(key, files, **table)
    except FileNotFoundError as exc:
        raise UnpreparedError("there are none for this runtime and this processor (limpet models prepare)") from exc
    except OSError as exc:
        raise UnpreparedError(f"{path}: it cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise UnpreparedError(f"{path}: it is damaged ({exc}): prepare the model again") from exc


def measure(path: Path) -> Blob:
    """A prepared file as it lies on the disk. Raises OSError."""
    state, size_bytes = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        block = memoryview(bytearray(_BLOCK_BYTES))
        while count := file.readinto(block):
            state.update(block[:count])
            size_bytes += count
    return Blob(path.name, size_bytes, state.hexdigest())


def _refuse_damaged(folder: Path, blob: Blob) -> None:
    path = folder / blob.name
    try:
        if path.stat().st_size == blob.size_bytes and measure(path) == blob:
            return
    except OSError as exc:
        raise UnpreparedError(f"{path}: it cannot be read: {exc.strerror}: prepare the model again") from exc
    raise UnpreparedError(f"{path}: it is damaged (not what its record says): prepare the model again")


def _refuse_foreign(root: Path, folder: Path) -> None:
    """Who may write the files chooses what runs: root, this user, or the owner of the folder of prepared files, which
    the operator named; and nobody by way of the group or the world."""
    try:
        owners = {0, os.geteuid(), root.stat().st_uid}
        for path in (root, folder, *folder.iterdir()):
            status = path.lstat()
            if status.st_uid not in owners or status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
                words = f"{path}: others than its owner may write to it, or it is somebody else's"
                raise UnpreparedError(f"{words}: remove it and prepare the model again")
            if stat.S_ISLNK(status.st_mode):
                raise UnpreparedError(f"{path}: it is a link: remove it and prepare the model again")
    except OSError as exc:
        raise UnpreparedError(f"{folder}: it cannot be looked at: {exc.strerror}") from exc


def _apart(made: Key, wanted: Key) -> str:
    """In which respect two keys differ, in words."""
    ours: dict[str, Any] = asdict(wanted)
    names = {"model": "for another model file", "cpu": "on another kind of processor"}
    apart = [name for name, value in asdict(made).items() if value != ours[name]]
    return ", ".join(names.get(name, f"for {name} {getattr(made, name)}") for name in apart) or "otherwise"
