"""Brings the events of a file that was set aside back into the outbox, step by step, and counts what is gone."""

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import EnvelopeError
from agent.store.book import Book
from agent.store.database import Database, open_raw
from agent.store.salvage import Step, known, salvage
from agent.store.tickets import StoreKey, aad_of

log = logging.getLogger(__name__)


class Rescue:
    """One damaged file on its way back. Steps are short; the file is renamed to salvaged-* when it is done."""

    def __init__(self, path: Path, book: Book, key: StoreKey, expected: dict[str, int]) -> None:
        """`expected` says how many events each stream had, where the running agent knew."""
        self._path = path
        self._book = book
        self._key = key
        self._raw = open_raw(path)
        said = known(self._raw).streams
        self._names = {k: name for k, (name, _, _) in said.items()}
        self._last = {name: last for name, last, _ in said.values()}
        self._expected = expected or {name: rows for name, _, rows in said.values()}
        self._steps: Iterator[Step] = salvage(self._raw)
        self._found: dict[str, int] = {}
        self._top = 0

    @classmethod
    def unfinished(cls, folder: Path, book: Book, key: StoreKey) -> "Rescue | None":
        """A file whose salvage was cut short by a stop, if any."""
        left = sorted(folder.glob("damaged-*.db"))
        return cls(left[0], book, key, {}) if left else None

    def step(self, db: Database) -> bool:
        """Bring some events back; True when there is nothing more. Raises a StoreError of `faults` for the new file."""
        try:
            step = next(self._steps, None)
        except sqlite3.Error as exc:
            log.error("salvage=cut-short file=%s error=%r", self._path, str(exc))
            step = None
        if step is None:
            self._finish()
            return True
        rows = [made for row in step.rows if (made := self._translated(row)) is not None]
        added = db.restore(rows)
        self._top = max([self._top, *(row[0] for row in rows)])
        self._book.restored(added)
        return False

    def _translated(self, row: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The row with the stream's key of the new file, or None when it cannot be opened or is known to be gone."""
        n, event_id, key, sealed = row[0], row[1], row[2], row[9]
        names = [self._names[key]] if key in self._names else [s.name for s in self._book.streams()]
        for name in names:
            try:
                self._key.open(sealed, aad_of(name, event_id))
            except (EnvelopeError, TypeError):
                continue
            self._names[key] = name
            if self._book.is_acknowledged(n):
                return None
            self._found[name] = self._found.get(name, 0) + 1
            return (n, event_id, self._book.key(name), *row[3:])
        return None

    def _finish(self) -> None:
        self._raw.close()
        self._book.rewind(self._top)
        for name, rows in self._expected.items():
            missing = rows - self._found.get(name, 0)
            if missing > 0:
                self._book.lose(name, 0, max(self._last.get(name, 0), missing - 1), missing, "damaged", bound=False)
        done = self._path.with_name(self._path.name.replace("damaged-", "salvaged-", 1))
        self._path.rename(done)
        log.warning("salvage=done file=%s events=%d", done, sum(self._found.values()))
