"""Commands under way: begins one changing command at a time, follows all of them, and ends what takes too long.

One exception: a rollback does not wait for an update that is past `staged`, because nothing else could stop it.

Each state is durable in the row before the act that it announces; the row is told to the broker after that. After a
restart every row that had not ended is taken up again by its handler, or has failed as INTERRUPTED.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, get_args

from agent import codec
from agent.clock import Clock
from agent.commands.projection import ended
from agent.commands.table import Move, Table
from agent.errors import EnvelopeError, LimpetError
from agent.journal import Command, Journal
from agent.progress import CANCELLABLE, Reason

log = logging.getLogger(__name__)

DETAIL_BYTES: Final = 64 * 1024
"""Largest detail of a state, bytes of JSON in ASCII, as the row holds it."""
REASONS: Final = frozenset(get_args(Reason))
FINE_S: Final = 1.0
"""Least time between two states that only differ in the bytes loaded, seconds."""


@dataclass(slots=True)
class _Under:
    """One command under way."""

    command: Command
    until_s: float
    """When its state has lasted too long, monotonic."""
    told_s: float = 0.0


class Work:
    """What is under way and what waits. One thread; the table's handlers are called from it."""

    def __init__(
        self, journal: Journal, table: Table, clock: Clock, tell: Callable[[Command], None], queue: int
    ) -> None:
        """`tell` is called with every state that was made durable; `queue`: how many changing commands may wait."""
        self._journal, self._table, self._clock, self._tell, self._most = journal, table, clock, tell, queue
        self._waiting: deque[_Under] = deque()
        self._under: dict[str, _Under] = {}

    @property
    def busy(self) -> bool:
        """Whether anything has to be followed."""
        return bool(self._under or self._waiting)

    def room(self) -> bool:
        """Whether one more changing command may wait."""
        return len(self._waiting) < self._most

    def resume(self) -> None:
        """Take up what had not ended when the agent stopped. Called once, before everything else."""
        for command in self._journal.under_way():
            if command.progress.status in ("init", "scheduled"):
                self.add(command)
                continue
            operation = self._table.get(command.operation)
            self._under[command.id] = under = _Under(command, 0.0)
            self._deadline(under)
            if operation is None:
                self._end(under, "INTERRUPTED", "this agent does not know the operation any more")
            elif (move := self._guarded(under, operation.handler.resume)) is not None:
                self._move(under, move)
            elif command.id in self._under:
                self._end(under, "INTERRUPTED", "the agent was restarted while this was under way: ask again")

    def add(self, command: Command) -> None:
        """A row that was admitted: it begins at once, or when its turn comes."""
        under = _Under(command, 0.0)
        self._deadline(under)
        if not self._changing(command):
            self._begin(under)
            return
        self._waiting.append(under)
        self.turn()
        if any(waiting is under for waiting in self._waiting) and command.progress.status == "init":
            self._move(under, Move("scheduled", "another command is under way"))

    def turn(self) -> None:
        """Follow everything by one step."""
        for under in list(self._under.values()):
            self._follow(under)
        self._expire()
        while (following := self._next()) is not None:
            self._waiting.remove(following)
            self._begin(following)

    def cancel(self, id_: str, expected_version: int | None) -> str:
        """End a command before it has changed anything; says why not, "" when it is done or on its way."""
        under = self._under.get(id_) or next((u for u in self._waiting if u.command.id == id_), None)
        if under is None:
            return f"{id_} is not under way"
        progress = under.command.progress
        if expected_version is not None and progress.version != expected_version:
            self._tell(under.command)
            return f"{id_} is at version {progress.version}, not {expected_version}: look at its state again"
        if progress.status not in CANCELLABLE:
            return f"{id_} is past cancelling ({progress.status}): roll back instead"
        if under in self._waiting:
            self._waiting.remove(under)
            self._end(under, "CANCELED", "cancelled before it began")
            return ""
        operation = self._table[under.command.operation]
        if operation.handler.cancel(under.command):
            self._end(under, "CANCELED", "cancelled")
        return ""

    # --- within ---------------------------------------------------------------------------------------------------

    def _changing(self, command: Command) -> bool:
        operation = self._table.get(command.operation)
        return operation is None or operation.mutating

    def _next(self) -> _Under | None:
        """What may begin now: the oldest when nothing changing is under way, a way back when that is past `staged`."""
        changing = [under for under in self._under.values() if self._changing(under.command)]
        if not changing:
            return self._waiting[0] if self._waiting else None
        if any(under.command.progress.status in CANCELLABLE for under in changing):
            return None
        return next((waiting for waiting in self._waiting if self._leads_back(waiting.command)), None)

    def _leads_back(self, command: Command) -> bool:
        operation = self._table.get(command.operation)
        return operation is not None and operation.leads_back

    def _begin(self, under: _Under) -> None:
        self._under[under.command.id] = under
        operation = self._table.get(under.command.operation)
        if operation is None:
            self._end(under, "REJECTED_UNSUPPORTED", "this agent does not know the operation any more")
            return
        self._move(under, Move("executing"))
        move = self._guarded(under, operation.handler.begin)
        if move is not None:
            self._move(under, move)

    def _follow(self, under: _Under) -> None:
        operation = self._table[under.command.operation]
        move = self._guarded(under, operation.handler.follow)
        if move is not None and self._news(under, move):
            self._move(under, move)
        elif under.command.id in self._under and self._clock.mono_s() > under.until_s:
            self._guarded(under, lambda command: operation.handler.cancel(command) and None)
            if under.command.id in self._under:
                self._end(under, "TIMED_OUT", f"nothing came of it in the state {under.command.progress.status}")

    def _news(self, under: _Under, move: Move) -> bool:
        """Every change of state is told at once, a download's bytes now and then."""
        said = under.command.progress
        same = (said.status, said.text, said.reason) == (move.status, move.text, move.reason)
        if same and (said.done_bytes, said.total_bytes) == (move.done_bytes, move.total_bytes):
            return dict(move.detail) != said.detail and self._clock.mono_s() - under.told_s >= FINE_S
        return not same or self._clock.mono_s() - under.told_s >= FINE_S

    def _expire(self) -> None:
        """Commands that waited for longer than their request is good for."""
        trusted, now_s = self._clock.state() == "synced", self._clock.wall_s()
        for under in list(self._waiting):
            late = trusted and now_s > under.command.expires_s
            if late or self._clock.mono_s() > under.until_s:
                self._waiting.remove(under)
                self._end(under, "TIMED_OUT", "its time ran out while it waited for others: ask again")

    def _guarded(self, under: _Under, act: Callable[[Command], Any]) -> Any:
        """What a handler says; its error ends the command."""
        try:
            return act(under.command)
        except LimpetError as exc:
            self._end(under, getattr(exc, "reason", "FAILED"), str(exc))
            return None

    def _end(self, under: _Under, reason: str, text: str) -> None:
        self._move(under, Move("failed", text, reason))

    def _move(self, under: _Under, move: Move) -> None:
        """The next state: durable, then told."""
        status = under.command.progress.status
        detail, text = _fitting(move)
        reason = move.reason if move.reason in REASONS or not move.reason else "FAILED"
        command = under.command.moved(
            self._clock.wall_s(), self._journal.boot, status=move.status, text=text[:2000], reason=reason,
            detail=detail or under.command.progress.detail, done_bytes=move.done_bytes, total_bytes=move.total_bytes,
        )  # fmt: skip
        self._journal.move(command, ended(command) if command.progress.terminal else None)
        under.command, under.told_s = command, self._clock.mono_s()
        if command.progress.terminal:
            self._under.pop(command.id, None)
        elif move.status != status:
            self._deadline(under)
        log.info("command=%s op=%s state=%s reason=%s", command.id, command.operation, move.status, move.reason)
        self._tell(command)

    def _deadline(self, under: _Under) -> None:
        operation = self._table.get(under.command.operation)
        status = under.command.progress.status
        under.until_s = self._clock.mono_s() + (operation.deadline_s(status) if operation else 0.0)


def _fitting(move: Move) -> tuple[dict[str, Any], str]:
    """The detail if it can be told, or why it cannot."""
    text = str(codec.plain(move.text))  # names of files need not be Unicode
    try:
        detail = codec.plain(dict(move.detail))
        if len(json.dumps(detail)) <= DETAIL_BYTES:
            return detail, text
        return {}, f"{text} (the detail is left out: it is larger than {DETAIL_BYTES} bytes)"
    except EnvelopeError as exc:
        return {}, f"{text} (the detail is left out: {exc})"
