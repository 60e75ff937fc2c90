"""Publishing: copying public/ to where devices fetch it, in an order that never leaves a broken mirror.

Blobs, then targets, then numbered metadata, then roots, and timestamp.json last: until that one file is replaced, a
device sees the old repository, whole. (A root that gives another role a new key is in force when it is there; until
the timestamp follows, the next file, devices find nothing valid and ask again later.) What has a number or a hash in
its name is written once and never changed. The end is a check with The Update Framework's own client, through the
mirror.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Timestamp
from tuf.ngclient import FetcherInterface, Updater

from agent.durable import read_limited, sync_folder
from agent.errors import ConfigError
from agent.package import Blob, PackageManifest
from agent.repository.online import refresh
from agent.repository.roles import TARGETS, TIMESTAMP, Roles
from agent.repository.workspace import METADATA_LIMIT_BYTES, Workspace

_BASE: Final = "mirror:///"
_TIMESTAMP_FILE: Final = "metadata/timestamp.json"


class Mirror(Protocol):
    """A place that devices fetch from. Every method raises ConfigError with the place's own words."""

    def size(self, path: str) -> int | None:
        """Bytes of a file, or None when it is not there."""

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """A small file, or None when it is not there."""

    def write(self, path: str, source: Path, fixed: bool) -> None:
        """Put a file there, whole or not at all. `fixed`: it will never change, and may be kept by caches."""


@dataclass(frozen=True, slots=True)
class FolderMirror:
    """A folder that a web server serves, or a USB stick."""

    folder: Path

    def size(self, path: str) -> int | None:
        """Bytes of a file, or None when it is not there."""
        try:
            return (self.folder / path).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._failed(exc) from exc

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """A small file, or None when it is not there."""
        try:
            return read_limited(self.folder / path, limit_bytes)
        except FileNotFoundError:
            return None
        except ValueError as exc:
            raise ConfigError(str(exc)) from exc
        except OSError as exc:
            raise self._failed(exc) from exc

    def write(self, path: str, source: Path, fixed: bool) -> None:
        """Put a file there through a temporary name, durably."""
        target = self.folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, target)
        except OSError as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: OSError) -> ConfigError:
        return ConfigError(f"{exc.filename or self.folder}: {exc.strerror}: check the folder, its owner and its space")


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication did."""

    written: int
    written_bytes: int
    targets: int
    """Targets that were read back through the mirror, as a device reads them."""
    blobs: int
    """Blobs that are there with their length."""


def publish(roles: Roles, mirror: Mirror, tell: Callable[[str, int], None] = lambda _path, _bytes: None) -> Published:
    """Bring a mirror up to date, and check it. `tell` hears each file and its bytes before it is written.

    Raises ConfigError: when what would be published is not whole, when the mirror is ahead of it, when writing fails,
    and when a client does not accept the mirror afterwards.
    """
    _require_whole(roles)
    _require_not_behind(roles, mirror)
    written = written_bytes = 0
    for path, source, fixed in _files(roles.workspace):
        size = source.stat().st_size
        if fixed and mirror.size(path) == size:
            continue
        tell(path, size)
        mirror.write(path, source, fixed)
        written, written_bytes = written + 1, written_bytes + size
    targets, blobs = check(mirror, roles.workspace.anchor.read_bytes(), roles)
    return Published(written, written_bytes, targets, blobs)


def check(mirror: Mirror, root: bytes, roles: Roles) -> tuple[int, int]:
    """Read every target as a stock client does and find every blob; returns how many. Raises ConfigError."""
    targets, blobs = 0, set[Blob]()
    with tempfile.TemporaryDirectory(prefix="limpet-check-") as name:
        client = Updater(name, f"{_BASE}metadata/", name, f"{_BASE}targets/", _MirrorFetcher(mirror), bootstrap=root)
        try:
            client.refresh()
            for path in _signed_paths(roles):
                data = _fetched(client, path)
                targets += 1
                if path.startswith(("models/", "releases/")) and not path.endswith(("/stable.json", "/beta.json")):
                    blobs |= set(_blobs(PackageManifest.decode(data, path)))
        except (RepositoryError, DownloadError, OSError, ValueError) as exc:
            raise ConfigError(f"a client does not accept what was published: {exc}: publish again") from exc
    for blob in blobs:
        if (size := mirror.size(f"blobs/{blob.sha256}")) != blob.length:
            raise ConfigError(f"blobs/{blob.sha256} has {size} bytes there, not {blob.length}: publish again")
    return targets, len(blobs)


class _MirrorFetcher(FetcherInterface):
    """Lets the client read through a mirror instead of the network."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._mirror.read(unquote(url.removeprefix(_BASE)), METADATA_LIMIT_BYTES)
        if data is None:
            raise DownloadHTTPError(f"{url} is not there", 404)
        return iter([data])


def _fetched(client: Updater, path: str) -> bytes:
    info = client.get_targetinfo(path)
    if info is None:
        raise ValueError(f"target {path} is not found")
    return Path(client.download_target(info)).read_bytes()


def _signed_paths(roles: Roles) -> Iterator[str]:
    for role in (TARGETS, *roles.published_delegated()):
        if published := roles.published(role):
            yield from sorted(published.signed.targets)


def _blobs(manifest: PackageManifest) -> Iterator[Blob]:
    """Every blob that a package speaks of."""
    for file in manifest.files:
        yield file.stored
        yield from (blob for blob in (file.xz, file.chunks) if blob)
        yield from (delta.blob for delta in file.deltas)


def _require_whole(roles: Roles) -> None:
    """A broken repository is found here, before a device sees it."""
    if not refresh(roles):
        raise ConfigError("snapshot and timestamp do not fit what is signed: run 'limpet repo refresh' with their keys")
    check(FolderMirror(roles.workspace.public), roles.workspace.anchor.read_bytes(), roles)


def _require_not_behind(roles: Roles, mirror: Mirror) -> None:
    """Two workspaces that publish to one mirror would take devices back and forth."""
    there, mine = mirror.read(_TIMESTAMP_FILE, METADATA_LIMIT_BYTES), roles.published(TIMESTAMP)
    same = there == roles.workspace.read(roles.workspace.public / _TIMESTAMP_FILE)
    if there is None or mine is None or same:
        return
    try:
        version = Metadata[Timestamp].from_bytes(there).signed.version
    except (RepositoryError, ValueError) as exc:
        raise ConfigError(f"{_TIMESTAMP_FILE} on the mirror is damaged: {exc}: remove it, then publish again") from exc
    if version >= mine.signed.version:
        words = f"the mirror has timestamp {version}, this workspace {mine.signed.version}"
        raise ConfigError(f"{words}: another workspace publishes to it: go on from a copy of that one")


def _files(workspace: Workspace) -> Iterator[tuple[str, Path, bool]]:
    """Every public file in the order of publication: path, file, and whether it never changes."""
    targets = (path for path in (workspace.public / "targets").rglob("*") if path.is_file() and path.suffix != ".new")
    numbered = workspace.metadata.glob("[0-9]*.json")
    for path in (*sorted(workspace.blobs.glob("[0-9a-f]*")), *sorted(targets), *sorted(numbered, key=_rank)):
        yield path.relative_to(workspace.public).as_posix(), path, True
    yield _TIMESTAMP_FILE, workspace.public / _TIMESTAMP_FILE, False


def _rank(path: Path) -> tuple[int, int]:
    """Delegated roles and targets first, then snapshots, then roots, each in the order of their numbers."""
    number, _, rest = path.name.partition(".")
    return {"snapshot.json": 1, "root.json": 2}.get(rest, 0), int(number)


def _copy(source: Path, target: Path) -> None:
    """Copy a large file durably, through a temporary name."""
    fresh = target.with_name(target.name + ".new")
    with source.open("rb") as old, fresh.open("wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        with contextlib.suppress(PermissionError):  # a FAT file system, as on most sticks, knows no modes
            os.fchmod(new.fileno(), 0o644)
        os.fsync(new.fileno())
    fresh.rename(target)
    sync_folder(target.parent)
