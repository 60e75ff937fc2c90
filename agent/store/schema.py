"""The outbox's tables: how a database file is opened, and the recorded steps that bring it up to date.

`PRAGMA user_version` says how many steps a file has seen, so that a file that is up to date is opened without the
migration library (half a second of import on a small computer).
"""

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from agent.store.faults import DamagedError, translated

if TYPE_CHECKING:
    from sqlite_utils import Database as Tables

PAGE = 4096
"""Bytes per page; SQLite's default and the cheapest that was measured for one event per commit."""
VERSION = 1


def connect(path: Path, checkpoint_pages: int, most_pages: int) -> sqlite3.Connection:
    """Open or make the outbox at `path`, ready for use by one thread at a time. Raises a StoreError of `faults`.

    The connection holds the file exclusively: SQLite before 3.51.3 can lose commits when two connections write or
    checkpoint in WAL mode.
    """
    with translated(path):
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
        try:
            _prepare(db, checkpoint_pages, most_pages)
            if db.execute("pragma user_version").fetchone()[0] < VERSION:
                _migrate(db)
            _check(db, path)
            # What an earlier process or a failed flush left in the log goes to the file and is synced now: after a
            # failed fsync the kernel may call a page clean that never reached the disk, and every later frame of the
            # log hangs on it.
            db.execute("pragma wal_checkpoint(truncate)").fetchall()
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, checkpoint_pages: int, most_pages: int) -> None:
    db.execute("pragma locking_mode=exclusive")
    db.execute("pragma auto_vacuum=incremental")
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=full")
    db.execute(f"pragma wal_autocheckpoint={checkpoint_pages}")
    db.execute(f"pragma journal_size_limit={checkpoint_pages * PAGE}")
    db.execute(f"pragma max_page_count={most_pages}")
    db.execute("pragma temp_store=memory")
    db.execute("pragma trusted_schema=off")


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Touch every table, and read small files whole: corrupt is not empty."""
    for table in ("event", "parked", "stream", "gap", "meta"):
        db.execute(f"select * from {table} limit 1").fetchone()  # noqa: S608  # fixed names
    if db.execute("pragma page_count").fetchone()[0] * PAGE <= 32 << 20:
        said = db.execute("pragma quick_check(1)").fetchone()[0]
        if said != "ok":
            raise DamagedError(f"outbox {path}: {said}: the file is kept aside and its events are salvaged")


def _migrate(db: sqlite3.Connection) -> None:
    from sqlite_utils import Database as Tables
    from sqlite_utils.migrations import Migrations

    steps = Migrations("limpet-outbox")
    steps(name="0001_tables")(_tables)
    steps.apply(Tables(db))
    db.execute(f"pragma user_version={VERSION}")


def _tables(tables: "Tables") -> None:
    """The columns that queries need are in clear; what was seen is sealed in `body`."""
    for statement in (_EVENT, _PARKED, _STREAM, _GAP, _META):
        tables.execute(statement)


_EVENT = """create table event (
    n integer primary key autoincrement, id blob not null, stream integer not null, seq integer not null,
    routine integer not null, replay integer not null, gap integer not null, t_wall real not null, t_mono real not null,
    body blob not null)"""
# n is the order of acceptance. No index beside it: the outbox is a queue, and an index costs a page per commit.

_PARKED = "create table parked (n integer primary key, reason text not null)"
# A table of its own, so that finding out that nothing is set aside costs nothing.

_STREAM = """create table stream (
    stream integer primary key, name text not null unique, reserved integer not null, last integer not null,
    loose integer not null, rows integer not null)"""
# reserved: numbers below it may be used without a commit; last: highest number known to be settled;
# loose: the stream has had routine events; rows: its events in the outbox.

_GAP = """create table gap (
    stream integer not null, reason text not null, bound integer not null, first integer not null,
    last integer not null, count integer not null, primary key (stream, reason, bound)) without rowid"""
# What was removed and is not told yet, merged per stream and reason.

_META = "create table meta (key text primary key, value) without rowid"
