"""The commands' lane: takes requests from the uplink, has them judged, writes down what was decided, and answers.

One thread, which alone holds the journal. A request is settled, so that the broker may forget it, only after everything
about it is on the disk; if the disk refuses, the lane fails, is started again, and finds the request where it was.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.clock import Clock
from agent.commands import projection
from agent.commands.gate import AHEAD_S, Device, Gate, Verdict
from agent.commands.keys import Holders
from agent.commands.rate import Rate
from agent.commands.table import Table
from agent.commands.work import Work
from agent.errors import StoreError
from agent.journal import Command, Head, Journal
from agent.progress import Progress
from agent.request import NONCE_BYTES
from agent.settings.commands import CommandsConfig
from agent.uplink.requests import Arrived, Requests

log = logging.getLogger(__name__)

IDLE_S: Final = 1.0
BUSY_S: Final = 0.25
"""How long a turn waits for a request: when nothing is under way, and when something is, seconds."""
TIDY_S: Final = 60.0
"""How often old states are cleared and old rows forgotten, seconds."""
AUDIT_ROWS: Final = 500
"""Most audit entries in one answer."""
OPERATIONS: Final = (
    "update", "rollback", "pin", "unpin", "activate", "set-config", "snapshot", "restart", "collect-diagnostics",
    "cancel", "ping",
)  # fmt: skip
"""All that an agent can offer: those it does not are taken back from the broker."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What the desk is connected to."""

    requests: Requests
    holders: Holders
    table: Callable[["Desk"], Table]
    """Made once; `cancel` and `ping` need the desk itself."""
    clock: Clock
    alarm: Callable[[str, str | None], None] = lambda _name, _text: None
    boot: str = ""
    weaker: str = ""
    """What is weaker here than it could be, for the facet: MQTT 3.1.1."""


class Desk:
    """The commands of one device. `run` belongs to one lane; `facet` and `audit` may be called from any thread."""

    def __init__(self, config: CommandsConfig, device: Device, outside: Outside) -> None:
        self._config, self._device, self._outside = config, device, outside
        self._clock, self._requests = outside.clock, outside.requests
        self._table = outside.table(self)
        self._nonce = os.urandom(NONCE_BYTES)
        self._journal: Journal | None = None
        self._work: Work | None = None
        self._denials = Rate(config.per_minute)
        self._unwritten = 0
        """Refusals by strangers since the last one that was written down."""
        self._head = Head()
        self._tidy_s = 0.0

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Serve until `stop`. Raises StoreError when the journal cannot be used."""
        with Journal(self._config.journal, self._outside.boot) as journal:
            self._say_trouble(journal)
            work = self._work = Work(journal, self._table, self._clock, self._tell, self._config.queue)
            gate = Gate(
                self._device, self._outside.holders, self._table, self._clock, self._config.per_minute, work.room
            )
            try:
                self._start(journal, work)
                self._journal = journal
                while not stop.is_set():
                    beat()
                    self._turn(gate, journal, work)
            finally:
                self._journal = self._work = None

    def facet(self) -> dict[str, Any]:
        """The twin facet `commands`."""
        holders, trusted = self._outside.holders, self._clock.state() == "synced"
        return projection.facet(
            self._table, self._nonce, trusted, self._head, holders.count, holders.trouble, self._outside.weaker
        )

    def audit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A page of the trail for `limpet audit`: entries after number "after". Raises StoreError."""
        journal, after = self._journal, request.get("after", 0)
        if journal is None:
            raise StoreError("the journal is not open now: look at the lane 'commands' in limpet status")
        if type(after) is not int:
            raise StoreError('audit: ask {"after": a whole number}')
        return page(journal, after)

    def cancel(self, command: Command, id_: str, expected_version: int | None) -> str:
        """For the operation `cancel`; see `Work.cancel`."""
        if self._work is None or id_ == command.id:
            return f"{id_} cannot be cancelled"
        return self._work.cancel(id_, expected_version)

    # --- one turn -------------------------------------------------------------------------------------------------

    def _start(self, journal: Journal, work: Work) -> None:
        """What stood at the broker stands there again; what was under way goes on or has failed."""
        for name in OPERATIONS:
            self._requests.tell(projection.capability(name, self._table))
        self._outside.holders.refresh()
        for command in journal.shown():
            self._tell(command)
        work.resume()
        self._note_time(journal)
        self._news(journal)

    def _say_trouble(self, journal: Journal) -> None:
        """Raise the alarm of a damaged journal; the next good start clears it, while the damaged file lies there."""
        if journal.trouble:
            self._outside.alarm("commands", journal.trouble)
        elif next(journal.path.parent.glob(f"{journal.path.name}.damaged-*"), None) is not None:
            self._outside.alarm("commands", None)

    def _turn(self, gate: Gate, journal: Journal, work: Work) -> None:
        arrived = self._requests.take(BUSY_S if work.busy else IDLE_S)
        if arrived is not None:
            self._note_time(journal)
            self._handle(arrived, gate, journal, work)
            self._requests.settle(arrived)
        work.turn()
        now_s = self._clock.mono_s()
        if now_s >= self._tidy_s:
            self._tidy_s = now_s + TIDY_S
            self._tidy(journal)
        self._news(journal)

    def _handle(self, arrived: Arrived, gate: Gate, journal: Journal, work: Work) -> None:
        message = arrived.message
        verdict = gate.judge(message.topic, message.payload, message.retain, journal, self._nonce)
        log.info(
            "request=%s op=%s fate=%s kid=%s reason=%s text=%r", verdict.id, verdict.operation, verdict.fate,
            verdict.key_id.hex(), verdict.reason, verdict.text,
        )  # fmt: skip
        if verdict.used_nonce:
            self._nonce = os.urandom(NONCE_BYTES)
        match verdict.fate:
            case "admit" | "reject":
                self._store(verdict, journal, work)
            case "repeat" if verdict.stored is not None:
                self._note(journal, verdict)
                self._tell(verdict.stored)
            case "answer":
                self._note(journal, verdict)
                self._requests.tell(projection.answer(verdict, self._clock.wall_s()))
            case _:
                self._note(journal, verdict)

    def _store(self, verdict: Verdict, journal: Journal, work: Work) -> None:
        """The row, the counter and the audit entry in one commit; then the act, or the word that there is none."""
        request, holder, now_s = verdict.request, verdict.holder, self._clock.wall_s()
        if request is None or holder is None:
            return
        progress = Progress(verdict.id, verdict.operation, t_wall_s=now_s)
        if verdict.fate == "reject":
            progress = progress.moved(now_s, status="failed", reason=verdict.reason, text=verdict.text[:2000])
        command = Command(
            progress, verdict.digest, verdict.key_id, holder.name, holder.role, request.counter, request.issued_s,
            request.expires_s, request.args, now_s, journal.boot,
        )  # fmt: skip
        journal.admit(command, projection.audited(verdict))
        self._tell(command)
        if verdict.fate == "admit":
            work.add(command)

    def _note(self, journal: Journal, verdict: Verdict) -> None:
        """Write a decision down; of many refusals and repetitions only how many there were."""
        if not self._denials.take("", self._clock.mono_s()):
            self._unwritten += 1
            return
        self._note_unwritten(journal)
        journal.note(self._clock.wall_s(), projection.audited(verdict))

    def _note_unwritten(self, journal: Journal) -> None:
        if self._unwritten:
            journal.note(self._clock.wall_s(), {"what": "more of these", "count": self._unwritten})
            self._unwritten = 0

    def _tell(self, command: Command) -> None:
        self._requests.tell(projection.state(command, self._config.state_days * 86400))

    def _note_time(self, journal: Journal) -> None:
        """A journal without a birthday, or with one in the future of a time that is trusted now, gets one."""
        if self._clock.state() != "synced":
            return
        now_ms, born_ms = int(self._clock.wall_s() * 1000), journal.born_ms
        if born_ms is None or born_ms > now_ms + AHEAD_S * 1000:
            journal.bear(now_ms)

    def _news(self, journal: Journal) -> None:
        """Have the facet told when the trail has grown: its head is what gives a rewritten trail away."""
        if journal.head != self._head:
            self._head = journal.head
            self._requests.facet_changed()

    def _tidy(self, journal: Journal) -> None:
        """Clear states that have stood long enough, forget rows that ended long ago. Needs a clock that is right."""
        self._outside.holders.refresh()
        if self._denials.take("", self._clock.mono_s()):
            self._note_unwritten(journal)
        done = [command for command in journal.shown() if command.progress.terminal]
        trusted, now_s = self._clock.state() == "synced", self._clock.wall_s()
        for place, command in enumerate(done):
            old = trusted and command.progress.t_wall_s < now_s - self._config.state_days * 86400
            if old or place < len(done) - self._config.states:
                journal.hide(command.id)
                self._requests.tell(projection.cleared(command.name))
        if trusted:
            journal.forget(now_s - self._config.retention_days * 86400)


def page(journal: Journal, after: int) -> dict[str, Any]:
    """Up to `AUDIT_ROWS` entries after number `after`, and what the trail hangs on."""
    anchor = journal.anchor
    return {
        "anchor": {"n": anchor.n, "hash": anchor.hash.hex()},
        "entries": [
            {"n": link.n, "t_ms": link.entry.t_ms, "line": link.entry.line, "hash": link.hash.hex()}
            for link in journal.audit(after, AUDIT_ROWS)
        ],
    }  # fmt: skip
