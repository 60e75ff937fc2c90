"""What goes out next: two ordered sequences, live before backlog, neither starving the other.

At the start of a connection everything accepted so far is backlog and goes out in batches of one stream; what is
accepted later is live and goes out when `gathering` lets it: at once after a pause, else with its like. When live
events wait in numbers, they become backlog. Entries are read in order with a cursor per sequence; those that must wait
are passed over, and the cursors start over when their time has come.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from agent.settings.uplink import UplinkConfig
from agent.uplink.gathering import Gathering
from agent.uplink.refusals import Refusals

FOREVER_S = float("inf")
BUSY_S = 0.1
"""How long to leave a store alone that could not be asked, seconds."""
AHEAD = 4
"""Batches read at a time: each reading may have to wait until the store has committed something."""


class Entry(Protocol):
    """An accepted event on its way out, as the store hands it over."""

    @property
    def n(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def gap(self) -> bool: ...
    @property
    def body(self) -> bytes: ...
    @property
    def t_mono_s(self) -> float | None: ...


class Source(Protocol):
    """The part of the store that is read."""

    @property
    def last_n(self) -> int: ...
    @property
    def rewinds(self) -> int: ...
    def take(self, after: int, limit: int, upto: int | None = None) -> Sequence[Entry] | None: ...


class Group(NamedTuple):
    """Entries of one stream that travel in one message, in order."""

    entries: tuple[Entry, ...]
    ns: tuple[int, ...]
    """Their places in the order of acceptance."""

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Group":
        """A group of these."""
        held = tuple(entries)
        return cls(held, tuple([entry.n for entry in held]))

    @property
    def stream(self) -> str:
        """Their stream."""
        return self.entries[0].stream

    @property
    def gap(self) -> bool:
        """True for a gap record, which travels alone."""
        return self.entries[0].gap


class Under(NamedTuple):
    """One message under way: what has to be known when the answer comes. The events themselves lie in the outbox, so
    that a window of batches is not held in memory."""

    stream: str
    ns: tuple[int, ...]
    size: int
    """Bytes of its payload."""
    sampled_s: tuple[float, ...]
    """When the samples of its live events were taken, monotonic."""

    @classmethod
    def of(cls, group: Group, size: int) -> "Under":
        """`group` leaves as a payload of `size` bytes."""
        if group.entries[-1].t_mono_s is None:  # from before this start of the agent, and so is all before it
            return cls(group.stream, group.ns, size, ())
        times = [entry.t_mono_s for entry in group.entries if entry.t_mono_s is not None]
        return cls(group.stream, group.ns, size, tuple(times))


class Queue:
    """The two sequences of one connection."""

    def __init__(
        self, source: Source, config: UplinkConfig, refusals: Refusals, gathering: Gathering, most: int,
        group_bytes: int,
    ) -> None:  # fmt: skip
        """`most` is the largest number of events in a message, `group_bytes` the largest sum of their bodies."""
        self._source = source
        self._gathering = gathering
        self._config = config
        self._refusals = refusals
        self._most = most
        self._ahead = max(AHEAD * most, config.window)
        self._group_bytes = group_bytes
        self._under_way: set[int] = set()
        self._streams_under_way: dict[str, int] = {}
        self._ready: deque[Group] = deque()
        self._live_ready: deque[Group] = deque()
        self.start_over()

    def start_over(self) -> None:
        """Make everything accepted so far backlog, and read it from the oldest."""
        self._mark = self._source.last_n
        self._backlog, self._live = 0, self._mark
        self._ready.clear()
        self._live_ready.clear()
        self._gathering.again(-FOREVER_S)  # events that only pend are live, and nobody tells of them a second time
        self._again_s = FOREVER_S
        self._rewinds = self._source.rewinds
        self.busy = False
        """True when the store could not be asked the last time."""

    def next(self, now_s: float, free: int) -> Group | None:
        """The next message, or None; `free` is how many more may be under way."""
        if now_s >= self._again_s or self._rewinds != self._source.rewinds:
            self.start_over()
        if self._live_first(free):
            group = self._next_live(now_s, free)
            if group is not None:
                return group
        group = self._next_backlog(now_s)
        if group is None and self._backlog_waits():  # live events wait behind it, and must not be asked for in a circle
            self._gathering.blocked(now_s + BUSY_S)
        return group

    def wait_s(self, now_s: float) -> float:
        """How long until something that was passed over may be tried again."""
        return max(0.0, self._again_s - now_s)

    def sent(self, group: Group) -> None:
        """`group` is under way."""
        self._under_way.update(group.ns)
        self._streams_under_way[group.stream] = self._streams_under_way.get(group.stream, 0) + 1

    def done(self, under: Under) -> None:
        """It was answered; if it was refused, its events are found again when the cursors start over."""
        self._under_way.difference_update(under.ns)
        self._streams_under_way[under.stream] -= 1

    def again(self, at_s: float) -> None:
        """Start over at `at_s`, monotonic."""
        self._again_s = min(self._again_s, at_s)

    def _live_first(self, free: int) -> bool:
        """A backlog that one batch can hold goes before live events; a long one is overtaken but keeps a share."""
        if not self._backlog_waits():
            return True
        long = len(self._ready) > 1 or self._mark - self._backlog > self._config.batch_events
        return long and free > max(1, self._config.window // 4)

    def _backlog_waits(self) -> bool:
        return bool(self._ready) or self._backlog < self._mark

    def _next_live(self, now_s: float, free: int) -> Group | None:
        if not self._live_ready and self._gathering.take_turn(now_s):
            most = max(free, self._most)
            entries = self._take(self._live, most, None)
            if entries is None:
                self._gathering.again(now_s + BUSY_S)
            elif len(entries) == most and not self._backlog_waits() and self._source.last_n - entries[-1].n > most:
                self._backlog, self._live = self._live, self._source.last_n
                self._mark = self._live
                self._gathering.again(now_s)  # what only pends stays live
            elif entries:
                self._bring_live(entries, now_s)
                if len(entries) == most or entries[-1].n < self._source.last_n:  # more than may be taken at a time
                    self._gathering.again(now_s)
        return self._still_good(self._live_ready, now_s)

    def _bring_live(self, entries: Sequence[Entry], now_s: float) -> None:
        self._live = entries[-1].n
        self._live_ready.extend(self._grouped(self._going(entries, now_s)))
        self._gathering.went(now_s)

    def _next_backlog(self, now_s: float) -> Group | None:
        while self._backlog_waits():
            if not self._ready:
                entries = self._take(self._backlog, self._ahead, self._mark)
                if entries is None:
                    return None
                self._backlog = entries[-1].n if entries else self._mark
                self._ready.extend(self._grouped(self._going(entries, now_s)))
            group = self._still_good(self._ready, now_s)
            if group is not None:
                return group
        return None

    def _still_good(self, ready: deque[Group], now_s: float) -> Group | None:
        """The first group that may still go; a refusal may have come since it was made."""
        if self._refusals.none:
            return ready.popleft() if ready else None
        while ready:
            group = ready.popleft()
            alone = self._refusals.probing(group.stream) and self._streams_under_way.get(group.stream, 0) > 0
            if not alone and len(self._going(group.entries, now_s)) == len(group.entries):
                return group
            if alone:
                self.again(now_s + self._config.refusal_wait_s)
        return None

    def _take(self, after: int, limit: int, upto: int | None) -> Sequence[Entry] | None:
        entries = self._source.take(after, limit, upto)
        self.busy = entries is None
        return entries

    def _going(self, entries: Sequence[Entry], now_s: float) -> Sequence[Entry]:
        """Those that may go now."""
        if self._refusals.none:
            under_way = self._under_way
            return [entry for entry in entries if entry.n not in under_way]
        return [entry for entry in entries if self._may_go(entry, now_s)]

    def _may_go(self, entry: Entry, now_s: float) -> bool:
        if entry.n in self._under_way:
            return False
        until_s = self._refusals.wait_until_s(entry.stream, entry.n)
        if until_s > now_s:
            self.again(until_s)
            return False
        return True

    def _grouped(self, entries: Sequence[Entry]) -> list[Group]:
        """Group by stream, keeping each stream's order; gap records travel alone and keep their place."""
        made: list[Group] = []
        open_: dict[str, _Parcel] = {}
        for entry in entries:
            held, size = open_.get(entry.stream), len(entry.body)
            if held is None or entry.gap or size > held.room or held.left == 0:
                if held is not None:
                    made.append(Group.of(held.entries))
                most = 1 if entry.gap else min(self._most, self._refusals.most(entry.stream))
                held = open_[entry.stream] = _Parcel(most, self._group_bytes)
            held.entries.append(entry)
            held.left -= 1
            held.room -= size
        made.extend(Group.of(held.entries) for held in open_.values())
        return made


class _Parcel:
    """A group that is being made."""

    __slots__ = ("entries", "left", "room")

    def __init__(self, left: int, room: int) -> None:
        self.entries: list[Entry] = []
        self.left = left
        """Entries for which there is room."""
        self.room = room
        """Bytes for which there is room."""
