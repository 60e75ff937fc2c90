"""An entry of the catalogue, read strictly: what a public model is, under which licence, and which bytes it is.

    <catalogue>/<name>/entry.toml       licence, origin, size and sha256 of every file to be fetched
    <catalogue>/<name>/model/           model.toml, golden inputs and outputs: made by the catalogue's keepers
    <catalogue>/<name>/pipeline.toml    a pipeline that uses it, for a source called SOURCE

An entry decides what runs as much as code does. So it must belong to root, to this user, or to the owner of the code,
and nobody else may write it. Refuses what contradicts itself: an artifact that no [[file]] brings with the sha256 of
model.toml, a file that would take the place of another, a golden input that is not there. Fetches nothing.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from agent.catalogue.origin import ORIGIN_PATTERN, ORIGIN_WORDS, PinnedFile
from agent.errors import ConfigError, ModelError
from agent.manifest import MANIFEST_FILE
from agent.manifest.tables import Table
from agent.registry import refuse_foreign
from agent.strict import Match, Range, build
from agent.tomlfile import parse, read_plain

ENTRY_FILE: Final = "entry.toml"
MODEL_FOLDER: Final = "model"
PIPELINE_FILE: Final = "pipeline.toml"
PERMISSIVE: Final = frozenset({"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT"})
"""SPDX ids that let anybody use a model for anything; any other licence is to be accepted by name."""
_TEXT_LIMIT_BYTES = 256 * 1024
_OWN_FILES_LIMIT = 64
_OWN_BYTES_LIMIT = 8_000_000

OriginText = Annotated[str, Match(ORIGIN_PATTERN, ORIGIN_WORDS)]


@dataclass(frozen=True, slots=True)
class Licence:
    """`[licence]`: under which words the files may be used."""

    id: Annotated[str, Match(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", "an SPDX licence id")]
    text: OriginText
    """Where the words stand: LICENSE or what takes its place, in the commit that the files come from."""
    attribution: Annotated[str, Range(1, 400)]
    """Whose work it is, as it must be named."""
    note: Annotated[str, Range(0, 400)] = ""
    """What somebody who uses it should know besides: data it was trained on, claims of its authors."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`[[file]]`: a file that the user's machine fetches."""

    path: Annotated[str, Match(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}", "a plain file name")]
    """Its name in the model's folder."""
    origin: OriginText
    sha256: Annotated[str, Match("[0-9a-f]{64}", "64 lower-case hex digits")]
    size_bytes: Annotated[int, Range(1, 2**32)]

    @property
    def pinned(self) -> PinnedFile:
        """The origin, taken apart."""
        return PinnedFile.parse(self.origin)


@dataclass(frozen=True, slots=True)
class EntryTable:
    """`entry.toml` as it is written."""

    schema: Literal[1]
    task: Annotated[str, Range(1, 60)]
    """What it is for, in the field's own words."""
    latency_ms: Annotated[float, Range(0.001, 600_000)]
    """Median time of one run, one thread, on the machine that docs/catalogue.md names, milliseconds."""
    licence: Licence
    file: Annotated[tuple[Wanted, ...], Range(1, 32)]


@dataclass(frozen=True, slots=True)
class Entry:
    """A public model that can be added."""

    folder: Path
    table: EntryTable
    model: Table
    """Its model.toml."""
    own: tuple[str, ...]
    """Files of `model/`, relative: what the catalogue itself brings."""

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def size_bytes(self) -> int:
        """What is to be fetched."""
        return sum(file.size_bytes for file in self.table.file)

    @property
    def permissive(self) -> bool:
        """Whether nothing needs to be accepted."""
        return self.table.licence.id in PERMISSIVE

    @property
    def pipeline(self) -> str:
        """The text of a pipeline for a source called SOURCE; empty when there is none. Raises ModelError."""
        path = self.folder / PIPELINE_FILE
        return _read(path).decode(errors="replace") if path.exists() else ""


def entries(catalogue: Path) -> tuple[Entry, ...]:
    """Every entry, by name. Raises ConfigError when there is no catalogue, ModelError for what is wrong in it."""
    return tuple(load_entry(catalogue / name) for name in names(catalogue))


def names(catalogue: Path) -> tuple[str, ...]:
    """What can be added. Raises ConfigError."""
    try:
        return tuple(sorted(path.name for path in catalogue.iterdir() if (path / ENTRY_FILE).is_file()))
    except OSError as exc:
        words = f"{catalogue}: this catalogue of models cannot be read: {exc.strerror}"
        raise ConfigError(f"{words}: name one with --catalogue DIR") from exc


def load_entry(folder: Path) -> Entry:
    """Read and check one entry. Raises ModelError that says all that is wrong with it."""
    own = _own_files(folder / MODEL_FOLDER)
    texts = (folder / name for name in (ENTRY_FILE, PIPELINE_FILE) if os.path.lexists(folder / name))
    for path in (folder.parent, folder, folder / MODEL_FOLDER, *texts):
        refuse_foreign(path)
    try:
        table = build(EntryTable, _toml(folder / ENTRY_FILE), str(folder / ENTRY_FILE))
        model = build(Table, _toml(folder / MODEL_FOLDER / MANIFEST_FILE), str(folder / MODEL_FOLDER / MANIFEST_FILE))
    except ConfigError as exc:
        raise ModelError(str(exc)) from exc
    entry = Entry(folder, table, model, own)
    if wrong := [f"{folder / ENTRY_FILE}: {problem}" for problem in _problems(entry)]:
        raise ModelError("\n".join(wrong))
    return entry


def _problems(entry: Entry) -> Iterator[str]:
    """What spans several keys and both files."""
    fetched = {file.path: file.sha256 for file in entry.table.file}
    model = entry.model
    if model.name != entry.folder.name:
        yield f"the model is called {model.name}: call the folder so too"
    if model.licence != entry.table.licence.id:
        yield f"licence id {entry.table.licence.id!r}, but model.toml says {model.licence!r}: write the same in both"
    if len(fetched) != len(entry.table.file):
        yield "two [[file]] have the same path: give each its own"
    for name in sorted(fetched.keys() & {*entry.own, ENTRY_FILE}):
        yield f"[[file]] path {name!r} is already a file of {MODEL_FOLDER}/: fetch it or bring it, not both"
    for artifact in model.artifact:
        if fetched.get(artifact.file) != artifact.sha256:
            yield f"no [[file]] has path {artifact.file!r} and the sha256 that model.toml gives: {artifact.sha256}"
    needed = [model.labels_file, *(name for golden in model.golden for name in (golden.input, golden.output))]
    for name in sorted(set(filter(None, needed)) - fetched.keys() - set(entry.own)):
        yield f"model.toml names {name!r}, which is neither in {MODEL_FOLDER}/ nor fetched"
    if not model.golden:
        yield "model.toml has no [[golden]] input: without one nobody knows whether the model works on their machine"


def _own_files(folder: Path) -> tuple[str, ...]:
    """The plain files in `folder`, each checked. Raises ModelError for links, pipes, foreign files, too much."""
    found, size_bytes = [], 0
    for path in sorted(folder.rglob("*")):
        kind = path.lstat()
        if not (stat.S_ISREG(kind.st_mode) or stat.S_ISDIR(kind.st_mode)):
            raise ModelError(f"{path}: this is no plain file: a catalogue holds nothing else")
        refuse_foreign(path)
        if stat.S_ISDIR(kind.st_mode):
            continue
        found.append(str(path.relative_to(folder)))
        size_bytes += kind.st_size
    if len(found) > _OWN_FILES_LIMIT or size_bytes > _OWN_BYTES_LIMIT:
        most = f"at most {_OWN_FILES_LIMIT} files and {_OWN_BYTES_LIMIT / 1e6:.0f} MB are allowed"
        raise ModelError(f"{folder}: {len(found)} files, {size_bytes / 1e6:.1f} MB: {most}: let large ones be fetched")
    return tuple(found)


def _toml(path: Path) -> dict[str, object]:
    try:
        return parse(_read(path))
    except ValueError as exc:
        raise ModelError(f"{path}: this is not TOML in UTF-8: {exc}") from exc


def _read(path: Path) -> bytes:
    try:
        data = read_plain(path, _TEXT_LIMIT_BYTES)
    except OSError as exc:
        raise ModelError(f"{path}: it cannot be read: {exc.strerror}: an entry needs it") from exc
    if len(data) > _TEXT_LIMIT_BYTES:
        raise ModelError(f"{path}: it is larger than {_TEXT_LIMIT_BYTES} bytes: shorten it")
    return data
