"""Makes a model folder of an entry: fetched, put together, proved on this machine, and only then given its name.

    <root>/<name>/                  the model, as the agent finds it
    <root>/.parts/<name>/<sha256>   files under way; what was begun is gone on with
    <root>/.parts/<name>/made/      the folder before it has its name

All of it lies on one file system, so that a rename makes the model appear whole: whatever is killed or cut off before
leaves nothing that the agent could take for a model. Files are 0644, folders 0755, of the user who adds. Refuses a root
that somebody else may write to, and a place where something else is already.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from agent.catalogue.entry import ENTRY_FILE, MODEL_FOLDER, Entry, Wanted
from agent.durable import sync_file, sync_folder
from agent.errors import ConfigError, ModelError, UpdateError
from agent.registry import refuse_foreign

PARTS: Final = ".parts"
_KEEP_FREE_BYTES = 16_000_000
State = Literal["absent", "whole", "other"]
Prove = Callable[[Path], str]
"""Loads the model in a folder and runs its golden inputs; says what came of it. Raises ModelError."""
Progress = Callable[[Wanted, int], None]
"""Told which file, and how many bytes of it are there."""


class Carrier(Protocol):
    """One way to the files (`agent.catalogue.carrier`)."""

    def bring(self, wanted: Wanted, part: Path, progress: Progress, /) -> None:
        """Fill `part` until it is the pinned file. Raises UpdateError."""


@dataclass(frozen=True, slots=True)
class Added:
    """A model that has its name."""

    folder: Path
    proof: str
    """What its self-test said on this machine."""


def state_of(entry: Entry, root: Path) -> State:
    """Whether `entry` lies in `root` as the catalogue has it, byte for byte."""
    folder = root / entry.name
    if not os.path.lexists(folder):
        return "absent"
    if folder.is_symlink() or not folder.is_dir():
        return "other"
    expected = {file.path: file.sha256 for file in entry.table.file} | _own_digests(entry)
    return "whole" if all(_digest(folder / name) == sha256 for name, sha256 in expected.items()) else "other"


def add(
    entry: Entry, root: Path, carrier: Carrier, prove: Prove, progress: Progress, *, replace: bool = False
) -> Added:
    """Bring `entry` into `root`; with `replace`, in the place of what lies there.

    Raises ConfigError (the place), UpdateError (network, disk, other bytes), ModelError (it does not work here).
    """
    target = root / entry.name
    if not replace and os.path.lexists(target):
        raise ConfigError(f"{target}: something else lies there: look at it, then move it away or say --replace")
    with _workplace(root, entry.name) as parts:
        for left in (parts / "made", parts / "before"):  # by somebody who was killed
            _away(left)
        _refuse_no_room(entry, parts)
        for wanted in entry.table.file:
            carrier.bring(wanted, parts / wanted.sha256, progress)
        made = _put_together(entry, parts)
        try:
            proof = prove(made)
        except ModelError:  # it would fail the next time too
            shutil.rmtree(parts)
            raise
        _give_name(made, target, parts)
        shutil.rmtree(parts)
    return Added(target, proof)


def sweep(entry: Entry, root: Path) -> None:
    """Take away what an add that was killed after its model had a name left beside it. Raises as `add`."""
    if os.path.lexists(root / PARTS / entry.name):
        with _workplace(root, entry.name) as parts:
            shutil.rmtree(parts)


@contextmanager
def _workplace(root: Path, name: str) -> Iterator[Path]:
    """The folder for what is under way, for one process at a time; an empty one goes again."""
    parts = root / PARTS / name
    with _locked(root):
        try:
            _make_parts(parts)
            yield parts
        except OSError as exc:
            shutil.rmtree(parts / "made", ignore_errors=True)  # gives its room back
            words = f"{exc.filename or parts}: it cannot be written: {exc.strerror}"
            raise UpdateError(f"{words}: look at the disk") from exc
        finally:
            for folder in (parts, parts.parent):
                with suppress(OSError):  # something is left for the next time
                    folder.rmdir()


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """`root` is there, nobody else may write to it, and no other process adds to it. Raises ConfigError."""
    try:
        if not root.exists():
            root.mkdir(parents=True)
            root.chmod(0o755)  # whatever the umask: the agent must get in
        refuse_foreign(Path(os.path.realpath(root)))
        if not os.access(root, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root))
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except ModelError as exc:
        raise ConfigError(str(exc)) from exc
    except OSError as exc:
        words = f"{exc.filename or root}: models cannot be put there: {exc.strerror}"
        raise ConfigError(f"{words}: run this with sudo, or choose another folder with --into DIR") from exc
    try:
        _lock(handle, root)
        yield
    finally:
        os.close(handle)


def _make_parts(parts: Path) -> None:
    """Folders that the agent's user can enter too: it tries the model there. Raises ConfigError for a link."""
    for folder in (parts.parent, parts):
        if folder.is_symlink():
            raise ConfigError(f"{folder}: this is a link: take it away, files under way must lie beside the model")
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def _lock(handle: int, root: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise ConfigError(f"{root}: somebody is adding a model there already: wait until that is done") from exc


def _refuse_no_room(entry: Entry, parts: Path) -> None:
    """Before a byte is asked for."""
    there = sum(path.lstat().st_size for path in parts.iterdir() if path.is_file())
    needed, free = entry.size_bytes - there + _KEEP_FREE_BYTES, shutil.disk_usage(parts).free
    if needed > free:
        words = f"{needed / 1e6:.1f} MB are needed (16 MB are left free), {free / 1e6:.1f} MB are there"
        raise UpdateError(f"{parts.parent.parent}: no room for {entry.name}: {words}: free some, or --into", "NO_SPACE")


def _put_together(entry: Entry, parts: Path) -> Path:
    """The model's folder, whole and on the disk, but without its name."""
    made = parts / "made"
    made.mkdir()
    shutil.copyfile(entry.folder / ENTRY_FILE, made / ENTRY_FILE)
    for name in entry.own:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(entry.folder / MODEL_FOLDER / name, made / name)
    for wanted in entry.table.file:
        (parts / wanted.sha256).rename(made / wanted.path)
    for path in sorted(made.rglob("*"), reverse=True):
        _make_lasting(path)
    _make_lasting(made)
    return made


def _make_lasting(path: Path) -> None:
    """Its mode, whatever the umask said, and its bytes on the disk."""
    path.chmod(0o755 if path.is_dir() else 0o644)
    sync_file(path)


def _give_name(made: Path, target: Path, parts: Path) -> None:
    if os.path.lexists(target):
        target.rename(parts / "before")
    made.rename(target)
    sync_folder(target.parent)
    _away(parts / "before")


def _away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _own_digests(entry: Entry) -> dict[str, str]:
    own = {name: _digest(entry.folder / MODEL_FOLDER / name) for name in entry.own}
    return own | {ENTRY_FILE: _digest(entry.folder / ENTRY_FILE)}


def _digest(path: Path) -> str:
    """Empty for what is no plain file or cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
