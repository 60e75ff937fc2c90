"""What the store knows without touching the disk: pending events, numbers, acknowledgements, losses to tell.

One lock guards it, held for microseconds and never across I/O, so that `accept` cannot be held up by a flush. Events
pend in the order of acceptance and are committed in that order, so everything durable is older than everything pending.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.clock import Clock
from agent.errors import EnvelopeError, StoreError
from agent.records import Draft, Event
from agent.settings.store import StoreSettings
from agent.store.batch import Batch, Gaps, Outcome, StreamMark
from agent.store.ids import EventIds
from agent.store.streams import Stream, checked_name
from agent.store.tickets import Entry, Pending, Ticket

OVERHEAD = 512
"""Bytes of memory that a pending event costs beside its body, estimated."""
BATCH_EVENTS = 1024
DELETES = 500
"""Deletions per commit; more would let the write-ahead log grow."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a database file says when it is opened."""

    streams: tuple[Stream, ...]
    last_n: int
    gap_rows: int
    parked: int
    fresh: bool


class Book:
    """The memory of the store. Every public method takes the lock."""

    def __init__(
        self, settings: StoreSettings, clock: Clock, encode: Callable[[Event], bytes], boot: str
    ) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.work = threading.Condition(self.lock)
        self.streams: dict[str, Stream] = {}
        self.pending: dict[int, Pending] = {}
        self.durable_n = 0
        self.first_n = 0
        """Events from this number on were accepted by this process."""
        self.gap_rows = 0
        self.parked = 0
        """Events set aside, on the disk."""
        self.rewinds = 0
        """Grows when events older than what was taken come back: salvaged, or no longer parked."""
        self.counters = {"accepted": 0, "durable": 0, "published": 0, "acknowledged": 0, "evicted": 0}
        self._settings = settings
        self._clock = clock
        self._ids = EventIds(clock.wall_s)
        self._encode = encode
        self._boot = boot
        self._next_n: int | None = None
        self._early: list[tuple[Draft, Ticket]] = []
        self._early_lost: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._routine: dict[int, None] = {}
        self._writing: set[int] = set()
        self._acked: dict[int, float] = {}
        self._parks: dict[int, str] = {}
        self._unpark = False
        self._gaps = Gaps()
        self._told: list[tuple[tuple[int, str, bool], int]] = []
        self._gap_events: set[int] = set()
        self._bytes = 0
        self._urgent = False
        self._closed = False
        self._watcher: Callable[[], None] | None = None
        self._batch_bytes = min(512, settings.budget_mib * 32) << 10

    # --- offering -----------------------------------------------------------------------------------------------

    def accept(self, draft: Draft) -> Ticket:
        """Number and hold an event. Raises StoreError when it cannot be named or written, or after `close`."""
        with self.lock:
            if self._closed:
                raise StoreError("outbox: it is closed: nothing is accepted after a stop")
            ticket = Ticket(str(self._ids.make()), checked_name(draft.stream), -1, self.changed)
            if self._next_n is None:  # no database has been opened yet, so no number is known
                self._hold_early(draft, ticket)
            else:
                self._number(draft, ticket)
        if draft.event_class == "routine":
            self._publishable()
        return ticket

    def watch(self, watcher: Callable[[], None] | None) -> None:
        """Call `watcher` whenever there is something new to publish; it must not block."""
        self._watcher = watcher

    def _publishable(self) -> None:
        watcher = self._watcher
        if watcher is not None:
            watcher()

    def _hold_early(self, draft: Draft, ticket: Ticket) -> None:
        if len(self._early) * 2 * OVERHEAD < self._settings.pending_mib * (1 << 20):
            self._early.append((draft, ticket))
            return
        ticket.state, ticket.reason = "evicted", "memory full before the outbox could be opened"
        self._early_lost[draft.stream] = self._early_lost.get(draft.stream, 0) + 1
        self.counters["evicted"] += 1

    def _number(self, draft: Draft, ticket: Ticket) -> Pending | None:
        assert self._next_n is not None
        stream = self.streams.get(draft.stream) or self._new_stream(draft.stream)
        ticket.seq = stream.next
        try:
            body = self._encode(Event(ticket.id, self._boot, ticket.seq, draft))
        except EnvelopeError as exc:
            raise StoreError(f"event on stream {draft.stream!r} cannot be written: {exc}") from exc
        stream.next += 1
        gap = draft.kind == "gap"
        if len(body) > self._settings.event_kib << 10:
            allowed = self._settings.event_kib
            self._refuse(ticket, stream, f"oversize: {len(body)} bytes, [store] event_kib allows {allowed}")
            return None
        if not gap and not self._fits(len(body) + OVERHEAD, draft.event_class == "critical"):
            self._refuse(ticket, stream, "memory full")
            return None
        due_s = self._clock.mono_s() + (self._settings.routine_wait_s if draft.event_class == "routine" else 0.0)
        pending = Pending(
            ticket, self._next_n, draft.event_class, draft.replay, gap, body, draft.t_wall_s, draft.t_mono_s, due_s
        )
        self._next_n += 1
        self._pend(pending, stream)
        return pending

    def _pend(self, pending: Pending, stream: Stream) -> None:
        self.pending[pending.n] = pending
        self._bytes += len(pending.body) + OVERHEAD
        self.counters["accepted"] += 1
        if pending.event_class == "routine":
            stream.loose = True
            self._routine[pending.n] = None
            if stream.usable(pending.ticket.seq) and pending.due_s > self._clock.mono_s():
                return
        self._urgent = True
        self.work.notify_all()

    def _new_stream(self, name: str) -> Stream:
        key = max(self._names, default=0) + 1
        self._names[key] = name
        self.streams[name] = Stream(name, key, told_s=self._clock.mono_s())
        return self.streams[name]

    def _fits(self, size: int, critical: bool) -> bool:
        """Make room in memory by the configured policy: routine events give way first."""
        limit = self._settings.pending_mib * (1 << 20)
        drop = critical or self._settings.routine_when_full == "drop-oldest"
        while self._bytes + size > limit and drop and self._drop_oldest(self._routine):
            pass
        if critical and self._settings.critical_when_full == "drop-oldest":
            while self._bytes + size > limit and self._drop_oldest(self.pending):
                pass
        return self._bytes + size <= limit

    def _drop_oldest(self, among: Iterable[int]) -> bool:
        for n in among:
            pending = self.pending[n]
            if n not in self._writing and not pending.gap:
                self._forget(n)
                self._refuse(pending.ticket, self.streams[pending.ticket.stream], "memory full")
                return True
        return False

    def _refuse(self, ticket: Ticket, stream: Stream, why: str) -> None:
        ticket.state, ticket.reason = "evicted", why
        self.counters["evicted"] += 1
        self._gaps.add(stream.key, why.partition(":")[0], ticket.seq, ticket.seq, 1)
        self.changed.notify_all()

    def _forget(self, n: int) -> Pending:
        pending = self.pending.pop(n)
        self._routine.pop(n, None)
        self._bytes -= len(pending.body) + OVERHEAD
        return pending

    # --- publishing ---------------------------------------------------------------------------------------------

    def waiting(self, after: int, upto: int | None, limit: int) -> list[Entry]:
        """Pending events that may leave before they are written: a prefix, in order, of those after `after`."""
        found: list[Entry] = []
        with self.lock:
            for n, pending in self.pending.items():
                if upto is not None and n > upto:
                    break
                if n <= after or pending.parked or n in self._acked:
                    continue
                ticket = pending.ticket
                held = pending.event_class == "critical" or not self.streams[ticket.stream].usable(ticket.seq)
                if held or len(found) >= limit:
                    break
                found.append(self._entry(pending))
        return found

    def _entry(self, p: Pending) -> Entry:
        return Entry(p.n, p.ticket.id, p.ticket.stream, p.ticket.seq, p.gap, p.body, p.t_mono_s)

    def acknowledge(self, ns: Iterable[int]) -> None:
        """The broker has these: those never written need not be, the others are deleted with the next commit."""
        now_s = self._clock.mono_s()
        with self.lock:
            for n in ns:
                self.counters["acknowledged"] += 1
                self._gap_events.discard(n)
                if n in self.pending and n not in self._writing:
                    self._forget(n).ticket.state = "published"
                    self.counters["published"] += 1
                else:
                    self._acked[n] = now_s
            self.changed.notify_all()
            if len(self._acked) >= DELETES:
                self._urgent = True
                self.work.notify_all()

    def is_acknowledged(self, n: int) -> bool:
        """True when `n` only waits to be deleted. Called with or without the lock: one dict look-up."""
        return n in self._acked

    def park(self, n: int, reason: str) -> None:
        """Set an event aside with its reason; it stays in the outbox."""
        with self.lock:
            self._gap_events.discard(n)
            if n in self.pending:
                self.pending[n].parked = reason
            if n not in self.pending or n in self._writing:
                self._parks[n] = reason
            self._urgent = True
            self.work.notify_all()

    def unpark(self) -> None:
        """Let every parked event try again."""
        with self.lock:
            if not self.parked and not self._parks and not any(p.parked for p in self.pending.values()):
                return
            self._unpark = self._urgent = True
            for pending in self.pending.values():
                pending.parked = ""
            self.work.notify_all()

    def discard(self, n: int, stream: str, seq: int) -> None:
        """Remove a row whose content is damaged, and tell it."""
        with self.lock:
            if n not in self._acked:
                self._acked[n] = self._clock.mono_s()
                self._gaps.add(self.streams[stream].key, "damaged", seq, seq, 1)
                self.counters["evicted"] += 1

    # --- writing ------------------------------------------------------------------------------------------------

    def wait_for_work(self, longest_s: float) -> bool:
        """Wait until a commit is due, at most `longest_s`; True when one is."""
        with self.lock:
            if not self._due():
                self.work.wait(min(longest_s, self._due_in()))
            return self._due()

    def _due_in(self) -> float:
        now_s = self._clock.mono_s()
        first = next(iter(self._routine), None)
        waits = [self.pending[first].due_s - now_s] if first is not None else []
        if self._acked:
            waits.append(next(iter(self._acked.values())) + self._settings.routine_wait_s - now_s)
        return max(0.0, min(waits, default=3600.0))

    def _due(self) -> bool:
        return self._urgent or bool(self._gaps.spans) or self._due_in() <= 0.0

    def collect(self, *, clean: bool = False) -> Batch:
        """Everything the next commit shall do, oldest first, up to the size of a batch."""
        with self.lock:
            batch = Batch(clean=clean, parks=self._parks, unpark=self._unpark, gaps=self._gaps, told=self._told)
            self._parks, self._unpark, self._gaps, self._told, self._urgent = {}, False, Gaps(), [], False
            size = 0
            for pending in self.pending.values():
                full = size + len(pending.body) > self._batch_bytes or len(batch.inserts) >= BATCH_EVENTS
                if full and batch.inserts:
                    self._urgent = True
                    break
                batch.inserts.append(pending)
                size += len(pending.body)
            batch.deletes = [n for n, _ in zip(self._acked, range(DELETES), strict=False)]
            self._urgent = self._urgent or len(self._acked) > DELETES
            self._writing = {p.n for p in batch.inserts}
            batch.streams = self._marks(len(batch.inserts), clean)
            return batch

    def _marks(self, taken: int, clean: bool) -> list[StreamMark]:
        """Rows of the streams that change. `last` stays below everything that is still only in memory."""
        lowest: dict[str, int] = {}
        for i, pending in enumerate(self.pending.values()):
            if i >= taken:
                lowest.setdefault(pending.ticket.stream, pending.ticket.seq)
        now_s, wait_s = self._clock.mono_s(), self._settings.routine_wait_s
        marks = []
        for s in self.streams.values():
            last = lowest.get(s.name, s.next) - 1
            reserved = s.next if clean else s.wanted(now_s, wait_s)
            settled = s.reserved >= s.next + 1 or not s.loose
            if clean or last != s.last or not settled:
                marks.append(StreamMark(s.name, s.key, reserved, last, s.loose, s.next))
        return marks

    def settled(self, batch: Batch, outcome: Outcome) -> None:
        """The commit went through: resolve its tickets."""
        now_s = self._clock.mono_s()
        with self.lock:
            self._writing.clear()
            for pending in batch.inserts:
                self._forget(pending.n)
                refused = pending.n in outcome.refused
                pending.ticket.state = "evicted" if refused else "durable"
                pending.ticket.reason = "outbox full" if refused else ""
                self.counters["evicted" if refused else "durable"] += 1
                self.durable_n = max(self.durable_n, pending.n)
            for n in batch.deletes:
                self._acked.pop(n, None)
            self.counters["evicted"] += outcome.evicted
            self.gap_rows, self.parked = outcome.gap_rows, outcome.parked
            self.rewinds += batch.unpark
            self._mark_streams(batch.streams, outcome.rows, now_s)
            self.changed.notify_all()
        self._publishable()

    def _mark_streams(self, marks: list[StreamMark], rows: dict[int, int], now_s: float) -> None:
        for mark in marks:
            stream = self.streams[mark.name]
            stream.reserved, stream.last, stream.told, stream.told_s = mark.reserved, mark.last, mark.next, now_s
        for key, change in rows.items():
            self.streams[self._names[key]].rows += change

    def failed(self, batch: Batch) -> None:
        """The commit did not go through: everything is as before, and still pending."""
        with self.lock:
            self._writing.clear()
            self._parks = batch.parks | self._parks
            self._unpark = self._unpark or batch.unpark
            batch.gaps.merge(self._gaps)
            self._gaps = batch.gaps
            self._told = batch.told + self._told
            self._urgent = True

    def tell_gaps(self, rows: list[tuple[int, str, bool, int, int, int]]) -> None:
        """Make events of ledger rows (stream, reason, bound, first, last, count) unless earlier ones still travel."""
        with self.lock:
            if self._gap_events or self._told:
                return
            for key, reason, bound, first, last, count in rows:
                body = {"reason": reason, "first": first, "last": last, "count": count, "upper_bound": bound}
                draft = Draft(
                    self._names[key], "gap", body, self._clock.wall_s(), self._clock.mono_s(),
                    clock=self._clock.state(),
                )  # fmt: skip
                ticket = Ticket(str(self._ids.make()), draft.stream, -1, self.changed)
                made = self._number(draft, ticket)
                if made is not None:
                    self._gap_events.add(made.n)
                    self._told.append(((key, reason, bound), count))

    # --- opening and closing ------------------------------------------------------------------------------------

    def adopt(self, held: Held, ceilings: dict[str, int], n_ceiling: int) -> None:
        """Join what a newly opened database says with what is known; number what came before it."""
        with self.lock:
            for theirs in held.streams:
                self._adopt_stream(theirs)
            for name, ceiling in ceilings.items():
                if name not in self.streams:
                    self._new_stream(name).next = ceiling
                    self.streams[name].last = ceiling - 1
            if held.fresh:
                for stream in self.streams.values():
                    stream.rows, stream.reserved, stream.last = 0, 0, -1
            self.gap_rows, self.parked = held.gap_rows, held.parked
            self.durable_n = max(self.durable_n, held.last_n)
            if self._next_n is None:
                lost = not held.streams and bool(ceilings)
                self._next_n = self.first_n = (max(n_ceiling, held.last_n) if lost else held.last_n) + 1
            early, self._early = self._early, []
            for draft, ticket in early:
                self._number(draft, ticket)
            for name, count in self._early_lost.items():
                stream = self.streams.get(name) or self._new_stream(name)
                self._gaps.add(stream.key, "memory full", stream.next, stream.next + count - 1, count)
                stream.next += count
            self._early_lost.clear()

    def _adopt_stream(self, theirs: Stream) -> None:
        mine = self.streams.get(theirs.name)
        if mine is None:
            self._names[theirs.key] = theirs.name
            self.streams[theirs.name] = theirs
            theirs.told, theirs.told_s = theirs.next, self._clock.mono_s()
        else:
            mine.rows = theirs.rows

    def lose(self, stream: str, first: int, last: int, count: int, reason: str, *, bound: bool) -> None:
        """Count what is gone without having been removed by a limit."""
        with self.lock:
            known = self.streams.get(stream) or self._new_stream(stream)
            self._gaps.add(known.key, reason, first, last, count, bound=bound)

    def rewind(self, n: int) -> None:
        """Older events, up to `n`, came back: whoever takes shall start over."""
        with self.lock:
            self.durable_n = max(self.durable_n, n)
            self.rewinds += 1

    def restored(self, added: dict[int, int]) -> None:
        """Rows (stream key -> how many) came back from a file that had been set aside."""
        with self.lock:
            for key, count in added.items():
                self.streams[self._names[key]].rows += count

    def dropped(self, outcome: Outcome) -> None:
        """Rows were dropped outside a batch because the disk was full."""
        with self.lock:
            self.counters["evicted"] += outcome.evicted
            self.gap_rows = outcome.gap_rows
            for key, change in outcome.rows.items():
                self.streams[self._names[key]].rows += change

    def highest(self) -> int:
        """The highest place given so far."""
        return self._next_n - 1 if self._next_n is not None else 0

    def names(self) -> list[str]:
        """Every stream known."""
        with self.lock:
            return list(self.streams)

    def key(self, name: str) -> int:
        """The stream's small number, made if it is new."""
        with self.lock:
            return (self.streams.get(name) or self._new_stream(name)).key

    def close(self) -> None:
        """Accept nothing more."""
        with self.lock:
            self._closed = True

    def pending_stats(self) -> dict[str, int]:
        """How much is in memory only."""
        with self.lock:
            return {
                "pending": len(self.pending) + len(self._early),
                "pending_bytes": self._bytes,
                "acknowledged_rows": len(self._acked),
            }
