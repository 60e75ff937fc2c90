"""The outbox on the disk: one connection, short explicit transactions, a budget in bytes.

Every statement of the store stands here. One thread at a time: the caller holds `lock` around each call.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.settings.store import StoreSettings
from agent.store.batch import Batch, EventRow, Gaps, Outcome
from agent.store.faults import DamagedError, translated
from agent.store.log import Log
from agent.store.schema import PAGE, connect
from agent.store.tickets import Pending, raw_id

CHUNK = 64
"""Rows dropped at a time when room is needed."""
READ_ROWS, READ_BYTES = 32, 4 << 20
"""Rows fetched at a time, and bytes of bodies after which a reading ends: large events must not fill the memory."""
INSERTS = (90, 9, 1)
"""Rows that one statement may insert; older builds of SQLite take 999 values."""
_DELETE = "delete from event where n between ? and ? returning stream"
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
GapRow = tuple[int, str, bool, int, int, int]
Seal = Callable[[Sequence[Pending]], list[bytes]]


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A stream as the file knows it."""

    key: int
    name: str
    reserved: int
    last: int
    loose: bool
    rows: int




class Database:
    """An open outbox file."""

    def __init__(self, path: Path, settings: StoreSettings) -> None:
        """Open or make `path`. Raises a StoreError of `faults`."""
        self.lock = threading.Lock()
        self.path = path
        self.fresh = not path.exists()
        with translated(path):
            budget = _budget(path, settings)
        checkpoint = min(256, max(16, budget // 32 // PAGE))
        self._log = Log(checkpoint)
        self.batch_bytes = min(256 << 10, budget // 32)
        """Most bytes of bodies in one commit, so that the log stays within its share of the budget."""
        self._limit = budget - checkpoint * PAGE - min(3 << 19, budget // 4)
        """Bytes that pages in use may take: the budget, less a checkpoint's worth of log and one transaction."""
        self._settings = settings
        self._routine_floor = 0
        self._slack = 0
        """Bytes that surely fit before the pages have to be counted again."""
        self._counted: tuple[int, int] | None = None
        """Rows of the tables `gap` and `parked`; None when they have to be counted."""
        self._db = connect(path, checkpoint, (budget - checkpoint * PAGE) // PAGE)
        with translated(path):
            self._inode = path.stat().st_ino

    def close(self) -> None:
        """Close without a checkpoint being owed: the log is replayed at the next opening if one is left."""
        with translated(self.path):
            self._db.close()

    def check_present(self) -> None:
        """SQLite would go on writing to a file that was removed. Raises DamagedError when it is gone."""
        with translated(self.path):
            found = self.path.stat().st_ino if self.path.exists() else None
        if found != self._inode:
            raise DamagedError(f"outbox {self.path}: somebody removed or replaced it: a fresh one is made")

    # --- reading --------------------------------------------------------------------------------------------------

    def streams(self) -> list[StreamRow]:
        """Every stream that ever had an event here."""
        rows = self._all("select stream, name, reserved, last, loose, rows from stream")
        return [StreamRow(k, name, reserved, last, bool(loose), n) for k, name, reserved, last, loose, n in rows]

    def last_n(self) -> int:
        """Highest place ever given in this file."""
        return int(self._one("select coalesce(max(seq), 0) from sqlite_sequence where name = 'event'"))

    def gaps(self) -> list[GapRow]:
        """The loss ledger."""
        rows = self._all("select stream, reason, bound, first, last, count from gap")
        return [(k, reason, bool(bound), first, last, count) for k, reason, bound, first, last, count in rows]

    def read(self, after: int, upto: int | None, limit: int) -> list[EventRow]:
        """The oldest events after `after`, at most up to `upto`, that are not parked; fewer when they are large."""
        found: list[EventRow] = []
        room = READ_BYTES
        with translated(self.path):
            cursor = self._db.execute(
                "select n, id, stream, seq, gap, t_mono, body from event where n > ? and n <= ?"
                " and n not in (select n from parked) order by n limit ?",
                (after, upto if upto is not None else 1 << 62, limit),
            )
            while room > 0 and (rows := cursor.fetchmany(READ_ROWS)):
                found += rows
                room -= sum(len(row[-1]) for row in rows)
            cursor.close()
        return found

    def rows(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Events with every clear column, for people; parked ones included."""
        names = ("n", "id", "stream", "seq", "routine", "replay", "gap", "t_wall", "parked", "bytes", "body")
        found = self._all(
            "select e.n, id, s.name, seq, routine, replay, gap, t_wall, reason, length(body), body"
            " from event e join stream s using (stream) left join parked p on p.n = e.n"
            " where e.n > ? order by e.n limit ?",
            (after, limit),
        )
        return [dict(zip(names, row, strict=True)) for row in found]

    def sizes(self) -> dict[str, int]:
        """Bytes: `used` by pages that hold something and the log, `database` and `log` as files."""
        log = self.path.with_name(self.path.name + "-wal")
        log_bytes = log.stat().st_size if log.exists() else 0
        pages, free = self._one("pragma page_count"), self._one("pragma freelist_count")
        return {"used": (pages - free) * PAGE + log_bytes, "database": pages * PAGE, "log": log_bytes}

    def oldest_wall_s(self) -> float | None:
        """Wall time of the oldest event, seconds since 1970; None when there is none."""
        rows = self._all("select t_wall from event order by n limit 1")
        return float(rows[0][0]) if rows else None

    # --- meta -----------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> Any:
        """A remembered value, or None."""
        rows = self._all("select value from meta where key = ?", (key,))
        return rows[0][0] if rows else None

    def set_meta(self, key: str, value: bytes | int | str) -> bool:
        """Remember a value, durably; True when that is done."""
        with self._transaction():
            self._set_meta(key, value)
        return True

    def _set_meta(self, key: str, value: bytes | int | str) -> None:
        self._db.execute("insert or replace into meta values (?, ?)", (key, value))

    # --- writing --------------------------------------------------------------------------------------------------

    def commit(self, batch: Batch, keys: dict[str, int], seal: Seal, outcome: Outcome) -> None:
        """Do all of `batch` or nothing: one transaction, one flush; fills `outcome`. Raises as `faults` says."""
        with self._transaction():
            for mark in batch.streams:
                self._db.execute(
                    "insert into stream values (?, ?, ?, ?, ?, 0) on conflict (stream) do update set"
                    " reserved = excluded.reserved, last = excluded.last, loose = excluded.loose",
                    (mark.key, mark.name, mark.reserved, mark.last, mark.loose),
                )
            self._delete(batch.deletes, outcome)
            gaps = Gaps()
            gaps.merge(batch.gaps)
            self._make_room(batch, keys, gaps, outcome)
            self._insert([p for p in batch.inserts if p.n not in outcome.refused], keys, seal, outcome)
            self._park(batch)
            self._write_gaps(gaps, batch)
            self._count_rows(outcome)
            if batch.clean:
                self._set_meta("clean", 1)
            if gaps.spans or batch.told:
                self._counted = None
            self._counted = self._counted or (self._one("select count(*) from gap"), self.parked())
            outcome.gap_rows, outcome.parked = self._counted
        self._log.grew(batch)

    def _count_rows(self, outcome: Outcome) -> None:
        changed = [(change, key) for key, change in outcome.rows.items() if change]
        if changed:
            self._db.executemany("update stream set rows = rows + ? where stream = ?", changed)

    def ease(self) -> None:
        """Write the log into the file when a commit would soon have to, so that no event waits for that.

        Raises a StoreError of `faults`; what was committed stays so.
        """
        if self._log.due:
            with translated(self.path):
                _, pages, _ = self._db.execute("pragma wal_checkpoint(passive)").fetchone()
            self._log.emptied(pages)

    def _delete(self, ns: list[int], outcome: Outcome) -> None:
        """Delete events by their places: a drained backlog is a few long runs of neighbours."""
        for run in runs(ns):
            outcome.count((key for (key,) in self._all(_DELETE, run)), -1)
            if self._counted is None or self._counted[1]:
                self._db.execute("delete from parked where n between ? and ?", run)
                self._counted = None

    def _insert(self, pendings: list[Pending], keys: dict[str, int], seal: Seal, outcome: Outcome) -> None:
        rows = [
            (
                p.n, raw_id(p.ticket.id), keys[p.ticket.stream], p.ticket.seq, p.event_class == "routine",
                p.replay, p.gap, p.t_wall_s, p.t_mono_s, body,
            )
            for p, body in zip(pendings, seal(pendings), strict=True)
        ]  # fmt: skip
        while rows:  # many rows a statement: each statement lets the threads that wait for the interpreter in
            count = next(size for size in INSERTS if size <= len(rows))
            sql = f"insert into event values {', '.join([_ROW] * count)}"  # noqa: S608
            self._db.execute(sql, [value for row in rows[:count] for value in row])
            del rows[:count]
        outcome.count((keys[p.ticket.stream] for p in pendings), 1)

    def _park(self, batch: Batch) -> None:
        parks = batch.parks | {p.n: p.parked for p in batch.inserts if p.parked}
        if not parks and not batch.unpark:
            return
        self._counted = None
        if batch.unpark:
            self._db.execute("delete from parked")
        self._db.executemany(
            "insert or replace into parked select n, ? from event where n = ?", [(why, n) for n, why in parks.items()]
        )

    def parked(self) -> int:
        """How many events are set aside."""
        return self._one("select count(*) from parked")

    def _write_gaps(self, gaps: Gaps, batch: Batch) -> None:
        if gaps.spans:
            self._db.executemany(
                "insert into gap values (?, ?, ?, ?, ?, ?) on conflict (stream, reason, bound) do update set"
                " first = min(first, excluded.first), last = max(last, excluded.last), count = count + excluded.count",
                [(k, reason, bound, s.first, s.last, s.count) for (k, reason, bound), s in gaps.spans.items()],
            )
        for (key, reason, bound), count in batch.told:
            row = "stream = ? and reason = ? and bound = ?"  # a constant: nothing is pasted into SQL
            taken = (count, key, reason, bound)
            self._db.execute(f"update gap set count = count - ? where {row}", taken)  # noqa: S608
            self._db.execute(f"delete from gap where {row} and count <= 0", (key, reason, bound))  # noqa: S608

    # --- the budget -----------------------------------------------------------------------------------------------

    def _make_room(self, batch: Batch, keys: dict[str, int], gaps: Gaps, outcome: Outcome) -> None:
        """Apply the policy of each class: routine events give way first, a critical one never to a routine one."""
        critical = [p for p in batch.inserts if p.event_class == "critical"]
        need, critical_need = _need(batch.inserts), _need(critical)
        if self._fits(need):
            return
        if critical or self._settings.routine_when_full == "drop-oldest":
            keep_routine = self._settings.routine_when_full == "drop-oldest"
            self._evict(1, need if keep_routine else critical_need, gaps, outcome)
        if self._fits(need):
            return
        self._refuse((p for p in batch.inserts if p.event_class == "routine"), keys, gaps, outcome)
        if critical_need and self._settings.critical_when_full == "drop-oldest":
            self._evict(0, critical_need, gaps, outcome)
        if not self._fits(critical_need):
            self._refuse((p for p in critical if not p.gap), keys, gaps, outcome)

    def _fits(self, need: int) -> bool:
        if need > self._slack:  # `need` is estimated from above, so that slack is never more than what is there
            used = self._one("pragma page_count") - self._one("pragma freelist_count")
            self._slack = self._limit - used * PAGE
        if need > self._slack:
            return need == 0
        self._slack -= need
        return True

    def _evict(self, routine: int, need: int, gaps: Gaps, outcome: Outcome) -> None:
        """Drop the oldest events of one class until `need` bytes fit or none is left; gap records stay."""
        while not self._fits(need):
            gone = self.drop_oldest(routine, CHUNK, gaps, outcome)
            if not gone:
                return

    def drop_oldest(self, routine: int, limit: int, gaps: Gaps, outcome: Outcome) -> int:
        """Drop the `limit` oldest events of one class in a transaction, noted in `gaps`; returns how many."""
        floor = self._routine_floor if routine else 0
        chosen = self._all(
            "select n from event where n >= ? and routine = ? and gap = 0 order by n limit ?", (floor, routine, limit)
        )
        if not chosen:
            return 0
        if routine:  # rows below are critical: not looked at again, so that a long backlog costs one pass
            self._routine_floor = chosen[-1][0]
        marks = ",".join("?" * len(chosen))
        ns = [n for (n,) in chosen]
        gone = self._all(f"delete from event where n in ({marks}) returning stream, seq", ns)  # noqa: S608
        self._db.execute(f"delete from parked where n in ({marks})", ns)  # noqa: S608
        self._counted = None
        for key, seq in gone:
            gaps.add(key, "outbox full", seq, seq, 1)
        outcome.count((key for key, _ in gone), -1)
        outcome.evicted += len(gone)
        return len(gone)

    def _refuse(self, pendings: Iterable[Pending], keys: dict[str, int], gaps: Gaps, outcome: Outcome) -> None:
        for p in pendings:
            outcome.refused.add(p.n)
            gaps.add(keys[p.ticket.stream], "outbox full", p.ticket.seq, p.ticket.seq, 1)

    def relieve(self) -> None:
        """Give the log's space back to the file system. Raises a StoreError of `faults`."""
        with translated(self.path):
            self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    def drop_some(self, count: int) -> Outcome:
        """Drop the oldest events, routine first, because the disk is full; tells it in the ledger."""
        outcome, gaps = Outcome(), Gaps()
        with self._transaction():
            if self.drop_oldest(1, count, gaps, outcome) == 0 and self._settings.critical_when_full == "drop-oldest":
                self.drop_oldest(0, count, gaps, outcome)
            self._write_gaps(gaps, Batch())
            self._count_rows(outcome)
            outcome.gap_rows = self._one("select count(*) from gap")
        return outcome

    def restore(self, rows: list[tuple[Any, ...]]) -> dict[int, int]:
        """Insert salvaged event rows under the place they had; returns stream key -> how many came back."""
        outcome = Outcome()
        with self._transaction():
            for row in rows:
                added = self._db.execute(
                    "insert or ignore into event values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row
                ).rowcount
                outcome.count([row[2]] if added else [], 1)
            self._count_rows(outcome)
        self._routine_floor = self._slack = 0
        return outcome.rows

    def shrink(self) -> bool:
        """Give back unused pages when a quarter of the file is unused; True when something was done."""
        pages, free = self._one("pragma page_count"), self._one("pragma freelist_count")
        if free < 256 or free * 4 < pages:
            return False
        with translated(self.path):  # executescript, because execute would free one page per call
            self._db.executescript("pragma incremental_vacuum(500)")
        return True

    # --- plumbing -------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with translated(self.path):
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                self._slack, self._counted = 0, None
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def _all(self, sql: str, values: Iterable[Any] = ()) -> list[Any]:
        with translated(self.path):
            return self._db.execute(sql, tuple(values)).fetchall()

    def _one(self, sql: str) -> int:
        return int(self._all(sql)[0][0])


def runs(ns: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of neighbours in `ns`, ascending."""
    ordered = sorted(ns)
    starts = [0, *(i for i in range(1, len(ordered)) if ordered[i] != ordered[i - 1] + 1)]
    for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True):
        if start < end:
            yield ordered[start], ordered[end - 1]


def _budget(path: Path, settings: StoreSettings) -> int:
    """The configured budget, or what a smaller disk has room for."""
    disk = os.statvfs(path.parent)
    mine = path.stat().st_size if path.exists() else 0
    room = disk.f_bavail * disk.f_frsize + mine - (settings.reserve_kib << 10)
    return max(1 << 20, min(settings.budget_mib << 20, room * 9 // 10))


def _need(pendings: list[Pending]) -> int:
    """Bytes of pages that these events will take, estimated from above."""
    return sum(len(p.body) + 128 for p in pendings) * 5 // 4 + (8 * PAGE if pendings else 0)


def open_raw(path: Path) -> sqlite3.Connection:
    """Open a quarantined file for reading only, with its log if that can be replayed, else as it lies."""
    try:
        uri = f"file:{path}?mode=ro"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        db.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error:
        uri = f"file:{path}?mode=ro&immutable=1"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    return db
