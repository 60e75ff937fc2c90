"""The journal itself: every statement stands here; each method is one transaction and thread-safe.

Damage at the opening sets the file aside under another name and starts a fresh one. A fresh journal does not know what
was asked before: it remembers when it was born, and the gate refuses what was issued earlier, so that losing the
counters never lets an old request run twice.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agent import cbor
from agent.durable import locked
from agent.errors import ConfigError, StoreError
from agent.journal.chain import Entry, Head, Link, follow
from agent.journal.command import Command
from agent.journal.schema import JournalDamagedError, connect, translated
from agent.progress import Progress

AUDIT_ENTRIES: Final = 50_000
"""Audit entries kept; the oldest leave in steps of a hundredth."""
PROGRESS_BYTES: Final = 128 * 1024
"""Largest written progress with the result in its detail, bytes."""
_COLUMNS: Final = "digest, kid, by, role, counter, issued_s, expires_s, args, created_s, boot, progress"


class Journal:
    """An open journal; use it in a `with`."""

    def __init__(self, path: Path, boot: str = "", audit_entries: int = AUDIT_ENTRIES) -> None:
        """Open or make the file at `path`, alone. Raises StoreError when it cannot be used now."""
        self.path, self.boot = path, boot
        self.trouble = ""
        """What had to be set aside at the opening; "" when all was well."""
        self._audit_entries = audit_entries
        self._lock = threading.RLock()
        self._ends = contextlib.ExitStack()
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._ends.enter_context(locked(path.with_name(path.name + ".lock"))):
                raise StoreError(f"journal {path}: another process uses it: ask the running agent instead")
        try:
            self._db = self._open()
            self._head = self._read_head()
        except BaseException:
            self._ends.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        with self._lock, translated(self.path):
            self._db.close()
            self._ends.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- commands -------------------------------------------------------------------------------------------------

    def admit(self, command: Command, entry: Mapping[str, Any]) -> None:
        """A new row, the counter of its key and the audit entry, together. Raises StoreError, also for a known id."""
        row = (
            command.id, command.operation, command.digest, command.key_id, command.by, command.role, command.counter,
            command.issued_s, command.expires_s, cbor.encode(dict(command.args)), command.created_s, command.boot,
            command.progress.encode(), command.created_s if command.progress.terminal else None, 1,
        )  # fmt: skip
        with self._writing():
            self._db.execute("insert into command values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._db.execute("insert or replace into counter values (?, ?)", (command.key_id, command.counter))
            self._append(command.created_s, entry)

    def move(self, command: Command, entry: Mapping[str, Any] | None = None) -> None:
        """Write a command's next state, with an audit entry if there is one to tell. Raises StoreError."""
        progress = command.progress
        ended_s = progress.t_wall_s if progress.terminal else None
        with self._writing():
            self._db.execute(
                "update command set progress = ?, boot = ?, ended_s = ?, shown = 1 where id = ?",
                (progress.encode(), command.boot, ended_s, command.id),
            )
            if entry is not None:
                self._append(progress.t_wall_s, entry)

    def find(self, id_: str) -> Command | None:
        """The row of that id, or None."""
        rows = self._commands("where id = ?", id_)
        return rows[0] if rows else None

    def under_way(self) -> list[Command]:
        """Rows that have not ended, the oldest first."""
        return self._commands("where ended_s is null order by created_s, counter")

    def shown(self) -> list[Command]:
        """Rows whose state stands at the broker, the oldest first."""
        return self._commands("where shown = 1 order by created_s, counter")

    def hide(self, id_: str) -> None:
        """The retained state of that row was cleared."""
        with self._writing():
            self._db.execute("update command set shown = 0 where id = ?", (id_,))

    def forget(self, before_s: float) -> int:
        """Remove rows that ended before `before_s`, seconds since 1970, and are not shown; says how many."""
        with self._writing():
            return self._db.execute("delete from command where ended_s < ? and shown = 0", (before_s,)).rowcount

    def counter(self, key_id: bytes) -> int:
        """The last counter that was admitted for a key; 0 when none was."""
        rows = self._all("select counter from counter where kid = ?", key_id)
        return int(rows[0][0]) if rows else 0

    # --- remembered values ----------------------------------------------------------------------------------------

    @property
    def born_ms(self) -> int | None:
        """When this journal began, milliseconds since 1970 by a trusted clock; None until one was seen."""
        born: int | None = self._meta("born_ms")
        return born

    def bear(self, now_ms: int) -> None:
        """Note the first trusted time that this journal sees: what was asked before is not known here."""
        with self._writing():
            self._db.execute("insert or replace into meta values ('born_ms', ?)", (now_ms,))

    # --- audit ----------------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The last audit entry."""
        return self._head

    @property
    def anchor(self) -> Head:
        """The last audit entry that was removed for its age: what the trail hangs on."""
        n = self._meta("anchor_n")
        return Head() if n is None else Head(n, self._meta("anchor_hash"))

    def note(self, t_wall_s: float, entry: Mapping[str, Any]) -> None:
        """An audit entry alone. Raises StoreError."""
        with self._writing():
            self._append(t_wall_s, entry)

    def audit(self, after: int, limit: int) -> list[Link]:
        """Up to `limit` entries after number `after`."""
        rows = self._all("select n, t_ms, line, hash from audit where n > ? order by n limit ?", after, limit)
        return [Link(n, Entry(t_ms, line), hash_) for n, t_ms, line, hash_ in rows]

    # --- within ---------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        try:
            return connect(self.path)
        except JournalDamagedError as exc:
            aside = _set_aside(self.path)
            self.trouble = f"{exc}: it was kept as {aside.name}, and a fresh one refuses what was issued before now"
            return connect(self.path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, translated(self.path):
            before = self._head
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                self._head = before
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise

    def _append(self, t_wall_s: float, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":"), sort_keys=True)
        link = follow(self._head, Entry(int(t_wall_s * 1000), line))
        row = (link.n, link.entry.t_ms, link.entry.line, link.hash)
        self._db.execute("insert into audit values (?, ?, ?, ?)", row)
        self._head = Head(link.n, link.hash)
        if link.n % max(1, self._audit_entries // 100) == 0:
            self._prune(link.n - self._audit_entries)

    def _prune(self, upto: int) -> None:
        rows = self._db.execute("select n, hash from audit where n <= ? order by n desc limit 1", (upto,)).fetchall()
        for n, hash_ in rows:
            self._db.execute("insert or replace into meta values ('anchor_n', ?), ('anchor_hash', ?)", (n, hash_))
            self._db.execute("delete from audit where n <= ?", (n,))

    def _read_head(self) -> Head:
        rows = self._all("select n, hash from audit order by n desc limit 1")
        return Head(*rows[0]) if rows else self.anchor

    def _commands(self, where: str, *values: object) -> list[Command]:
        return [self._command(row) for row in self._all(f"select {_COLUMNS} from command {where}", *values)]  # noqa: S608  # fixed texts

    def _command(self, row: tuple[Any, ...]) -> Command:
        digest, kid, by, role, counter, issued_s, expires_s, args, created_s, boot, progress = row
        try:
            made = Progress.decode(progress, str(self.path), PROGRESS_BYTES)
        except (ConfigError, ValueError) as exc:
            raise StoreError(f"journal {self.path}: a row cannot be read: {exc}") from exc
        return Command(
            made, digest, kid, by, role, counter, issued_s, expires_s, cbor.decode(args, "arguments"), created_s, boot
        )

    def _meta(self, key: str) -> Any:
        rows = self._all("select value from meta where key = ?", key)
        return rows[0][0] if rows else None

    def _all(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, translated(self.path):
            return self._db.execute(statement, values).fetchall()


def _set_aside(path: Path) -> Path:
    """Rename a damaged journal with its log; nothing is deleted. Raises StoreError."""
    with translated(path):
        number = next(n for n in range(1, 1000) if not path.with_name(f"{path.name}.damaged-{n}").exists())
        aside = path.with_name(f"{path.name}.damaged-{number}")
        for tail in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + tail).rename(aside.with_name(aside.name + tail))
        return aside
