"""The journal's tables, and how its file is opened: alone, synced, checked; damaged is not empty."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.errors import StoreError

PAGE: Final = 4096
MOST_PAGES: Final = 16_384
"""64 MiB: far above what the limits on rows and entries allow."""


class JournalDamagedError(StoreError):
    """The file is not a whole database any more."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the disk into StoreErrors that name the journal."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise StoreError(f"journal {path}: {exc}: look at the disk and at who owns the folder") from exc
    except sqlite3.DatabaseError as exc:
        raise JournalDamagedError(f"journal {path}: {exc}") from exc
    except OSError as exc:
        raise StoreError(f"journal {path}: {exc.strerror}: the agent's user must own this folder") from exc


def connect(path: Path) -> sqlite3.Connection:
    """Open or make the journal. Raises StoreError, JournalDamagedError for a file that is not whole.

    Exclusive, because SQLite before 3.51.3 can lose commits when two connections write in WAL mode.
    """
    with translated(path):
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
        try:
            _prepare(db)
            _update(db)
            said = db.execute("pragma quick_check(1)").fetchone()[0]
        except BaseException:
            db.close()
            raise
    if said != "ok":
        db.close()
        raise JournalDamagedError(f"journal {path}: {said}")
    return db


def _prepare(db: sqlite3.Connection) -> None:
    for pragma in (
        "locking_mode=exclusive", "auto_vacuum=incremental", "journal_mode=wal", "synchronous=full",
        "wal_autocheckpoint=64", f"journal_size_limit={64 * PAGE}", f"max_page_count={MOST_PAGES}",
        "temp_store=memory", "trusted_schema=off",
    ):  # fmt: skip
        db.execute(f"pragma {pragma}")


def _update(db: sqlite3.Connection) -> None:
    """Take the recorded steps that this file has not seen yet, each in a transaction of its own."""
    done = db.execute("pragma user_version").fetchone()[0]
    for number, step in enumerate(_STEPS[done:], start=done + 1):
        db.execute("begin immediate")
        step(db)
        db.execute(f"pragma user_version={number}")
        db.execute("commit")


def _tables(db: sqlite3.Connection) -> None:
    for statement in (_COMMAND, _COUNTER, _AUDIT, _META):
        db.execute(statement)


_COMMAND = """create table command (
    id text primary key, operation text not null, digest text not null, kid blob not null, by text not null,
    role text not null, counter integer not null, issued_s integer not null, expires_s integer not null,
    args blob not null, created_s real not null, boot text not null, progress blob not null,
    ended_s real, shown integer not null) without rowid"""
# ended_s: null while under way; shown: a retained state of it stands at the broker.

_COUNTER = "create table counter (kid blob primary key, counter integer not null) without rowid"
# Outlives the rows: what a key has asked once, it can never ask again.

_AUDIT = "create table audit (n integer primary key, t_ms integer not null, line text not null, hash blob not null)"

_META = "create table meta (key text primary key, value) without rowid"
# born_ms: requests counted before it are not known here; anchor_n, anchor_hash: the last audit entry removed by age.

_STEPS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (_tables,)
