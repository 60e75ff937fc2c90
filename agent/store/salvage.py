"""Getting events out of a damaged outbox: read what can be read, by halving the range of places until it works.

The damaged file is only read, never changed and never deleted. Salvage runs in small steps between commits.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEP = 500
"""Rows read at a time."""


@dataclass(frozen=True, slots=True)
class Step:
    """Rows found, as they lie: n, id, stream, seq, routine, replay, gap, t_wall, t_mono, body."""

    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Known:
    """What the damaged file still says about its streams: key -> (name, last number, number of rows)."""

    streams: dict[int, tuple[str, int, int]]


def known(db: sqlite3.Connection) -> Known:
    """Read the stream table; empty when it is damaged too."""
    try:
        rows = db.execute("select stream, name, last, rows from stream").fetchall()
    except sqlite3.Error:
        return Known({})
    return Known({key: (name, last, count) for key, name, last, count in rows})


def salvage(db: sqlite3.Connection) -> Iterator[Step]:
    """Yield readable rows in order of acceptance. Ends silently where nothing can be read at all."""
    top = _top(db)
    low = _bottom(db)
    while low <= top:
        try:
            rows = db.execute(
                "select * from event where n >= ? and n <= ? order by n limit ?", (low, top, STEP)
            ).fetchall()
        except sqlite3.Error:
            yield from _halve(db, low, min(low + STEP * 8, top + 1))
            low += STEP * 8
            continue
        yield Step(rows)
        if len(rows) < STEP:
            return
        low = rows[-1][0] + 1


def _halve(db: sqlite3.Connection, low: int, end: int) -> Iterator[Step]:
    """Rows of [low, end), leaving out what raises down to single rows."""
    try:
        rows = db.execute("select * from event where n >= ? and n < ? order by n", (low, end)).fetchall()
    except sqlite3.Error:
        if end - low > 1:
            middle = (low + end) // 2
            yield from _halve(db, low, middle)
            yield from _halve(db, middle, end)
        return
    if rows:
        yield Step(rows)


def _top(db: sqlite3.Connection) -> int:
    for sql in ("select seq from sqlite_sequence where name = 'event'", "select max(n) from event"):
        try:
            row = db.execute(sql).fetchone()
        except sqlite3.Error:
            continue
        if row and row[0] is not None:
            return int(row[0])
    return -1


def _bottom(db: sqlite3.Connection) -> int:
    try:
        row = db.execute("select min(n) from event").fetchone()
    except sqlite3.Error:
        return 0
    return int(row[0]) if row and row[0] is not None else 0


def quarantine(path: Path, label: str) -> Path:
    """Rename the database and its log aside, never deleting; returns the new path. Raises OSError."""
    k = 0
    while (target := path.with_name(f"damaged-{label}-{k}.db")).exists():
        k += 1
    path.rename(target)
    log = path.with_name(path.name + "-wal")
    if log.exists():
        log.rename(target.with_name(target.name + "-wal"))
    return target
