"""Where models lie, and whether a model file may be trusted.

Finds folders by name or path, chooses the artifacts that fit this machine, and opens a file only after its owner,
permissions, size and sha256 were checked. What is loaded is what was hashed: the file is opened once, hashed through
that descriptor and handed on as /proc/self/fd/N, so that a rename in between changes nothing. What remains: whoever
may write to the open file itself (its owner, root) could still change it between hash and load. A sealed file is opened
into memory that no file system holds, hashed there, and mapped from there.
"""

import fcntl
import hashlib
import os
import platform
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agent.errors import ModelError
from agent.manifest import MANIFEST_FILE, Artifact, Manifest, Runtime, load_manifest
from agent.ownership import is_private_group, trusted_users

__all__ = [
    "MANIFEST_FILE", "OPERATOR", "Found", "Origin", "candidates", "find", "installed", "refuse_foreign", "verified",
]  # fmt: skip

_CHUNK_BYTES = 1 << 20
_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Found:
    """A model folder: its manifest, or why there is none."""

    folder: Path
    manifest: Manifest | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """What is special about a model that did not come from a folder of the operator's."""

    owner: int | None = None
    """User id that may own its files, besides root, this user and the owner of the code."""
    unseal: Callable[[str, BinaryIO, int], bool] | None = None
    """Given a file's name in the folder, the file, and a descriptor: writes the plain file there and says True, or says
    False when the file is not sealed. Raises ModelError."""


OPERATOR: Final = Origin()
"""A model of one of the configured folders."""


def find(name_or_path: str | Path, roots: Iterable[Path], version: str | None = None) -> Manifest:
    """The model in the folder `name_or_path`, or the first called so under `roots`. Raises ModelError.

    A root holds `<name>/model.toml`, or `<name>/<version>.../model.toml` for each version; the newest counts unless
    `version` names one.
    """
    path = Path(name_or_path)
    if path.is_absolute() or len(path.parts) > 1 or holds_model(path):
        return load_manifest(path.parent if path.name == MANIFEST_FILE else path)
    searched = tuple(dict.fromkeys(roots))
    for root in filter(_enterable, searched):
        there = [load_manifest(folder) for folder in _versions(root / path)]
        if fitting := [manifest for manifest in there if version in (None, manifest.version)]:
            return max(fitting, key=lambda manifest: _ordered(manifest.version))
    near = sorted({folder.relative_to(root).parts[0] for root in searched for folder in _folders(root)})
    said = (f"{root}" if _enterable(root) else f"{root} (missing, or closed to this user)" for root in searched)
    where, wanted = ", ".join(said) or "no folder", f" {version}" if version else ""
    known = ", ".join(near) or "none"
    raise ModelError(f"model '{path}'{wanted} is in none of {where}: there are {known}; a path works too")


def installed(roots: Iterable[Path]) -> Iterator[Found]:
    """Every model folder under `roots`, broken ones included."""
    for root in roots:
        for folder in _folders(root):
            try:
                yield Found(folder, load_manifest(folder))
            except ModelError as exc:
                yield Found(folder, None, str(exc))


def holds_model(folder: Path) -> bool:
    """Whether there is a manifest in `folder`. One that may not be looked into counts: reading it tells the reason."""
    try:
        return (folder / MANIFEST_FILE).is_file()
    except OSError:
        return True


def candidates(
    manifest: Manifest, prefer: Iterable[Runtime] = (), present: Iterable[str] = (), arch: str = platform.machine()
) -> tuple[Artifact, ...]:
    """The artifacts for this machine, best first. `present`: providers and delegates that the configuration names.

    Raises ModelError when none fits, with the reason for each.
    """
    machine, given, order = _ARCH.get(arch, arch), set(present), tuple(prefer)
    reasons: list[str] = []
    fitting: list[Artifact] = []
    for artifact in manifest.artifacts:
        lacking = set(artifact.requires) - given
        if artifact.arch not in ("any", machine):
            reasons.append(f"{artifact.file} is for {artifact.arch}, this machine is {machine}")
        elif lacking:
            reasons.append(f"{artifact.file} requires {', '.join(sorted(lacking))}, which is not configured")
        else:
            fitting.append(artifact)
    if not fitting:
        raise ModelError(f"{manifest}: no artifact fits: {'; '.join(reasons)}: publish one for this machine")
    return tuple(sorted(fitting, key=lambda a: order.index(a.runs_on) if a.runs_on in order else len(order)))


def refuse_foreign(path: Path) -> None:
    """Raises ModelError when somebody else than root, this user or the owner of this code may write to `path`."""
    try:
        _refuse_foreign(path, path.lstat(), _trusted_owners(OPERATOR))
    except OSError as exc:
        raise ModelError(f"{path}: it cannot be looked at: {exc.strerror}") from exc


@contextmanager
def verified(
    manifest: Manifest, artifact: Artifact, root: Path | None = None, limit_bytes: int = 512_000_000,
    origin: Origin = OPERATOR,
) -> Iterator[Path]:
    """The path of the artifact after every check, good as long as the context lasts. Raises ModelError.

    `root`: the folder that `file` is relative to when it is not the manifest's own.
    """
    folder, owners = _real(root or manifest.folder), _trusted_owners(origin)
    path = _inside(folder, artifact.file, str(manifest))
    _refuse_foreign_folders(folder, path.parent, owners)
    _refuse_foreign_texts(manifest, owners)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        raise ModelError(f"{path}: the model file cannot be read: {exc.strerror}: put it there") from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path}: this is no plain file: put the model file there")
        _refuse_foreign(path, status, owners)
        _refuse_size(path, status.st_size, limit_bytes)
        with _plain(descriptor, artifact.file, origin) as plain:
            _refuse_digest(path, _sha256(plain), artifact)
            own = Path(f"/proc/self/fd/{plain}")
            yield own if own.exists() else path
    finally:
        os.close(descriptor)


@contextmanager
def _plain(descriptor: int, name: str, origin: Origin) -> Iterator[int]:
    """A descriptor of the plain file: the same one, or memory that holds what was sealed in it and cannot change."""
    if origin.unseal is None:
        yield descriptor
        return
    memory = os.memfd_create(name.rpartition("/")[2], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "rb", closefd=False) as sealed:
            opened = origin.unseal(name, sealed, memory)
        if opened:
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        yield memory if opened else descriptor
    finally:
        os.close(memory)


def _enterable(root: Path) -> bool:
    """Whether this user may look into `root`; where there is nothing at all there is nothing to look into either."""
    return os.access(root, os.X_OK)


def _folders(root: Path) -> list[Path]:
    return [folder for name in sorted(root.glob("*")) for folder in _versions(name)]


def _versions(folder: Path) -> list[Path]:
    """The model in `folder` itself, or those in the folders in it."""
    here = [folder] if holds_model(folder) else folder.glob("*")
    return sorted(one for one in here if holds_model(one))


def _ordered(version: str) -> tuple[tuple[int, ...], bool, str]:
    """A release comes after its pre-releases."""
    release, *rest = re.split(r"[-+]", version, maxsplit=1)
    return tuple(int(part) for part in release.split(".")), "-" not in version, "".join(rest)


def _real(path: Path) -> Path:
    """`path` without links. Path.resolve() raises RuntimeError at a link that leads to itself; opening it says so."""
    return Path(os.path.realpath(path))


def _inside(folder: Path, name: str, what: str) -> Path:
    path = _real(folder / name)
    if not path.is_relative_to(folder):
        raise ModelError(f"{what}: {name} leads out of {folder} to {path}: put the file itself there, not a link")
    return path


def _refuse_foreign_folders(top: Path, folder: Path, owners: set[int]) -> None:
    while folder.is_relative_to(top):
        try:
            _refuse_foreign(folder, folder.stat(), owners)
        except OSError as exc:
            raise ModelError(f"{folder}: the model's folder cannot be read: {exc.strerror}") from exc
        folder = folder.parent


def _refuse_foreign_texts(manifest: Manifest, owners: set[int]) -> None:
    """What was read from the manifest and the labels decides as much as the weights do."""
    for name in filter(None, (MANIFEST_FILE, manifest.labels_file)):
        path = _inside(_real(manifest.folder), name, str(manifest))
        try:
            _refuse_foreign(path, path.stat(), owners)
        except OSError as exc:
            raise ModelError(f"{path}: it cannot be looked at any more: {exc.strerror}") from exc
    _refuse_foreign_folders(_real(manifest.folder), _real(manifest.folder), owners)


def _refuse_foreign(path: Path, status: os.stat_result, owners: set[int]) -> None:
    """Who may write the file or its folder may choose what runs."""
    if status.st_mode & stat.S_IWOTH:
        raise ModelError(f"{path}: everybody may write to it, so it cannot be trusted: chmod o-w {path}")
    if status.st_mode & stat.S_IWGRP and not is_private_group(status):
        raise ModelError(f"{path}: its group may write to it, so it cannot be trusted: chmod g-w {path}")
    if status.st_uid not in owners:
        raise ModelError(f"{path}: it belongs to user id {status.st_uid}, so it cannot be trusted: chown root {path}")


def _trusted_owners(origin: Origin) -> set[int]:
    """And the updater, whose models are proved by their package's digest too."""
    return trusted_users() if origin.owner is None else trusted_users() | {origin.owner}


def _refuse_size(path: Path, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        words = f"{path}: {size_bytes} bytes, at most {limit_bytes} are allowed"
        raise ModelError(f"{words}: raise [models] artifact_limit_mb if that is right")


def _sha256(descriptor: int) -> str:
    state = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, offset):
        state.update(chunk)
        offset += len(chunk)
    return state.hexdigest()


def _refuse_digest(path: Path, found: str, artifact: Artifact) -> None:
    if found != artifact.sha256:
        raise ModelError(
            f"{path}: its sha256 is {found}, the manifest says {artifact.sha256}: "
            "the file is damaged or another one: install the model again"
        )
