"""collect-diagnostics: how the agent is, and its last log lines, in the state's detail: bounded, and without secrets.

What is told has passed the redactor of the log; values of secrets are in no status. The detail is signed and sealed as
every state is, so that only the device's readers see it.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from agent import codec
from agent.commands.table import Once, Operation
from agent.errors import EnvelopeError
from agent.journal import Command
from agent.strict import Range

LINES: Final = 200
LINE: Final = 400
"""Longest line that is kept, characters."""
STATUS_BYTES: Final = 24 * 1024
LOG_BYTES: Final = 24 * 1024
"""Most of each in one answer, bytes of JSON."""


@dataclass(frozen=True, slots=True)
class DiagnosticsArgs:
    """collect-diagnostics: how much."""

    lines: Annotated[int, Range(0, LINES)] = 100
    """Newest log lines, fewer when more do not fit."""


class Tail(logging.Handler):
    """Keeps the newest log lines in memory, as the formatter wrote them."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(formatter)
        self._lines: deque[str] = deque(maxlen=LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record)[:LINE])

    def newest(self, count: int) -> list[str]:
        """The last `count` lines that fit into `LOG_BYTES`, the oldest first."""
        kept: list[str] = []
        left = LOG_BYTES
        for line in reversed(list(self._lines)[max(0, len(self._lines) - count) :] if count else []):
            left -= len(json.dumps(line)) + 1
            if left < 0:
                break
            kept.append(line)
        return kept[::-1]


def operation(status: Callable[[], Mapping[str, Any]], tail: Tail) -> Operation:
    """`status`: what `limpet status` shows, JSON values."""

    def act(command: Command) -> dict[str, Any]:
        return {"status": fitting(status()), "log": tail.newest(int(command.args.get("lines", 100)))}

    return Operation("technician", Once(act), DiagnosticsArgs, mutating=False)


def fitting(status: Mapping[str, Any]) -> dict[str, Any]:
    """`status` as far as it fits into `STATUS_BYTES`: the largest parts are named instead of told."""
    sizes: dict[str, int] = {}
    told: dict[str, Any] = {}
    for name, value in status.items():
        try:
            told[name] = codec.plain(value, 6)
            sizes[name] = len(json.dumps(told[name]))
        except EnvelopeError as exc:
            told[name], sizes[name] = f"left out: {exc}", 64
    for name in sorted(sizes, key=lambda part: -sizes[part]):
        if sum(sizes.values()) <= STATUS_BYTES:
            break
        told[name], sizes[name] = f"left out: {sizes[name]} bytes", 32
    return told
