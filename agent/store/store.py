"""The store: accepts events, keeps them until the broker has them, and says what it could not keep.

    accept -> (memory) -> run: one transaction, one flush -> (disk) -> take -> acknowledge -> gone with the next commit

`accept`, `acknowledge` and `park` touch memory only and never wait for the disk. `run` is the one writer; `take` reads
over the same connection. A full, failing or damaged disk raises an alarm and leaves events pending in memory: nothing
that was accepted is dropped except by a limit that the operator set, and then a gap record tells it.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from agent.clock import Clock, SystemClock
from agent.errors import EnvelopeError, StoreError
from agent.records import Draft, Event
from agent.settings.store import StoreSettings
from agent.store.book import Book, Held
from agent.store.database import Database, EventRow
from agent.store.faults import DamagedError, DiskBrokenError, DiskFullError, translated
from agent.store.files import ExclusiveLock, Reserve, sync_folder
from agent.store.rescue import Rescue
from agent.store.salvage import quarantine
from agent.store.streams import Marks, Stream
from agent.store.tickets import Entry, Pending, Ticket

log = logging.getLogger(__name__)

Alarm = Callable[[str, str | None], None]
"""`alarm(name, text)` raises, `alarm(name, None)` clears; `name` is "store"."""
TURN_S = 1.0
BROKEN_LIMIT = 5
"""Failures in a row after which a file that cannot be written is renamed aside."""


class StoreKey(Protocol):
    """Seals what lies on the disk (AES-256-GCM with a random nonce). `open` raises EnvelopeError."""

    def seal(self, plain: bytes, aad: bytes) -> bytes: ...
    def open(self, sealed: bytes, aad: bytes) -> bytes: ...


class Store:
    """An outbox that one process owns. `run` belongs to one lane; everything else may be called from any thread."""

    def __init__(
        self,
        settings: StoreSettings,
        key: StoreKey,
        lock: ExclusiveLock | None,
        book: Book,
        clock: Clock,
        alarm: Alarm,
    ) -> None:
        """Use `Store.open`."""
        self._settings = settings
        self._key = key
        self._lock = lock
        self._book = book
        self._clock = clock
        self._alarm = alarm
        self._path = settings.folder / "outbox.db"
        self._marks = Marks(settings.folder / "marks.json")
        self._reserve = Reserve(settings.folder / "reserve", settings.reserve_kib << 10)
        self._db: Database | None = None
        self._rescue: Rescue | None = None
        self._adopted = False
        self._want_gaps = threading.Event()
        self._damage: DamagedError | None = None
        self._broken = 0
        self._retry_s = 0.0
        self._trouble = ""

    @classmethod
    def open(
        cls,
        settings: StoreSettings,
        key: StoreKey,
        encode: Callable[[Event], bytes],
        clock: Clock | None = None,
        alarm: Alarm | None = None,
        boot: str | None = None,
    ) -> "Store":
        """Open the outbox in `settings.folder`, or start without it when the disk is in trouble.

        `encode` makes the bytes that are kept and published of an event. Raises StoreError only when another process
        holds the outbox; a disk that cannot be used raises the alarm instead, and events pend in memory.
        """
        clock = clock or SystemClock()
        book = Book(settings, clock, encode, boot or secrets.token_hex(8))
        store = cls(settings, key, None, book, clock, alarm or _log_alarm)
        store._guarded(store._reopen)
        return store

    # --- for pipelines and the uplink -----------------------------------------------------------------------------

    def accept(self, draft: Draft) -> Ticket:
        """Take an event in; never waits for the disk.

        A full memory or an oversize event gives a ticket in state "evicted" with its reason, counted in a gap
        record. Raises StoreError for a stream name that cannot stand in a topic, or after `close`.
        """
        return self._book.accept(draft)

    def take(self, after: int, limit: int, upto: int | None = None, patience_s: float = 0.5) -> list[Entry] | None:
        """Up to `limit` events in order of acceptance with `after` < n <= `upto`, none of them acknowledged or parked.

        None when the disk cannot be asked now: it is in trouble, or busy for longer than `patience_s`.
        """
        if self._book.gap_rows:
            self._want_gaps.set()
        if after >= self._book.durable_n:
            return self._book.waiting(after, upto, limit)
        db = self._db
        if db is None or not db.lock.acquire(timeout=patience_s):
            return None
        try:
            found = self._read(db, after, upto, limit)
            last = found[-1].n if found else after
            more = self._book.waiting(last, upto, limit - len(found)) if len(found) < limit else []
        except StoreError as exc:
            self._damage = exc if isinstance(exc, DamagedError) else self._damage
            return None
        finally:
            db.lock.release()
        return found + more

    def _read(self, db: Database, after: int, upto: int | None, limit: int) -> list[Entry]:
        found: list[Entry] = []
        names = {s.key: s.name for s in list(self._book.streams.values())}
        while len(found) < limit:
            rows = db.read(after, upto, limit - len(found))
            for row in rows:
                after = row.n
                if not self._book.is_acknowledged(row.n):
                    found.extend(self._opened(row, names[row.stream]))
            if not rows:
                break
        return found

    def _opened(self, row: EventRow, stream: str) -> Iterator[Entry]:
        name = _uuid_text(row.id)
        try:
            body = self._key.open(row.body, _aad(stream, row.id))
        except EnvelopeError:
            log.error("store=damaged-row stream=%s seq=%d action=removed-and-told", stream, row.seq)
            self._book.discard(row.n, stream, row.seq)
            return
        here = row.n >= self._book.first_n
        yield Entry(row.n, name, stream, row.seq, row.gap, body, row.t_mono_s if here else None)

    def acknowledge(self, ns: Iterable[int]) -> None:
        """The broker has the events at these places. Touches memory only; the rows go with the next commit."""
        self._book.acknowledge(ns)

    def park(self, n: int, reason: str) -> None:
        """Set the event at `n` aside, so that it does not hold up the others; it stays and `reason` is kept with it."""
        self._book.park(n, reason)

    def unpark(self) -> None:
        """Let every parked event try again."""
        self._book.unpark()

    def watch(self, watcher: Callable[[], None] | None) -> None:
        """Call `watcher`, which must not block, whenever there is something new to take."""
        self._book.watch(watcher)

    def remember(self, key: str, text: str) -> bool:
        """Keep a short text durably under `key`; False when the disk is in trouble."""
        db = self._db
        if db is None:
            return False
        try:
            with db.lock:
                db.set_meta("kept " + key, text)
        except StoreError as exc:
            log.warning("store=not-remembered key=%s error=%r", key, str(exc))
            return False
        return True

    def recall(self, key: str) -> str:
        """What was remembered under `key`; empty when nothing was, or when the disk is in trouble."""
        db = self._db
        if db is None:
            return ""
        try:
            with db.lock:
                return str(db.meta("kept " + key) or "")
        except StoreError as exc:
            log.warning("store=not-recalled key=%s error=%r", key, str(exc))
            return ""

    @property
    def rewinds(self) -> int:
        """Grows when events older than those already taken come back; whoever takes shall start over."""
        return self._book.rewinds

    @property
    def last_n(self) -> int:
        """The highest place on the disk: everything that is not durable yet, or comes later, lies above it."""
        return self._book.durable_n

    # --- the writer lane ------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Commit until `stop`, then everything that is still pending. Never raises StoreError: trouble is an alarm."""
        while not stop.is_set():
            beat()
            if self._db is None:
                stop.wait(0.05)  # events wait in memory, where `wait_for_work` would find them at once
            busy = self._rescue is not None and self._db is not None
            due = self._book.wait_for_work(0.01 if busy else TURN_S)
            self._guarded(lambda due=due: self._turn(due))  # type: ignore[misc]
        self._guarded(self._flush)

    def _turn(self, due: bool) -> None:
        if self._damage is not None:
            damage, self._damage = self._damage, None
            raise damage
        if self._db is None:
            if self._clock.mono_s() >= self._retry_s:
                self._reopen()
            return
        if self._want_gaps.is_set():
            self._tell_gaps(self._db)
        if due or self._want_gaps.is_set():
            self._want_gaps.clear()
            self._commit(self._db)
        else:
            self._idle(self._db)

    def _tell_gaps(self, db: Database) -> None:
        with db.lock:
            rows = db.gaps()
        self._book.tell_gaps(rows)

    def _commit(self, db: Database, *, clean: bool = False) -> None:
        batch = self._book.collect(clean=clean)
        if not batch:
            return
        try:
            with db.lock:
                with translated(self._marks.path):
                    self._marks.raise_over(
                        self._book.highest(), {m.name: max(m.next, m.reserved) for m in batch.streams}
                    )
                keys = {s.name: s.key for s in list(self._book.streams.values())}
                self._book.settled(batch, db.commit(batch, keys, self._seal))
        except StoreError:
            self._book.failed(batch)
            raise
        self._well()

    def _seal(self, pending: Pending) -> bytes:
        aad = _aad(pending.ticket.stream, bytes.fromhex(pending.ticket.id.replace("-", "")))
        return self._key.seal(pending.body, aad)

    def _idle(self, db: Database) -> None:
        if self._rescue is not None:
            with db.lock:
                done = self._rescue.step(db)
            if done:
                self._rescue = None
                self._alarm("store", None)
            return
        with db.lock:
            while db.shrink() and not self._book.wait_for_work(0.0):
                pass
        with translated(self._path):
            self._reserve.take()

    def _flush(self) -> None:
        if self._db is not None:
            while self._book.pending_stats()["pending"]:
                self._commit(self._db)

    # --- trouble --------------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work`; on trouble raise the alarm, do what helps, and leave the events pending."""
        try:
            work()
        except DiskFullError as exc:
            self._ill(exc)
            self._make_space()
        except DamagedError as exc:
            self._ill(exc)
            self._set_aside("damaged")
        except DiskBrokenError as exc:
            self._ill(exc)
            self._broken += 1
            self._shut()
            if self._broken >= BROKEN_LIMIT and self._path.exists():
                self._set_aside("failing")

    def _ill(self, exc: StoreError) -> None:
        self._retry_s = self._clock.mono_s() + min(30.0, 0.25 * 2**self._broken)
        if self._trouble != str(exc):
            self._trouble = str(exc)
            self._alarm("store", self._trouble)

    def _well(self) -> None:
        self._broken = 0
        if self._trouble:
            self._trouble = ""
            if self._rescue is None:
                self._alarm("store", None)

    def _make_space(self) -> None:
        """A full disk: give up the reserve, empty the log, drop the oldest; what still fails is tried again."""
        try:
            with translated(self._path):
                self._reserve.release()
            if self._db is not None:
                with self._db.lock:
                    self._db.relieve()
                    self._book.dropped(self._db.drop_some(200))
        except StoreError as exc:
            log.warning("store=still-full error=%r", str(exc))
            self._shut()

    def _shut(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                with db.lock:
                    db.close()
            except StoreError as exc:
                log.warning("store=close-failed error=%r", str(exc))

    def _set_aside(self, why: str) -> None:
        """Rename the file away, start a fresh one, salvage the old one between commits."""
        expected = {s.name: s.rows for s in list(self._book.streams.values())} if self._adopted else {}
        self._shut()
        try:
            with translated(self._path):
                target = quarantine(self._path, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.wall_s())))
                sync_folder(self._path.parent)
            log.error("store=set-aside why=%s file=%s", why, target)
            self._rescue = Rescue(target, self._book, self._key, expected)
            self._broken = 0
            self._reopen()
        except StoreError as exc:
            self._ill(exc)

    # --- opening and closing --------------------------------------------------------------------------------------

    def _reopen(self) -> None:
        with translated(self._settings.folder):
            self._settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._lock is None:
            self._lock = ExclusiveLock(self._settings.folder / "lock")
        self._marks = Marks.load(self._marks.path)
        db = Database(self._path, self._settings)
        try:
            self._check_key(db)
            self._adopt(db)
        except BaseException:
            db.close()
            raise
        self._db = db
        if self._rescue is None:
            self._rescue = Rescue.unfinished(self._settings.folder, self._book, self._key)
        with translated(self._path):
            self._reserve.take()

    def _check_key(self, db: Database) -> None:
        proof, aad = db.meta("key"), b"limpet store key"
        if proof is None:
            db.set_meta("key", self._key.seal(b"", aad))
            return
        try:
            self._key.open(proof, aad)
        except EnvelopeError as exc:
            raise DamagedError(
                f"outbox {self._path}: its events are sealed under another store key: put the former key back at "
                f"{self._settings.key_file} to salvage them; the file is kept aside"
            ) from exc

    def _adopt(self, db: Database) -> None:
        clean = bool(db.meta("clean")) or db.fresh
        streams, lost = [], []
        for row in db.streams():
            first = row.last + 1
            jump = not clean and row.loose and row.reserved > first
            if jump and not self._adopted:
                lost.append((row.name, first, row.reserved - 1))
            following = max(row.reserved, first) if jump else first
            streams.append(
                Stream(row.name, row.key, following, row.reserved, row.last, row.loose, row.rows)
            )
        db.set_meta("clean", 0)
        held = Held(tuple(streams), db.last_n(), len(db.gaps()), db.parked(), db.fresh)
        self._book.adopt(held, self._marks.ceilings, self._marks.n)
        for name, first, last in lost:
            self._book.lose(name, first, last, last - first + 1, "unclean stop", bound=True)
        self._adopted = True

    def close(self) -> None:
        """Write what is pending, mark an orderly stop, empty the log, let go. Safe to call twice."""
        self._book.close()
        self._guarded(self._flush)
        if self._db is not None:
            self._guarded(self._last_commit)
        self._shut()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _last_commit(self) -> None:
        assert self._db is not None
        self._commit(self._db, clean=True)
        with self._db.lock:
            self._db.relieve()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- looking --------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, cheap enough for every scrape; bytes unless named otherwise."""
        streams = {s.name: {"events": s.rows, "next_seq": s.next} for s in list(self._book.streams.values())}
        made: dict[str, Any] = {
            "state": "trouble" if self._trouble else "salvaging" if self._rescue else "ok",
            "trouble": self._trouble,
            "events": sum(s["events"] for s in streams.values()),
            "budget": self._settings.budget_mib << 20,
            "streams": streams,
            "gaps_open": self._book.gap_rows,
            "parked": self._book.parked,
            "set_aside": sorted(p.name for p in self._settings.folder.glob("*aged-*.db")),
            **self._book.pending_stats(),
            **self._book.counters,
        }
        db = self._db
        if db is not None and db.lock.acquire(timeout=0.2):
            try:
                made |= db.sizes() | {"oldest_wall_s": db.oldest_wall_s()}
            except StoreError as exc:
                made["trouble"] = str(exc)
            finally:
                db.lock.release()
        return made

    def rows(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Events on the disk with their clear columns, and `event` (CBOR) opened; parked ones included."""
        if self._db is None:
            return []
        with self._db.lock:
            found = self._db.rows(after, limit)
        for row in found:
            sealed, name = row.pop("body"), row["id"]
            row["id"] = _uuid_text(name)
            try:
                row["event"] = self._key.open(sealed, _aad(row["stream"], name))
            except EnvelopeError:
                row["event"] = None
        return found


def _aad(stream: str, event_id: bytes) -> bytes:
    return stream.encode() + b"\0" + event_id


def _uuid_text(raw: bytes) -> str:
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def _log_alarm(name: str, text: str | None) -> None:
    if text is None:
        log.info("alarm=%s state=cleared", name)
    else:
        log.error("alarm=%s %s", name, text)
