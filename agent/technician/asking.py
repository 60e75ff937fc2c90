"""Asking devices for something: who still waits, who was asked, and what became of each.

Pure: what was heard goes in, what to send comes out; time and keys are passed in. A request is signed when it is sent,
so that its life begins then and that it can carry the nonce which the device showed. Rules: at most `parallel` devices
at a time; after `abort_after` failures nobody new is asked, and those under way are followed to their end. States that
this version does not know are middle states.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.broker import Message
from agent.envelope.topics import Topics
from agent.progress import TERMINAL
from agent.reading import Answered, Heard, Said
from agent.request import Target

Phase = Literal["waiting", "sent", "taken", "ended"]
"""Not asked yet; on its way to the broker; the broker has it; the device, or the broker, has said the last word."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A state as the device told it, verified."""

    status: str
    version: int
    reason: str = ""
    text: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL


@dataclass(slots=True)
class Asked:
    """One device and its request."""

    target: Target
    phase: Phase = "waiting"
    seen: Seen | None = None
    refusal: str = ""
    """Why the broker did not take the request."""

    @property
    def topic(self) -> str:
        target = self.target
        return f"{Topics(target.site, target.device).prefix}/req/{target.operation}/{target.id}"

    @property
    def ok(self) -> bool:
        return self.seen is not None and self.seen.status == "successful"

    @property
    def failed(self) -> bool:
        return self.phase == "ended" and not self.ok


Sign = Callable[[Target, bytes], Message]
"""Makes the request for a target, with the device's nonce or b""."""


class Round:
    """Everyone that is asked in one go."""

    def __init__(self, targets: Iterable[Target], sign: Sign, *, parallel: int, abort_after: int) -> None:
        self.asked = tuple(Asked(target) for target in targets)
        self._sign = sign
        self._parallel, self._abort_after = parallel, abort_after
        self._nonces: dict[tuple[str, str], bytes] = {}

    @property
    def failures(self) -> int:
        return sum(one.failed for one in self.asked)

    @property
    def aborted(self) -> bool:
        """So much went wrong that nobody new is asked."""
        return self.failures >= self._abort_after

    @property
    def delivered(self) -> bool:
        """The broker has everything that is going to be sent."""
        return all(one.phase in ("taken", "ended") for one in self._live())

    @property
    def over(self) -> bool:
        """Nothing more can be heard that matters."""
        return all(one.phase == "ended" for one in self._live())

    def _live(self) -> list[Asked]:
        return [one for one in self.asked if not (self.aborted and one.phase == "waiting")]

    def follow(self) -> None:
        """Ask nobody; only hear what becomes of requests that were sent before."""
        for one in self.asked:
            one.phase = "taken"

    def due(self) -> Iterator[Message]:
        """What is to be sent now."""
        under_way = sum(one.phase in ("sent", "taken") for one in self.asked)
        for one in self.asked:
            if self.aborted or under_way >= self._parallel:
                return
            if one.phase == "waiting":
                one.phase = "sent"
                under_way += 1
                yield self._sign(one.target, self._nonces.get((one.target.site, one.target.device), b""))

    def take(self, said: Said) -> Asked | None:
        """Hear one message; returns whose it was if it told something new."""
        if isinstance(said, Answered):
            return self._answered(said)
        if isinstance(said, Heard):
            return self._heard(said)
        return None

    def _answered(self, said: Answered) -> Asked | None:
        for one in self.asked:
            if one.topic == said.topic and one.phase == "sent":
                one.phase, one.refusal = ("ended", said.refusal) if said.refusal else ("taken", "")
                return one
        return None

    def _heard(self, heard: Heard) -> Asked | None:
        opened = heard.opened
        if opened.place == "twin" and opened.name == "commands":
            self._note_nonce((opened.site, opened.device), opened.body)
        if opened.place != "state":
            return None
        for one in self.asked:
            target = one.target
            name = f"{target.operation}/{target.id}"
            if (opened.site, opened.device, opened.name) == (target.site, target.device, name):
                return self._moved(one, opened.body)
        return None

    def _note_nonce(self, device: tuple[str, str], body: Any) -> None:
        """Only a device that does not trust its clock is given its nonce back: it costs bytes."""
        nonce = body.get("nonce")
        known = isinstance(nonce, str) and re.fullmatch("[0-9a-f]{16}", nonce) and not body.get("clock_trusted")
        self._nonces[device] = bytes.fromhex(nonce) if known else b""

    def _moved(self, one: Asked, body: Any) -> Asked | None:
        told = body.get("detail")
        seen = Seen(
            status=str(body.get("status", "")), version=_whole(body.get("version")), reason=str(body.get("reason", "")),
            text=str(body.get("text", "")), done_bytes=_whole(body.get("done_bytes")),
            total_bytes=_whole(body.get("total_bytes")), detail=dict(told) if isinstance(told, Mapping) else {},
        )  # fmt: skip
        if one.phase == "ended" or (one.seen is not None and seen.version <= one.seen.version):
            return None  # the broker may bring old news after new
        one.seen = seen
        one.phase = "ended" if seen.terminal else "taken"
        return one


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def words(one: Asked) -> str:
    """Where a device stands, in a few words."""
    if one.refusal:
        return f"the broker refused the request: {one.refusal}"
    if one.seen is None:
        return {"waiting": "waits its turn", "sent": "on its way to the broker"}.get(
            one.phase, "with the broker, no word from the device yet"
        )
    seen = one.seen
    said = [seen.status]
    if seen.status == "download" and seen.total_bytes:
        said.append(f"{seen.done_bytes / 1e3:,.0f} of {seen.total_bytes / 1e3:,.0f} kB")
    said += [seen.reason] if seen.reason else []
    said += [seen.text] if seen.text else []
    return " ".join(said)
