"""Packages: the files of a folder as blobs, with every way to bring them that is worth its bytes."""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from agent.envelope.keys import ReaderPublic
from agent.errors import ConfigError, UpdateError
from agent.package import Blob, Delta, FileEntry, Kind, PackageManifest
from agent.package.chunks import cut, encode_chunks
from agent.package.recipients import wrap
from agent.package.sealed import CONTENT_KEY_BYTES, seal
from agent.package.squeeze import difference, squeeze
from agent.repository.workspace import Workspace

CHUNKED_FROM_BYTES: Final = 128 * 1024
"""A smaller file is fetched whole."""
DELTA_FROM_BYTES: Final = 1024
XZ_SHARE: Final = 0.9
"""xz is kept when it is below this share of the file."""
DELTA_SHARE: Final = 0.6
"""A delta is kept when it is below this share of the file, and below its xz."""
BASES: Final = 4
"""Deltas are made against so many versions before, at most."""
_BLOCK_BYTES: Final = 1 << 20
_SAMPLES: Final = 8
_SAMPLE_BYTES: Final = 32 * 1024
_SAMPLE_SHARE: Final = 0.97
"""Samples that stay above this share are of a file that is packed already."""


class _TooLargeError(Exception):
    """What is being made is not worth it any more."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a package."""

    kind: Kind
    name: str
    version: str
    files: Mapping[str, Path]
    """Path in the package -> file."""
    requires_agent: str = ""
    sealed: Collection[str] = ()
    """Paths that only `recipients` shall be able to read."""
    recipients: Sequence[ReaderPublic] = ()


def make_package(workspace: Workspace, contents: Contents, previous: Sequence[PackageManifest] = ()) -> PackageManifest:
    """Put the files into blobs/ and say how. Raises ConfigError for what cannot be read, or is named wrongly.

    `previous`: earlier versions, the newest first. The content key of sealed files is made here and kept nowhere.
    """
    key = os.urandom(CONTENT_KEY_BYTES)
    encryption = wrap(key, contents.name, contents.version, contents.recipients) if contents.recipients else None
    entries = []
    for path in sorted(contents.files):
        with _opened(contents.files[path]) as file:
            if encryption and path in contents.sealed:
                entries.append(_sealed_entry(workspace, contents, path, file, key))
            else:
                entries.append(_plain_entry(workspace, path, file, previous))
    try:
        made = PackageManifest(
            contents.kind, contents.name, contents.version, tuple(entries), contents.requires_agent, encryption
        )
        return PackageManifest.decode(made.encode(), made.target)  # what a device would refuse is refused here
    except (UpdateError, ValueError) as exc:
        raise ConfigError(f"this cannot be published: {exc}") from exc


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as exc:
        raise ConfigError(f"{path}: it cannot be read: {exc.strerror}") from exc


def _sealed_entry(workspace: Workspace, contents: Contents, path: str, file: BinaryIO, key: bytes) -> FileEntry:
    state, length = hashlib.sha256(), 0
    for block in _blocks(file):
        state.update(block)
        length += len(block)
    file.seek(0)
    sealed = workspace.keep(seal(file, key, contents.name, contents.version, path))
    return FileEntry(path, length, state.hexdigest(), sealed=sealed)


def _plain_entry(workspace: Workspace, path: str, file: BinaryIO, previous: Sequence[PackageManifest]) -> FileEntry:
    blob = workspace.keep(_blocks(file))
    for entry in (entry for manifest in previous for entry in manifest.files):
        if entry.sha256 == blob.sha256 and not entry.sealed:
            return replace(entry, path=path)  # packed once, for a version before
    with workspace.blob(blob.sha256).open("rb") as source:
        chunks = workspace.keep([encode_chunks(cut(source))]) if blob.length >= CHUNKED_FROM_BYTES else None
        source.seek(0)
        limit = int(XZ_SHARE * blob.length)
        xz = _kept_below(workspace, squeeze(_blocks(source)), limit) if _may_pack(source, blob.length) else None
    deltas = tuple(_deltas(workspace, path, blob, xz, previous))
    return FileEntry(path, blob.length, blob.sha256, xz, chunks, deltas)


def _deltas(
    workspace: Workspace, path: str, blob: Blob, xz: Blob | None, previous: Sequence[PackageManifest]
) -> Iterator[Delta]:
    """Deltas from earlier files of this path and length."""
    limit = min(int(DELTA_SHARE * blob.length), xz.length if xz else blob.length)
    done = {blob.sha256}
    for manifest in previous[:BASES]:
        base = manifest.file(path)
        if base is None or base.sealed or base.length != blob.length or base.sha256 in done:
            continue
        done.add(base.sha256)
        if blob.length < DELTA_FROM_BYTES or not workspace.blob(base.sha256).is_file():
            continue
        with workspace.blob(base.sha256).open("rb") as old, workspace.blob(blob.sha256).open("rb") as new:
            if delta := _kept_below(workspace, squeeze(difference(old, new)), limit):
                yield Delta(base.sha256, delta.length, delta.sha256)


def _kept_below(workspace: Workspace, pieces: Iterable[bytes], limit: int) -> Blob | None:
    """The pieces as a blob, if they come to less than `limit` bytes; given up as soon as they do not."""
    try:
        return workspace.keep(_below(pieces, limit))
    except _TooLargeError:
        return None


def _below(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    left = limit
    for piece in pieces:
        left -= len(piece)
        if left <= 0:
            raise _TooLargeError
        yield piece


def _may_pack(file: BinaryIO, length: int) -> bool:
    """Whether trying is worth it: a wheel of a hundred MB that is packed already would cost minutes to learn so."""
    if length < _SAMPLES * _SAMPLE_BYTES:
        return True
    sample = b""
    for number in range(_SAMPLES):
        file.seek((length - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
        sample += file.read(_SAMPLE_BYTES)
    file.seek(0)
    return len(b"".join(squeeze([sample]))) < _SAMPLE_SHARE * len(sample)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block
