"""How long the write-ahead log is by now, learned: SQLite tells it only when it is written into the file.

Owns an estimate and nothing else; where it is wrong, SQLite's own checkpoint still comes at the limit, inside a commit.
"""

from agent.store.batch import Batch
from agent.store.schema import PAGE

EARLY = 0.875
"""Part of the limit at which the log is emptied between two commits."""
_FIXED = 5.0
"""Pages that a commit of one small event touches: event, stream, sequence, and what it deletes."""
_ROW_BYTES = 128
_DELETES_PER_PAGE = 16


class Log:
    """The log of one open database. One thread at a time."""

    def __init__(self, limit_pages: int) -> None:
        """`limit_pages`: the length at which a commit empties it by itself."""
        self._limit = limit_pages
        self._guess = 0.0
        """Pages since it was emptied, as far as the commits' contents tell."""
        self._factor = 1.0
        """Real pages per guessed one, as the last time showed."""

    def grew(self, batch: Batch) -> None:
        """A commit of `batch` went through."""
        size = sum(len(p.body) + _ROW_BYTES for p in batch.inserts)
        self._guess += _FIXED + size / PAGE + len(batch.deletes) / _DELETES_PER_PAGE

    @property
    def due(self) -> bool:
        """True when it should be emptied now."""
        return self._guess * self._factor >= EARLY * self._limit

    def emptied(self, pages: int) -> None:
        """It was `pages` long; the next commit begins it anew."""
        if pages > 0 and self._guess > 0:
            self._factor = min(4.0, max(0.25, pages / self._guess))
        self._guess = 0.0
