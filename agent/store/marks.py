"""A ceiling above all numbers ever used, in a small file beside the database, written whole or not at all."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from agent.durable import write_durably
from agent.store.faults import DiskBrokenError

COARSE = 4096
"""Step of a ceiling: how many numbers may pass before the file is written again."""


@dataclass(slots=True)
class Marks:
    """The file beside the database: a ceiling per stream, and one for the order of acceptance."""

    path: Path
    n: int = 0
    ceilings: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Marks":
        """Read the marks; a missing or damaged file counts as none. Raises DiskBrokenError when the disk refuses."""
        try:
            raw = json.loads(path.read_bytes())
            return cls(path, int(raw["n"]), {str(k): int(v) for k, v in raw["streams"].items()})
        except FileNotFoundError:
            return cls(path)
        except OSError as exc:
            raise DiskBrokenError(f"marks {path}: {exc.strerror}: the agent's user must be able to read it") from exc
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
