"""The streams of one outbox: their numbers, their keys in the database, and what of it has to be written."""

from collections.abc import Iterable, Iterator

from agent.store.batch import StreamMark
from agent.store.streams import Stream
from agent.store.tickets import Pending


class Register:
    """Streams by name and by key. Guarded by the lock of the `Book` that owns it."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._names: dict[int, str] = {}

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    def get(self, name: str, now_s: float) -> Stream:
        """The stream called `name`, made when it is new."""
        found = self._streams.get(name)
        if found is None:
            found = Stream(name, max(self._names, default=0) + 1, told_s=now_s)
            self._add(found)
        return found

    def by_key(self, key: int) -> Stream:
        """The stream with this key in the database."""
        return self._streams[self._names[key]]

    def _add(self, stream: Stream) -> None:
        self._streams[stream.name] = stream
        self._names[stream.key] = stream.name

    def adopt(self, theirs: Iterable[Stream], ceilings: dict[str, int], now_s: float, *, fresh: bool) -> None:
        """Join what a newly opened database and the marks say with what is known."""
        for stream in theirs:
            mine = self._streams.get(stream.name)
            if mine is None:
                stream.told, stream.told_s = stream.next, now_s
                self._add(stream)
            else:
                mine.rows = stream.rows
        for name, ceiling in ceilings.items():
            if name not in self._streams:
                self.get(name, now_s).next = ceiling
        for stream in self._streams.values() if fresh else ():
            stream.rows, stream.reserved, stream.last = 0, 0, -1

    def marks(self, left: Iterable[Pending], now_s: float, wait_s: float, *, clean: bool) -> list[StreamMark]:
        """Rows of the streams that change with a commit after which `left` are still only in memory."""
        lowest: dict[str, int] = {}
        unwritten = sum(s.next - 1 > s.last for s in self._streams.values())
        for pending in left if unwritten else ():
            lowest.setdefault(pending.ticket.stream, pending.ticket.seq)
            if len(lowest) == unwritten:
                break
        made = []
        for s in self._streams.values():
            last = lowest.get(s.name, s.next) - 1
            short = s.loose and s.reserved <= s.next
            if clean or short or last != s.last:
                reserved = s.next if clean else s.wanted(now_s, wait_s)
                made.append(StreamMark(s.name, s.key, reserved, last, s.loose, s.next))
        return made

    def settled(self, marks: Iterable[StreamMark], now_s: float) -> None:
        """These rows are written."""
        for mark in marks:
            s = self._streams[mark.name]
            s.reserved, s.last, s.told, s.told_s = mark.reserved, mark.last, mark.next, now_s

    def count(self, rows: dict[int, int]) -> None:
        """Rows came or went: stream key -> change."""
        for key, change in rows.items():
            self.by_key(key).rows += change
