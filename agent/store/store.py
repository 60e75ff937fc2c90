"""The store: accepts events, keeps them until the broker has them, and says what it could not keep.

    accept -> (memory) -> run: one transaction, one flush -> (disk) -> take -> acknowledge -> gone with the next commit

`accept`, `acknowledge` and `park` touch memory only and never wait for the disk. `run` is the one writer; `take` reads
over the same connection. Nothing that was accepted is dropped except by a limit that the operator set, and then a gap
record tells it.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from agent.clock import Clock, SystemClock
from agent.errors import EnvelopeError, StoreError
from agent.records import Draft, Event
from agent.settings.store import StoreSettings
from agent.store.batch import EventRow
from agent.store.book import Book
from agent.store.database import READ_BYTES, Database
from agent.store.faults import DamagedError
from agent.store.keeper import Alarm, Keeper
from agent.store.tickets import Entry, StoreKey, Ticket, aad_of, text_id

log = logging.getLogger(__name__)

TURN_S = 1.0
RESTING_S = 0.05
"""How often the writer looks while the disk is left alone, seconds."""


class Store:
    """An outbox that one process owns. `run` belongs to one lane; everything else may be called from any thread."""

    def __init__(self, settings: StoreSettings, key: StoreKey, book: Book, keeper: Keeper) -> None:
        """Use `Store.open`."""
        self._settings = settings
        self._key = key
        self._book = book
        self._keeper = keeper
        self._want_gaps = threading.Event()
        self._damage: DamagedError | None = None

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

        `encode` makes the bytes that are kept and published of an event. Raises OutboxInUseError when another process
        holds the outbox; a disk that cannot be used raises the alarm instead, and events pend in memory.
        """
        clock = clock or SystemClock()
        book = Book(settings, clock, encode, boot or secrets.token_hex(8))
        keeper = Keeper(settings, key, book, clock, alarm or _log_alarm)
        keeper.guarded(keeper.reopen)
        return cls(settings, key, book, keeper)

    # --- for pipelines and the uplink -----------------------------------------------------------------------------

    def accept(self, draft: Draft) -> Ticket:
        """Take an event in; never waits for the disk.

        A full memory or an oversize event gives a ticket in state "evicted" with its reason, counted in a gap
        record. Raises StoreError for a stream or a body that cannot be written down, or after `close`.
        """
        return self._book.accept(draft)

    def take(self, after: int, limit: int, upto: int | None = None, patience_s: float = 0.5) -> list[Entry] | None:
        """Up to `limit` events in order of acceptance with `after` < n <= `upto`, none of them acknowledged or parked.

        Fewer when they are large: `last_n` then says that there are more. None when the disk cannot be asked now: it
        is in trouble, or busy for longer than `patience_s`.
        """
        if self._book.gap_rows:
            self._want_gaps.set()
        at_hand = self._book.in_memory(after, upto, limit)
        if at_hand is not None:
            return at_hand
        db = self._keeper.db
        if db is None or not db.lock.acquire(timeout=patience_s):
            return None
        try:
            found, last = self._read(db, after, upto, limit)
            more = self._book.waiting(last, upto, limit - len(found)) if last is not None else []
        except StoreError as exc:
            self._damage = exc if isinstance(exc, DamagedError) else self._damage
            return None
        finally:
            db.lock.release()
        return found + more

    def _read(self, db: Database, after: int, upto: int | None, limit: int) -> tuple[list[Entry], int | None]:
        """Events of the disk, and after which place to go on in memory; None while the disk has more."""
        found: list[Entry] = []
        names = {s.key: s.name for s in self._book.streams()}
        room = READ_BYTES
        while len(found) < limit and room > 0:
            rows = db.read(after, upto, limit - len(found))
            if not rows:
                return found, after
            after = rows[-1][0]
            fresh = self._opened(self._book.unacknowledged(rows), names)
            room -= sum(len(entry.body) for entry in fresh)
            found += fresh
        return found, None

    def _opened(self, rows: list[EventRow], names: dict[int, str]) -> list[Entry]:
        """What the rows hold; one that is damaged is removed, and told."""
        bound = {key: aad_of(name, b"") for key, name in names.items()}
        bodies = self._key.open_all([(body, bound[key] + raw) for _, raw, key, _, _, _, body in rows])
        found, first_n, make = list[Entry](), self._book.first_n, Entry._make
        for (n, raw, key, seq, gap, t_mono_s, _), body in zip(rows, bodies, strict=True):
            if body is None:
                log.error("store=damaged-row stream=%s seq=%d action=removed-and-told", names[key], seq)
                self._book.discard(n, names[key], seq)
                continue
            found.append(make((n, raw, names[key], seq, gap == 1, body, t_mono_s if n >= first_n else None)))
        return found

    def acknowledge(self, ns: Iterable[int]) -> None:
        """The broker has the events at these places. Touches memory only; the rows go with the next commit."""
        self._book.acknowledge(ns)
        if self._book.gap_rows:  # those that waited until the gap records before them had arrived
            self._want_gaps.set()

    def park(self, n: int, reason: str) -> None:
        """Set the event at `n` aside, so that it does not hold up the others; it stays and `reason` is kept with it."""
        self._book.park(n, reason)

    def unpark(self) -> None:
        """Let every event that was set aside try again."""
        self._book.unpark()

    def watch(self, watcher: Callable[[bool], None] | None) -> None:
        """Call `watcher`, which must not block, whenever there is something new to take; True: not only routine."""
        self._book.watcher = watcher

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
            if self._keeper.resting:
                stop.wait(RESTING_S)
                continue
            if self._keeper.db is None:
                self._keeper.guarded(self._keeper.reopen)
                continue
            due = self._book.wait_for_work(0.01 if self._keeper.salvaging else TURN_S)
            self._keeper.guarded(lambda due=due: self._turn(due))  # type: ignore[misc]
        self._keeper.guarded(self._flush)

    def _turn(self, due: bool) -> None:
        if self._damage is not None:
            damage, self._damage = self._damage, None
            raise damage
        if self._want_gaps.is_set():
            self._want_gaps.clear()
            self._tell_gaps()
            due = True
        if due:
            self._keeper.commit(self._book.collect())
            self._keeper.ease()
        else:
            self._keeper.tidy()
        self._keeper.salvage()

    def _tell_gaps(self) -> None:
        db = self._keeper.db
        if db is not None:
            with db.lock:
                rows = db.gaps()
            self._book.tell_gaps(rows)

    def _flush(self) -> None:
        while self._keeper.db is not None and self._book.pending_stats()["pending"]:
            self._keeper.commit(self._book.collect())

    def close(self) -> None:
        """Write what is pending, mark an orderly stop, empty the log, let go. Safe to call twice."""
        self._book.close()
        self._keeper.guarded(self._flush)
        if self._keeper.db is not None:
            self._keeper.guarded(lambda: self._keeper.commit(self._book.collect(clean=True)))
        self._keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- looking, and small things to remember ----------------------------------------------------------------------

    @property
    def state(self) -> str:
        """"ok", "salvaging" or "trouble"; the disk is not asked."""
        return "trouble" if self._keeper.trouble else "salvaging" if self._keeper.salvaging else "ok"

    @property
    def budget(self) -> int:
        """The configured budget, bytes."""
        return self._settings.budget_mib << 20

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, cheap enough for every scrape; bytes unless named otherwise."""
        streams = {s.name: {"events": s.rows, "next_seq": s.next} for s in self._book.streams()}
        made: dict[str, Any] = {
            "state": self.state,
            "trouble": self._keeper.trouble,
            "events": sum(s["events"] for s in streams.values()),
            "budget": self.budget,
            "streams": streams,
            "gaps_open": self._book.gap_rows,
            "parked": self._book.parked,
            "set_aside": sorted(p.name for p in self._settings.folder.glob("*aged-*.db")),
            **self._book.pending_stats(),
            **self._book.counters,
        }
        sizes = self._asked(lambda db: db.sizes() | {"oldest_wall_s": db.oldest_wall_s()}, 0.2)
        return made | (sizes or {})

    def rows(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Events on the disk with their clear columns, and `event` (CBOR) opened or None; parked ones included."""
        found = self._asked(lambda db: db.rows(after, limit), 5.0) or []
        for row in found:
            sealed, raw = row.pop("body"), row["id"]
            row["id"] = text_id(raw)
            try:
                row["event"] = self._key.open(sealed, aad_of(row["stream"], raw))
            except EnvelopeError:
                row["event"] = None
        return found

    def remember(self, key: str, text: str) -> bool:
        """Keep a short text durably under `key`; False when the disk is in trouble."""
        return bool(self._asked(lambda db: db.set_meta("kept " + key, text), 5.0))

    def recall(self, key: str) -> str:
        """What was remembered under `key`; empty when nothing was, or when the disk is in trouble."""
        return str(self._asked(lambda db: db.meta("kept " + key), 5.0) or "")

    def _asked(self, question: Callable[[Database], Any], patience_s: float) -> Any:
        """The answer of the database; None while the disk is in trouble or busy for longer than `patience_s`."""
        db = self._keeper.db
        if db is None or not db.lock.acquire(timeout=patience_s):
            return None
        try:
            return question(db)
        except StoreError as exc:
            log.warning("store=not-answered error=%r", str(exc))
            return None
        finally:
            db.lock.release()


def _log_alarm(name: str, text: str | None) -> None:
    if text is None:
        log.info("alarm=%s state=cleared", name)
    else:
        log.error("alarm=%s %s", name, text)
