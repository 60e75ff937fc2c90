"""Small files around the database: the lock, the reserve."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.store.faults import DiskBrokenError, OutboxInUseError


class ExclusiveLock:
    """One process at a time may open an outbox."""

    def __init__(self, path: Path) -> None:
        """Take the lock at `path`. Raises OutboxInUseError, or DiskBrokenError when the folder refuses."""
        self._path = path
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise DiskBrokenError(
                f"outbox {path.parent}: {exc.strerror}: the agent's user must own this folder and may write there"
            ) from exc
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._handle)
            raise OutboxInUseError(
                f"outbox {path.parent}: another process uses it: stop the agent, or ask it through `limpet outbox`"
            ) from exc

    def close(self) -> None:
        """Let the lock go."""
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reserve:
    """A file that only takes up space, given up when the disk is full."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def take(self) -> bool:
        """Take the space if it is not held and if there is twice as much; True when it is held. Raises OSError."""
        if self._size == 0 or self._path.exists():
            return True
        room = os.statvfs(self._path.parent)
        if room.f_bavail * room.f_frsize < 2 * self._size:
            return False
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(handle, 0, self._size)
        finally:
            os.close(handle)
        return True

    def release(self) -> bool:
        """Give the space up; True when there was some. Raises OSError."""
        if not self._path.exists():
            return False
        self._path.unlink()
        return True
