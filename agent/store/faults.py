"""What can go wrong with a disk, in three families, and the one place where sqlite3's errors are translated."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import StoreError


class OutboxInUseError(StoreError):
    """Another process holds the outbox: stop it, or ask it."""


class DiskFullError(StoreError):
    """No space is left: give up the reserve, drop by policy, try again."""


class DiskBrokenError(StoreError):
    """Reading or writing failed: close, open again later; the file may be sound."""


class DamagedError(StoreError):
    """The file is not what was written: rename it aside, start fresh, salvage."""


_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH}
_HINTS = {
    DiskFullError: "free space on this disk or lower [store] budget_mib; events wait in memory meanwhile",
    DiskBrokenError: "look at the disk (dmesg, mount options, permissions); events wait in memory meanwhile",
    DamagedError: "the file is kept aside and its events are salvaged; look at the disk",
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn sqlite3 and OS errors on `path` into StoreError families whose message says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        kind = _family(exc)
        name = getattr(exc, "sqlite_errorname", None) or getattr(exc, "strerror", None) or type(exc).__name__
        raise kind(f"outbox {path}: {exc} ({name}): {_HINTS[kind]}") from exc


def _family(exc: sqlite3.Error | OSError) -> type[DiskFullError | DiskBrokenError | DamagedError]:
    if isinstance(exc, OSError):
        return DiskFullError if exc.errno in (28, 122) else DiskBrokenError  # ENOSPC, EDQUOT
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError
    if code in _DAMAGED or (code == sqlite3.SQLITE_ERROR and "no such" in str(exc)):
        return DamagedError
    return DiskBrokenError
