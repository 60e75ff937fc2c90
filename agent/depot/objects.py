"""Models on the disk: put in once, whole and checked, never changed, and taken away only when nothing names them.

`put`: every file is synced, read back from the disk and hashed, then the folder is renamed into its place and that is
made durable. `collect` renames before it removes, so that a power cut never leaves half a model under a good name.
Both belong to a job that holds the depot's job lock. Files are 0444 and folders 0755: the agent reads them as another
user, and nobody writes them.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from agent.depot.places import AGENT, PACKAGE_FILE
from agent.depot.record import ModelState, Pick
from agent.depot.state import read_state
from agent.durable import sync_folder, write_durably
from agent.errors import UpdateError

_CHUNK_BYTES: Final = 1 << 20


class Lying(Protocol):
    """A file as it lies on the disk: relative path, length in bytes, sha256 in hex."""

    @property
    def path(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def folder_of(folder: Path, name: str, pick: Pick) -> Path:
    """Where `pick` of the model `name` lies, or of the agent for `AGENT`, whether or not it is there."""
    return _shelf(folder, name) / f"{pick.version}-{pick.sha256[:12]}"


def put(folder: Path, name: str, pick: Pick, package: bytes, files: Iterable[Lying], staged: Path) -> Path:
    """Take the folder `staged` (beside the depot's objects, with exactly `files`) in as `pick`; where it lies then.

    Being there already is no error if it is whole; a damaged one is replaced. Raises UpdateError.
    """
    target = folder_of(folder, name, pick)
    if hashlib.sha256(package).hexdigest() != pick.sha256:
        raise UpdateError(f"{name} {pick.version}: this is not the package of {pick.sha256[:12]}", "VERIFY_FAILED")
    wanted = tuple(files)
    if not wrong_files(target, wanted, package):
        return target
    try:
        _seal(staged, wanted, package)
        if wrong := wrong_files(staged, wanted, package):
            raise UpdateError(f"{name} {pick.version}: after writing, {wrong}: look at the disk", "VERIFY_FAILED")
        _make_shelf(folder, target.parent)
        _away(folder, target)
        staged.rename(target)
        sync_folder(target.parent)
        sync_folder(staged.parent)
    except OSError as exc:
        reason = "NO_SPACE" if exc.errno in (28, 122) else "FAILED"
        raise UpdateError(f"{target}: it cannot be written: {exc.strerror}", reason) from exc
    return target


def whole(folder: Path, files: Iterable[Lying]) -> bool:
    """Whether every one of `files` lies in `folder` with its length and its sha256."""
    return not wrong_files(folder, tuple(files))


def wrong_files(folder: Path, files: Iterable[Lying], package: bytes | None = None) -> str:
    """What is missing or different in `folder`, in words; empty when nothing is. Read from the disk, not memory."""
    try:
        if package is not None and (folder / PACKAGE_FILE).read_bytes() != package:
            return f"{PACKAGE_FILE} is another one"
        for file in files:
            if _measured(folder / file.path) != (file.length, file.sha256):
                return f"{file.path} is not what was signed"
    except OSError as exc:
        return f"{Path(exc.filename or folder).name} cannot be read: {exc.strerror}"
    return ""


def present(folder: Path, name: str) -> Iterator[tuple[Path, str, str]]:
    """What lies on the shelf of `name`: folder, version, first twelve digits of its sha256."""
    for path in sorted(_shelf(folder, name).glob("*-" + "[0-9a-f]" * 12)):
        version, _, short = path.name.rpartition("-")
        yield path, version, short


def collect(folder: Path) -> tuple[Path, ...]:
    """Remove what the record on the disk no longer names, and what earlier removals left; the folders that went.

    Nothing while the record is damaged, and nothing of a model that it does not know: what was forgotten may be good.
    Raises UpdateError.
    """
    state = read_state(folder)
    if state.damaged:
        return ()
    gone: list[Path] = []
    try:
        sync_folder(folder)  # the record that we read is the one that a power cut would leave
        for name in _shelves(folder):
            known = state.model(name) != ModelState()
            kept = {folder_of(folder, name, pick) for pick in state.model(name).kept}
            for path, _, _ in present(folder, name):
                if known and path not in kept:
                    _away(folder, path)
                    gone.append(path)
        _sweep(folder)
    except OSError as exc:
        raise UpdateError(f"{folder}: what is no longer needed cannot be removed: {exc.strerror}") from exc
    return tuple(gone)


def _shelf(folder: Path, name: str) -> Path:
    return folder / "releases" if name == AGENT else folder / "models" / name


def _shelves(folder: Path) -> tuple[str, ...]:
    return (AGENT, *(path.name for path in sorted((folder / "models").glob("*"))))


def _make_shelf(folder: Path, shelf: Path) -> None:
    """The folders down to `shelf`, each durable in its parent."""
    for path in reversed([p for p in (shelf, *shelf.parents) if p.is_relative_to(folder) and p != folder]):
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)
        sync_folder(path.parent)


def _away(folder: Path, path: Path) -> None:
    """Take an object out of its place in one step; its bytes go afterwards."""
    if not os.path.lexists(path):
        return
    trash = folder / "parts" / f"gone-{path.parent.name}-{path.name}"
    trash.parent.mkdir(mode=0o755, exist_ok=True)
    _remove(trash)
    path.rename(trash)
    sync_folder(path.parent)


def _sweep(folder: Path) -> None:
    for path in (folder / "parts").glob("gone-*"):
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def _seal(staged: Path, files: tuple[Lying, ...], package: bytes) -> None:
    """Bring everything in `staged` to the disk, read-only. Refuses what is no plain file or was not signed."""
    write_durably(staged / PACKAGE_FILE, package, 0o444)
    known = {Path(file.path) for file in files} | {Path(PACKAGE_FILE)}
    for path in sorted(staged.rglob("*"), reverse=True):
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            path.chmod(0o755)
            sync_folder(path)
        elif not stat.S_ISREG(kind) or path.relative_to(staged) not in known:
            raise UpdateError(f"{path}: this was not signed: take it away", "VERIFY_FAILED")
        else:
            _sync_file(path)
    staged.chmod(0o755)
    sync_folder(staged)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fchmod(handle, 0o444)
        os.fsync(handle)
    finally:
        os.close(handle)


def _measured(path: Path) -> tuple[int, str]:
    """Length and sha256 of what the disk holds: clean pages are dropped first, so that they are read again."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with suppress(OSError):  # not every file system knows this advice
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        digest, size = hashlib.sha256(), 0
        while chunk := os.read(handle, _CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        return size, digest.hexdigest()
    finally:
        os.close(handle)
