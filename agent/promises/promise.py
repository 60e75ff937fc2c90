"""One promise and whether it was kept; and the watch for what a pure function does not do."""

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from agent.errors import LimpetError

FAULTS: Final = (
    LimpetError, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NameError, OSError,
    RuntimeError, TypeError, ValueError, pickle.PicklingError,
)  # fmt: skip
"""What code of others is expected to fail with."""
_OUTSIDE: Final = ("open", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove")


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise; `problem` is empty when it was kept."""

    text: str
    problem: str = ""
    skipped: str = ""
    """Why it could not be tried; empty when it was."""


def tried(text: str, work: Callable[[], str | None]) -> Promise:
    """`work` returns what is wrong, or nothing; that it fails is wrong, too."""
    try:
        return Promise(text, work() or "")
    except FAULTS as exc:
        return Promise(text, f"{type(exc).__name__}: {exc}")


class _Watch:
    """The audit hook, which sees what one thread does while it is told to look."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self._seen: list[str] = []
        sys.addaudithook(self._hook)

    @contextmanager
    def looking(self) -> Iterator[list[str]]:
        """What is done outside meanwhile, in words."""
        self._seen, self._thread = [], threading.get_ident()
        try:
            yield self._seen
        finally:
            self._thread = None

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self._thread == threading.get_ident() and event.startswith(_OUTSIDE):
            self._seen.append(f"{event} {args[0] if args else ''}".strip())


_watches: list[_Watch] = []


def watch() -> _Watch:
    """The process's one."""
    if not _watches:
        _watches.append(_Watch())
    return _watches[0]


def frozen_bytes(value: Any) -> bytes:
    """A value as bytes: equal bytes, equal value. Raises TypeError and the like for what cannot be pickled."""
    return pickle.dumps(value, protocol=5)
