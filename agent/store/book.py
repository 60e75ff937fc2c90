"""What the store knows without touching the disk: pending events, numbers, acknowledgements, losses to tell.

One lock guards it, held for microseconds and never across I/O, so that `accept` cannot be held up by a flush. Events
pend in the order of acceptance and are committed in that order, so everything durable is older than everything pending.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from agent.clock import Clock
from agent.errors import EnvelopeError, StoreError
from agent.records import Draft, Event
from agent.settings.store import StoreSettings
from agent.store.batch import Batch, EventRow, GapKey, Gaps, Outcome
from agent.store.due import Due
from agent.store.early import Early
from agent.store.ids import EventIds
from agent.store.pendings import Pendings
from agent.store.recent import KEPT, Recent
from agent.store.register import Register
from agent.store.streams import Stream, checked_name
from agent.store.tickets import Entry, Pending, Ticket, raw_id

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
        self.register = Register()
        self.durable_n = 0
        self.first_n = 0
        """Events from this number on were accepted by this process."""
        self.gap_rows = 0
        self.parked = 0
        """Events set aside, on the disk."""
        self.rewinds = 0
        """Grows when events older than what was taken come back: salvaged, or no longer set aside."""
        self.batch_bytes = 256 << 10
        """Most bytes of bodies in one commit."""
        self.counters = {"accepted": 0, "durable": 0, "published": 0, "acknowledged": 0, "evicted": 0}
        self.watcher: Callable[[bool], None] | None = None
        """Called, without the lock, when there is something new to publish."""
        self._settings = settings
        self._clock = clock
        self._ids = EventIds(clock.wall_s)
        self._encode = encode
        self._boot = boot
        self._next_n: int | None = None
        pending_bytes = int(settings.pending_mib * (1 << 20))
        self._early = Early(pending_bytes)
        self._pending = Pendings(pending_bytes)
        self._recent = Recent()
        self._acked: dict[int, float] = {}
        self._parks: dict[int, str] = {}
        self._unpark = False
        self._gaps = Gaps()
        self._told: list[tuple[GapKey, int]] = []
        self._gap_events: set[int] = set()
        self._due = Due(settings)
        self._closed = False

    # --- offering -----------------------------------------------------------------------------------------------

    def accept(self, draft: Draft) -> Ticket:
        """Number and hold an event. Raises StoreError when it cannot be named or written, or after `close`."""
        with self.lock:
            if self._closed:
                raise StoreError("outbox: it is closed: nothing is accepted after a stop")
            hurry = self._urge if draft.event_class == "critical" else None
            ticket = Ticket(self._ids.make(), checked_name(draft.stream), -1, self.changed, hurry)
            if self._next_n is None:  # no database has been opened yet, so no number is known
                self.counters["evicted"] += not self._early.hold(draft, ticket)
            else:
                self._number(draft, ticket)
        if draft.event_class == "routine":
            self._tell_watcher(urgent=False)
        return ticket

    def _number(self, draft: Draft, ticket: Ticket) -> Pending | None:
        """Give the event its number and hold it; None when a limit refuses it."""
        assert self._next_n is not None
        now_s = self._clock.mono_s()
        stream = self.register.get(draft.stream, now_s)
        body = self._encoded(draft, ticket, stream.next)
        stream.next += 1
        gap, critical = draft.kind == "gap", draft.event_class == "critical"
        allowed = self._settings.event_kib
        if len(body) > allowed << 10:
            self._refuse(ticket, f"oversize: {len(body)} bytes, [store] event_kib allows {allowed}")
            return None
        if not gap and not self._fits(len(body), critical):
            self._refuse(ticket, "memory full")
            return None
        due_s = self._due.of(draft.event_class, now_s)
        pending = Pending(
            ticket, self._next_n, draft.event_class, draft.replay, gap, body, draft.t_wall_s, draft.t_mono_s, due_s
        )
        self._next_n += 1
        self._hold(pending, stream, now_s)
        return pending

    def _encoded(self, draft: Draft, ticket: Ticket, seq: int) -> bytes:
        ticket.seq = seq
        try:
            return self._encode(Event(ticket.id, self._boot, seq, draft))
        except EnvelopeError as exc:
            raise StoreError(f"event on stream {draft.stream!r} cannot be written: {exc}") from exc

    def _hold(self, pending: Pending, stream: Stream, now_s: float) -> None:
        self._pending.add(pending)
        self.counters["accepted"] += 1
        stream.loose = stream.loose or pending.event_class == "routine"
        if pending.event_class == "critical" and pending.due_s > now_s:
            if self._due.gather(pending, self.batch_bytes, crowded=self._pending.crowded):
                self.work.notify_all()
        elif pending.due_s <= now_s or not stream.usable(pending.ticket.seq):
            self._urge()

    def _fits(self, size: int, critical: bool) -> bool:
        """Make room in memory by the configured policy: routine events give way first."""
        drop_routine = critical or self._settings.routine_when_full == "drop-oldest"
        drop_critical = critical and self._settings.critical_when_full == "drop-oldest"
        for routine, allowed in ((True, drop_routine), (False, drop_critical)):
            while allowed and not self._pending.fits(size):
                dropped = self._pending.pop_oldest(routine=routine)
                if dropped is None:
                    break
                self._refuse(dropped.ticket, "memory full")
        return self._pending.fits(size)

    def _refuse(self, ticket: Ticket, why: str) -> None:
        ticket.state, ticket.reason = "evicted", why
        self.counters["evicted"] += 1
        key = self.register.get(ticket.stream, self._clock.mono_s()).key
        self._gaps.add(key, why.partition(":")[0], ticket.seq, ticket.seq, 1)
        self.changed.notify_all()

    def _urge(self) -> None:
        self._due.urgent = True
        self.work.notify_all()

    def _tell_watcher(self, *, urgent: bool) -> None:
        watcher = self.watcher
        if watcher is not None:
            watcher(urgent)

    # --- publishing ---------------------------------------------------------------------------------------------

    def in_memory(self, after: int, upto: int | None, limit: int) -> list[Entry] | None:
        """Events after `after`, in order, the just written ones first; None when the disk has to be asked."""
        with self.lock:
            if after < self._recent.floor:
                return None
            recent = (e for e in self._recent if e.n > after and (upto is None or e.n <= upto))
            found = list(islice(recent, limit))
            return found + self._waiting(after, upto, limit - len(found))

    def waiting(self, after: int, upto: int | None, limit: int) -> list[Entry]:
        """Pending events that may leave before they are written: a prefix, in order, of those after `after`."""
        with self.lock:
            return self._waiting(after, upto, limit)

    def _waiting(self, after: int, upto: int | None, limit: int) -> list[Entry]:
        found: list[Entry] = []
        for pending in self._pending:
            if upto is not None and pending.n > upto:
                break
            if pending.n <= after or pending.parked or pending.n in self._acked:
                continue
            if len(found) >= limit or not self._may_leave(pending):
                break
            found.append(_entry(pending))
        return found

    def _may_leave(self, pending: Pending) -> bool:
        stream = self.register.get(pending.ticket.stream, 0.0)
        return pending.event_class == "routine" and stream.usable(pending.ticket.seq)

    def acknowledge(self, ns: Iterable[int]) -> None:
        """The broker has these: those never written need not be, the others are deleted with the next commit."""
        now_s = self._clock.mono_s()
        with self.lock:
            taken = tuple(ns)
            self.counters["acknowledged"] += len(taken)
            self._gap_events.difference_update(taken)
            self._recent.drop(taken)
            pending, writing = self._pending, self._pending.writing
            unwritten = [n for n in taken if n in pending and n not in writing] if len(pending) else []
            for n in unwritten:
                self._pending.pop(n).ticket.state = "published"
            self.counters["published"] += len(unwritten)
            written = set(taken).difference(unwritten) if unwritten else taken
            self._acked.update(dict.fromkeys(written, now_s))
            self.changed.notify_all()
            if len(self._acked) >= DELETES:
                self._urge()

    def is_acknowledged(self, n: int) -> bool:
        """True when `n` only waits to be deleted. One look-up, so it needs no lock."""
        return n in self._acked

    def unacknowledged(self, rows: Iterable[EventRow]) -> list[EventRow]:
        """Those rows that do not only wait to be deleted; needs no lock either."""
        acked = self._acked
        return [row for row in rows if row[0] not in acked]

    def park(self, n: int, reason: str) -> None:
        """Set an event aside with its reason; it stays in the outbox."""
        with self.lock:
            self._gap_events.discard(n)
            self._recent.forget(self.durable_n)
            if n in self._pending:
                self._pending[n].parked = reason
            if n not in self._pending or n in self._pending.writing:
                self._parks[n] = reason
            self._urge()

    def unpark(self) -> None:
        """Let every event that was set aside try again."""
        with self.lock:
            held = [p for p in self._pending if p.parked]
            if not (self.parked or self._parks or held):
                return
            self._unpark = True
            for pending in held:
                pending.parked = ""
            self._urge()

    def discard(self, n: int, stream: str, seq: int) -> None:
        """Remove a row whose content is damaged, and tell it."""
        with self.lock:
            if n not in self._acked:
                self._acked[n] = self._clock.mono_s()
                self._recent.forget(self.durable_n)
                self._gaps.add(self.register.get(stream, 0.0).key, "damaged", seq, seq, 1)
                self.counters["evicted"] += 1

    # --- writing ------------------------------------------------------------------------------------------------

    def wait_for_work(self, longest_s: float) -> bool:
        """Wait until a commit is due, at most `longest_s`; True when one is."""
        with self.lock:
            while (rest_s := self._due_in_s()) > 0.0 and self.work.wait(min(longest_s, rest_s)):
                pass  # told of something that is due soon
            return self._due_in_s() <= 0.0

    def _due_in_s(self) -> float:
        if self._gaps.spans:
            return 0.0
        return self._due.in_s(self._pending.due_s(), next(iter(self._acked.values()), None), self._clock.mono_s())

    def collect(self, *, clean: bool = False) -> Batch:
        """Everything the next commit shall do, oldest first, up to the size of a batch."""
        with self.lock:
            inserts, more = self._pending.first(BATCH_EVENTS, self.batch_bytes)
            self._due.collected(inserts, self._clock.mono_s())
            batch = Batch(
                inserts=inserts, deletes=list(islice(self._acked, DELETES)), parks=self._parks, unpark=self._unpark,
                gaps=self._gaps, told=self._told, clean=clean,
            )  # fmt: skip
            self._parks, self._unpark, self._gaps, self._told = {}, False, Gaps(), []
            self._due.urgent = more or len(self._acked) > DELETES
            self._pending.writing = {p.n for p in inserts}
            left = islice(self._pending, len(inserts), None)
            now_s, wait_s = self._clock.mono_s(), self._settings.routine_wait_s
            batch.streams = self.register.marks(left, now_s, wait_s, clean=clean)
            return batch

    def settled(self, batch: Batch, outcome: Outcome) -> None:
        """The commit went through: resolve its tickets."""
        with self.lock:
            self._pending.writing = set()
            for pending in batch.inserts:
                self._resolve(pending, refused=pending.n in outcome.refused)
            for n in batch.deletes:
                self._acked.pop(n, None)
            self.rewinds += batch.unpark
            self.register.settled(batch.streams, self._clock.mono_s())
            self._note(outcome)
            self._keep(batch, outcome)
            self.changed.notify_all()
        if batch.inserts or batch.unpark or outcome.gap_rows:  # losses are told to whoever takes
            routine = bool(batch.inserts) and all(p.event_class == "routine" for p in batch.inserts)
            self._tell_watcher(urgent=batch.unpark or not routine)

    def _keep(self, batch: Batch, outcome: Outcome) -> None:
        """Have what was just written at hand for the uplink, if there is one and it is not a backlog."""
        changed = batch.parks or batch.unpark or outcome.refused or any(p.parked for p in batch.inserts)
        if self.watcher is None or changed or len(batch.inserts) > KEPT:
            self._recent.forget(self.durable_n)
            return
        for pending in batch.inserts:
            if pending.n not in self._acked:
                self._recent.add(_entry(pending))

    def _resolve(self, pending: Pending, *, refused: bool) -> None:
        self._pending.pop(pending.n)
        pending.ticket.state = "evicted" if refused else "durable"
        pending.ticket.reason = "outbox full" if refused else ""
        self.counters["evicted" if refused else "durable"] += 1
        self.durable_n = max(self.durable_n, pending.n)

    def _note(self, outcome: Outcome) -> None:
        self.counters["evicted"] += outcome.evicted
        if outcome.evicted:
            self._recent.forget(self.durable_n)
        self.gap_rows, self.parked = outcome.gap_rows, outcome.parked
        self.register.count(outcome.rows)

    def dropped(self, outcome: Outcome) -> None:
        """Rows were dropped outside a batch because the disk was full."""
        with self.lock:
            self._note(outcome)

    def failed(self, batch: Batch) -> None:
        """The commit did not go through: everything is as before, and still pending."""
        with self.lock:
            self._pending.writing = set()
            self._parks = batch.parks | self._parks
            self._unpark = self._unpark or batch.unpark
            batch.gaps.merge(self._gaps)
            self._gaps = batch.gaps
            self._told = batch.told + self._told
            self._due.urgent = True

    def tell_gaps(self, rows: Iterable[tuple[int, str, bool, int, int, int]]) -> None:
        """Make events of ledger rows (stream, reason, bound, first, last, count) unless earlier ones still travel."""
        with self.lock:
            if self._gap_events or self._told:
                return
            for key, reason, bound, first, last, count in rows:
                body = {"reason": reason, "first": first, "last": last, "count": count, "upper_bound": bound}
                draft = Draft(
                    self.register.by_key(key).name, "gap", body, self._clock.wall_s(), self._clock.mono_s(),
                    clock=self._clock.state(),
                )  # fmt: skip
                made = self._number(draft, Ticket(self._ids.make(), draft.stream, -1, self.changed))
                if made is not None:
                    self._gap_events.add(made.n)
                    self._told.append(((key, reason, bound), count))

    # --- opening and closing ------------------------------------------------------------------------------------

    def adopt(self, held: Held, ceilings: dict[str, int], n_ceiling: int) -> None:
        """Join what a newly opened database says with what is known; number what came before it."""
        with self.lock:
            self.register.adopt(held.streams, ceilings, self._clock.mono_s(), fresh=held.fresh)
            self.gap_rows, self.parked = held.gap_rows, held.parked
            self.durable_n = max(self.durable_n, held.last_n)
            self._recent.forget(self.durable_n)
            if self._next_n is None:
                lost = not held.streams and bool(ceilings)
                self._next_n = self.first_n = (max(n_ceiling, held.last_n) if lost else held.last_n) + 1
            early, lost_early = self._early.take()
            for draft, ticket in early:
                self._number(draft, ticket)
            for name, count in lost_early.items():
                stream = self.register.get(name, self._clock.mono_s())
                self._gaps.add(stream.key, "memory full", stream.next, stream.next + count - 1, count)
                stream.next += count
        self._tell_watcher(urgent=True)

    def lose(self, stream: str, first: int, last: int, count: int, reason: str, *, bound: bool) -> None:
        """Count what is gone without having been removed by a limit."""
        with self.lock:
            key = self.register.get(stream, self._clock.mono_s()).key
            self._gaps.add(key, reason, first, last, count, bound=bound)

    def restored(self, rows: dict[int, int]) -> None:
        """Rows (stream key -> how many) came back from a file that had been set aside."""
        with self.lock:
            self.register.count(rows)
            self._recent.forget(self.durable_n)

    def rewind(self, n: int) -> None:
        """Older events, up to `n`, came back: whoever takes shall start over."""
        with self.lock:
            self.durable_n = max(self.durable_n, n)
            self._recent.forget(self.durable_n)
            self.rewinds += 1

    def highest(self) -> int:
        """The highest place given so far."""
        return self._next_n - 1 if self._next_n is not None else 0

    def streams(self) -> list[Stream]:
        """Every stream known."""
        with self.lock:
            return list(self.register)

    def key(self, name: str) -> int:
        """The stream's small number, made if it is new."""
        with self.lock:
            return self.register.get(name, self._clock.mono_s()).key

    def close(self) -> None:
        """Accept nothing more."""
        with self.lock:
            self._closed = True

    def pending_stats(self) -> dict[str, int]:
        """How much is in memory only."""
        with self.lock:
            return {
                "pending": len(self._pending) + len(self._early),
                "pending_bytes": self._pending.bytes,
                "acknowledged_rows": len(self._acked),
            }


def _entry(p: Pending) -> Entry:
    return Entry(p.n, raw_id(p.ticket.id), p.ticket.stream, p.ticket.seq, p.gap, p.body, p.t_mono_s)
