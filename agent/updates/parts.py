"""A file that is on its way: what is there of it, the object it comes from, and whether the disk can take the rest.

A part lies on the disk that the finished file will lie on, under a name that says which signed bytes it is to become.
What counts at the end is read back from the disk. A part that proves wrong goes at once, and so does one for which
the disk has no room: others need it more. One that was only slow or cut stays, and the next try goes on from there.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from agent.durable import sync_folder
from agent.errors import UpdateError

BLOCK_BYTES: Final = 1 << 18
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_VALIDATOR_LIMIT = 512


class Part:
    """Some first bytes of a file of `length` bytes, at `path`; beside it the server's word for which object it was."""

    def __init__(self, path: Path, length: int, keep_free_bytes: int = 0) -> None:
        self.path = path
        self.length = length
        self._keep_free_bytes = keep_free_bytes
        self._note = path.with_name(path.name + ".from")

    def size(self) -> int:
        """Bytes that are there. A part that is too long is none."""
        try:
            size = self.path.lstat().st_size
        except FileNotFoundError:
            return 0
        if size > self.length:
            self.drop()
            return 0
        return size

    def validator(self) -> str:
        """A strong ETag or a date that says which object the part comes from; empty when none is known."""
        try:
            return self._note.read_bytes()[:_VALIDATOR_LIMIT].decode("latin-1")
        except FileNotFoundError:
            return ""

    def note(self, validator: str) -> None:
        """Remember it. Losing it costs a download at most, so no flush is waited for."""
        if validator and len(validator) < _VALIDATOR_LIMIT:
            with full_disk(self):
                self._note.write_bytes(validator.encode("latin-1", "replace"))
        else:
            self._note.unlink(missing_ok=True)

    def make_room(self) -> None:
        """Raises UpdateError (NO_SPACE) when the rest of the file would not leave enough free, before any byte."""
        disk = os.statvfs(self.path.parent)
        free = disk.f_bavail * disk.f_frsize
        needed = self.length - self.size() + self._keep_free_bytes
        if needed > free or (disk.f_files and not disk.f_favail):
            self.drop()
            needs = f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
            what = needs if needed > free else "no inode is free"
            raise UpdateError(
                f"{self.path.parent}: no room for {self.length / 1e6:.1f} MB: {what} (keep_free_mb included): free"
                " some, or take a smaller update", "NO_SPACE",
            )  # fmt: skip

    @contextlib.contextmanager
    def opened(self, start: int) -> Iterator[BinaryIO]:
        """The part for writing from `start` on, what lies behind cut off; on the disk when the block ends well."""
        with full_disk(self):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path, flags, 0o600), "r+b") as file:
                file.truncate(start)
                file.seek(start)
                yield file
                file.flush()
                os.fsync(file.fileno())

    def proves(self, good: Callable[[BinaryIO], bool]) -> bool:
        """What `good` says of the file as the disk gives it back, not as it was written."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return os.fstat(file.fileno()).st_size == self.length and good(file)

    def begins_with(self, first: bytes) -> bool:
        with self.path.open("rb") as file:
            return file.read(64).lstrip().startswith(first)

    def land(self, target: Path) -> None:
        """Give the finished file its name, durably."""
        self.path.rename(target)
        self._note.unlink(missing_ok=True)
        sync_folder(target.parent)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk(part: Part) -> Iterator[None]:
    """A disk that is full in the middle: the part goes, and it is said. Raises UpdateError (NO_SPACE)."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise
        part.drop()
        raise UpdateError(f"{part.path.parent}: the disk is full: {exc.strerror}; free some room", "NO_SPACE") from exc


def sha256_of(file: BinaryIO) -> str:
    """Hex digest of the rest of `file`, read in blocks."""
    digest = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def is_whole(path: Path, length: int, sha256: str) -> bool:
    """Whether `path` is a plain file with just these bytes. Never raises OSError: what cannot be read is not whole."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size != length:
            os.close(handle)
            return False
        with os.fdopen(handle, "rb") as file:
            return sha256_of(file) == sha256
    except OSError:
        return False
