"""Numbers of events: 64 bit per stream, never reset.

A critical event is published only after its commit, which also records its number. A routine event may be published
before it is written, so its numbers are reserved durably in blocks first; a block covers about two waits, so that the
loss reported after an unclean stop is a close upper bound. A coarse ceiling above all numbers ever used lies in a
small file beside the database, for the day when the database is gone.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import StoreError
from agent.store.files import write_durably

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
FINE = 16
"""Smallest reserved block of a stream with routine events."""
COARSE = 4096
"""Smallest step of the ceiling in the marks file."""


@dataclass(slots=True)
class Stream:
    """Where one stream's numbers stand. `key` is its small number in the database."""

    name: str
    key: int
    next: int = 0
    reserved: int = 0
    """Numbers below it are reserved in the database."""
    last: int = -1
    """Highest number that is committed or needs no commit any more."""
    loose: bool = False
    """True once it had a routine event."""
    rows: int = 0
    """Its events in the database."""
    told: int = 0
    """`next` at the last commit, `told_s` monotonic: together they measure its pace."""
    told_s: float = 0.0

    def wanted(self, now_s: float, wait_s: float) -> int:
        """How far to reserve with a commit at `now_s` when events wait up to `wait_s`: two waits ahead."""
        if not self.loose:
            return self.reserved
        pace_hz = (self.next - self.told) / max(1.0, now_s - self.told_s)
        return max(self.reserved, self.next + FINE + min(1 << 16, int(2 * wait_s * pace_hz)))

    def usable(self, seq: int) -> bool:
        """True when an event with this number may leave before it is written."""
        return seq < self.reserved


@dataclass(slots=True)
class Marks:
    """The file beside the database: a ceiling per stream, and one for the order of acceptance."""

    path: Path
    n: int = 0
    ceilings: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Marks":
        """Read the marks; a missing or unreadable file counts as none. Raises StoreError when it cannot be opened."""
        try:
            raw = json.loads(path.read_bytes())
            return cls(path, int(raw["n"]), {str(k): int(v) for k, v in raw["streams"].items()})
        except FileNotFoundError:
            return cls(path)
        except OSError as exc:
            raise StoreError(f"marks {path}: {exc.strerror}: the agent's user must be able to read it") from exc
        except (ValueError, KeyError, TypeError, AttributeError):  # written by rename, so only a bad disk does this
            return cls(path)

    def raise_over(self, n: int, tops: dict[str, int]) -> None:
        """Put every ceiling above `tops` (stream -> number) and above `n`; writes at most once. Raises OSError."""
        short = {name: top for name, top in tops.items() if top >= self.ceilings.get(name, 0)}
        if not short and n < self.n:
            return
        ceilings = self.ceilings | {name: top + COARSE for name, top in short.items()}
        n_ceiling = n + 16 * COARSE if n >= self.n else self.n
        write_durably(self.path, json.dumps({"n": n_ceiling, "streams": ceilings}).encode())
        self.n, self.ceilings = n_ceiling, ceilings


def checked_name(name: str) -> str:
    """A stream's name stands in a topic. Raises StoreError when it cannot."""
    if not NAME.fullmatch(name) or name == "gap":
        raise StoreError(
            f"stream {name!r}: a name is 1 to 64 letters, digits, '_', '.' or '-', not 'gap': rename it in the pipeline"
        )
    return name
