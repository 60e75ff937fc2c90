"""Small files that survive a power cut: written whole or not at all, and on the disk when the call returns.

The order is always the same: a temporary file in the same folder, fsync, rename, fsync of the folder. Without the last
one a power cut may bring the old name back (measured on a file system that drops what was not synced).
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data` so that a power cut leaves the old content or the new. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(handle, mode)  # whatever the umask and a file left behind say
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    fresh.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Bring the bytes and the mode of a plain file, or of a folder, to the disk.

    Raises OSError, also for a link or a pipe.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_limited(path: Path, limit_bytes: int) -> bytes:
    """The content of a plain file of at most `limit_bytes`. Raises OSError, or ValueError when it is larger."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError(f"{path}: larger than {limit_bytes} bytes")
    return data


def holds(path: Path, data: bytes) -> bool:
    """Whether the plain file at `path` can be read and has exactly this content."""
    try:
        return read_limited(path, len(data)) == data
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` for the block; yields False when another process holds it. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
