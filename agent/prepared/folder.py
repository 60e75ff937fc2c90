"""The folder of prepared files, as its writer sees it: put in whole, taken out whole, never changed in place."""

import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.durable import locked, sync_file, sync_folder, write_durably
from agent.errors import ModelError
from agent.prepared.owner import as_owner
from agent.runtime.prepared import RECORD_FILE, Key, Record, UnpreparedError, cpu_digest, read_record

NEW: Final = ".new-"
GONE: Final = ".gone-"
LOCK: Final = "lock"
RETRY_S: Final = 0.1
"""Between two tries for the lock, seconds."""


class PrepareError(ModelError):
    """Prepared files cannot be made or removed; the model itself is loaded plainly."""


@contextmanager
def only_writer(root: Path, wait_s: float) -> Iterator[None]:
    """Be the only process that writes in `root`, which is made if need be; root is its owner meanwhile.

    Raises PrepareError.
    """
    try:
        with as_owner(root):
            root.mkdir(mode=0o755, parents=True, exist_ok=True)
            until_s = time.monotonic() + wait_s
            while True:
                with locked(root / LOCK) as free:
                    if free:
                        _remove_leftovers(root)
                        yield
                        return
                if time.monotonic() > until_s:
                    words = f"another process has been preparing models for {wait_s:g} s"
                    raise PrepareError(f"{root}: {words}: wait for it")
                time.sleep(RETRY_S)
    except OSError as exc:
        raise as_prepare_error(root, exc) from exc


def as_prepare_error(root: Path, exc: OSError) -> PrepareError:
    """What a failure of the file system means for who prepares."""
    words = f"{exc.filename or root}: {exc.strerror}"
    acting = " (root acts as the owner of that folder, or of one above it)" if os.getuid() == 0 else ""
    return PrepareError(f"{words}: run this as the user that owns {root}, with room on its disk{acting}")


def install(root: Path, made: Path, record: Record) -> Path:
    """Give the folder `made` in `root`, whose files are whole, its record and its name. Raises OSError."""
    for blob in record.files:
        (made / blob.name).chmod(0o444)
        sync_file(made / blob.name)
    write_durably(made / RECORD_FILE, record.encode(), 0o444)
    target = root / record.key.folder
    _away(root, target)
    made.rename(target)
    sync_folder(root)
    for path, other in entries(root):
        if other is not None and other.model == record.key.model and other != record.key:
            _away(root, path)
    _remove_leftovers(root)
    return target


def take_back(made: Path) -> None:
    """Take the files in `made` over from the children that wrote them, who may be another user than this process.

    Root would look at, or change, whatever a link among them leads to, so a link is refused. Raises OSError,
    PrepareError.
    """
    if os.geteuid() == 0:
        os.chown(made, 0, 0, follow_symlinks=False)
        made.chmod(0o700)  # from here on that user cannot change what lies in it
    for path in made.iterdir():
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise PrepareError(f"{path}: the child that prepares models left no file of its own: look at the model")
        if os.geteuid() == 0:
            os.chown(path, 0, 0, follow_symlinks=False)
    made.chmod(0o755)


def entries(root: Path) -> Iterator[tuple[Path, Key | None]]:
    """Every folder of prepared files in `root`, with what it is good for; None where the record is damaged."""
    for path in sorted(root.glob("[!.]*/")):
        try:
            yield path, read_record(path).key
        except UnpreparedError:
            yield path, None


def forget(root: Path, model: str, wait_s: float = 60.0) -> int:
    """Remove what was prepared for the model file with that sha256; how many folders went. Raises PrepareError."""
    if not root.is_dir():
        return 0
    return _remove(root, wait_s, lambda path, key: key is not None and key.model == model)


def sweep(root: Path, models: Collection[str], wait_s: float = 60.0) -> int:
    """Remove what belongs to none of the model files `models` (sha256), to another processor, or is damaged; how many
    folders went. Raises PrepareError."""
    if not root.is_dir():
        return 0
    return _remove(root, wait_s, lambda _, key: key is None or key.model not in models or key.cpu != cpu_digest())


def size_bytes(root: Path) -> int:
    """What all prepared files take. Raises OSError."""
    return sum(path.stat().st_size for path in root.glob("[!.]*/*"))


def _remove(root: Path, wait_s: float, unwanted: Callable[[Path, Key | None], bool]) -> int:
    with only_writer(root, wait_s):
        gone = [path for path, key in entries(root) if unwanted(path, key)]
        for path in gone:
            _away(root, path)
        _remove_leftovers(root)
    return len(gone)


def _away(root: Path, path: Path) -> None:
    """Take a folder out of its place in one step; whoever has its files mapped keeps them."""
    if os.path.lexists(path):
        path.rename(root / f"{GONE}{path.name}-{time.monotonic_ns()}")
        sync_folder(root)


def _remove_leftovers(root: Path) -> None:
    for pattern in (NEW, GONE):
        for path in root.glob(f"{pattern}*"):
            shutil.rmtree(path, ignore_errors=True)
