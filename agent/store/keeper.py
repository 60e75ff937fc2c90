"""Keeps the outbox's files usable: opens, locks, sets aside what is damaged, makes room on a full disk.

Whatever happens to the disk, nothing is raised to the pipelines: the alarm says what failed and what to do, events
pend in memory, and the file is tried again. A damaged file is renamed, never deleted.
"""

import logging
import time
from collections.abc import Callable, Sequence

from agent.clock import Clock
from agent.durable import sync_folder
from agent.errors import EnvelopeError, StoreError
from agent.settings.store import StoreSettings
from agent.store.batch import Batch, Outcome
from agent.store.book import Book, Held
from agent.store.database import Database
from agent.store.faults import DamagedError, DiskBrokenError, DiskFullError, translated
from agent.store.files import ExclusiveLock, Reserve
from agent.store.marks import Marks
from agent.store.rescue import Rescue
from agent.store.salvage import quarantine
from agent.store.streams import Stream
from agent.store.tickets import Pending, StoreKey, aad_of, raw_id

log = logging.getLogger(__name__)

Alarm = Callable[[str, str | None], None]
"""`alarm("store", text)` raises, `alarm("store", None)` clears."""
BROKEN_LIMIT = 8
"""Failures in a row after which a file that cannot be written is renamed aside."""
RETRY_FIRST_S, RETRY_CAP_S = 0.2, 5.0


class Keeper:
    """Owns what lies in the outbox's folder. All but `db` belongs to the writer's lane."""

    def __init__(self, settings: StoreSettings, key: StoreKey, book: Book, clock: Clock, alarm: Alarm) -> None:
        """Opens nothing yet."""
        self.db: Database | None = None
        """The open database; None while the disk is in trouble."""
        self.trouble = ""
        """What is wrong with the disk; empty when nothing is."""
        self._settings = settings
        self._key = key
        self._book = book
        self._clock = clock
        self._alarm = alarm
        self._path = settings.folder / "outbox.db"
        self._lock: ExclusiveLock | None = None
        self._marks = Marks(settings.folder / "marks.json")
        self._reserve = Reserve(settings.folder / "reserve", settings.reserve_kib << 10)
        self._rescue: Rescue | None = None
        self._doubt: tuple[Batch, Outcome] | None = None
        """A commit whose flush failed: whether it holds is known when the file is open again."""
        self._adopted = False
        self._failures = 0
        self._retry_s = 0.0

    @property
    def salvaging(self) -> bool:
        """True while events of a damaged file are brought back."""
        return self._rescue is not None

    # --- the ordinary course --------------------------------------------------------------------------------------

    def commit(self, batch: Batch) -> None:
        """Write `batch` and resolve its tickets. Raises a StoreError of `faults`, and then nothing has changed."""
        db = self.db
        if db is None or not batch:
            return
        outcome = Outcome()
        try:
            with db.lock:
                db.check_present()
                with translated(self._marks.path):
                    tops = {m.name: max(m.next, m.reserved) for m in batch.streams}
                    self._marks.raise_over(self._book.highest(), tops)
                keys = {s.name: s.key for s in self._book.streams()}
                db.commit(batch, keys, self._seal, outcome)
                self._book.settled(batch, outcome)
        except DiskBrokenError:
            self._doubt = (batch, outcome)
            raise
        except StoreError:
            self._book.failed(batch)
            raise
        self._well()

    def _seal(self, pendings: Sequence[Pending]) -> list[bytes]:
        return self._key.seal_all([(p.body, aad_of(p.ticket.stream, raw_id(p.ticket.id))) for p in pendings])

    def ease(self) -> None:
        """After a commit that everybody has heard of: what the next ones would have to wait for."""
        if self.db is not None:
            with self.db.lock:
                self.db.ease()

    def salvage(self) -> None:
        """Bring some events of a damaged file back."""
        if self._rescue is None or self.db is None:
            return
        with self.db.lock:
            done = self._rescue.step(self.db)
        if done:
            self._rescue = None
            self._alarm("store", None)

    def tidy(self) -> None:
        """When there is nothing else to do: give unused pages back, hold the reserve."""
        if self.db is None:
            return
        with self.db.lock:
            self.db.shrink()
        with translated(self._path):
            self._reserve.take()

    # --- trouble --------------------------------------------------------------------------------------------------

    def guarded(self, work: Callable[[], None]) -> None:
        """Do `work`; on trouble raise the alarm, do what helps, and leave the events pending."""
        try:
            work()
        except DiskFullError as exc:
            self._ill(exc)
            self._make_space()
        except DamagedError as exc:
            self._ill(exc)
            self._set_aside("damaged")
        except DiskBrokenError as exc:
            self._ill(exc)
            self._shut()
            if self._failures >= BROKEN_LIMIT and self._path.exists():
                self._set_aside("failing")

    def _ill(self, exc: StoreError) -> None:
        self._retry_s = self._clock.mono_s() + min(RETRY_CAP_S, RETRY_FIRST_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        if self.trouble != str(exc):
            self.trouble = str(exc)
            self._alarm("store", self.trouble)

    def _well(self) -> None:
        self._failures = 0
        if self.trouble:
            self.trouble = ""
            if self._rescue is None:
                self._alarm("store", None)

    def _make_space(self) -> None:
        """A full disk: give up the reserve, empty the log, drop the oldest; what still fails is tried again."""
        self._book.batch_bytes = max(16 << 10, self._book.batch_bytes // 2)
        try:
            with translated(self._path):
                self._reserve.release()
            if self.db is not None:
                with self.db.lock:
                    self.db.relieve()
                    self._book.dropped(self.db.drop_some(200))
        except StoreError as exc:
            log.warning("store=still-full error=%r", str(exc))
            self._shut()

    def _shut(self) -> None:
        db, self.db = self.db, None
        if db is not None:
            try:
                with db.lock:
                    db.close()
            except StoreError as exc:
                log.warning("store=close-failed error=%r", str(exc))

    def _set_aside(self, why: str) -> None:
        """Rename the file away, start a fresh one, salvage the old one between commits."""
        expected = {s.name: s.rows for s in self._book.streams()} if self._adopted else {}
        self._shut()
        try:
            if self._path.exists():
                with translated(self._path):
                    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.wall_s()))
                    target = quarantine(self._path, stamp)
                    sync_folder(self._path.parent)
                log.error("store=set-aside why=%s file=%s", why, target)
                self._rescue = Rescue(target, self._book, self._key, expected)
            else:
                for name, rows in expected.items():
                    self._book.lose(name, 0, max(0, rows - 1), rows, "removed", bound=True)
            self._failures, self._retry_s = 0, 0.0
            self.reopen()
        except StoreError as exc:
            self._ill(exc)

    # --- opening and closing --------------------------------------------------------------------------------------

    @property
    def resting(self) -> bool:
        """True while the disk is left alone after a failure, so that trouble never becomes a busy loop."""
        return self._clock.mono_s() < self._retry_s

    def reopen(self) -> None:
        """Open or make the outbox. Raises a StoreError of `faults`, or OutboxInUseError."""
        folder = self._settings.folder
        with translated(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._lock is None:
            self._lock = ExclusiveLock(folder / "lock")
        self._marks = Marks.load(self._marks.path)
        db = Database(self._path, self._settings)
        try:
            self._check_key(db)
            self._adopt(db)
            self._settle_doubt(db)
        except BaseException:
            db.close()
            raise
        self._book.batch_bytes = min(self._book.batch_bytes, db.batch_bytes)
        self.db = db
        if self._rescue is None:
            self._rescue = Rescue.unfinished(folder, self._book, self._key)
        with translated(self._path):
            self._reserve.take()

    def _settle_doubt(self, db: Database) -> None:
        """A commit whose flush failed may be found in the log when it is replayed; opening has synced it then."""
        if self._doubt is None:
            return
        batch, outcome = self._doubt
        self._doubt = None
        written = [p.n for p in batch.inserts if p.n not in outcome.refused]
        if written and db.last_n() >= written[-1] and not db.fresh:
            outcome.rows.clear()  # the file was counted anew when it was opened
            outcome.gap_rows, outcome.parked = len(db.gaps()), db.parked()
            self._book.settled(batch, outcome)
        else:
            self._book.failed(batch)

    def _check_key(self, db: Database) -> None:
        proof, aad = db.meta("key"), b"limpet store key"
        if proof is None:
            db.set_meta("key", self._key.seal(b"", aad))
            return
        try:
            self._key.open(proof, aad)
        except EnvelopeError as exc:
            raise DamagedError(
                f"outbox {self._path}: its events are sealed under another store key: put the former key back at "
                f"{self._settings.key_file} to salvage them; the file is kept aside"
            ) from exc

    def _adopt(self, db: Database) -> None:
        """Learn where the numbers stand; report what an unclean stop may have cost."""
        clean = bool(db.meta("clean"))
        db.set_meta("clean", 0)
        streams, lost = [], []
        for row in db.streams():
            first = row.last + 1
            jump = not clean and row.loose and row.reserved > first
            if jump and not self._adopted:
                lost.append((row.name, first, row.reserved - 1))
            following = row.reserved if jump else first
            streams.append(Stream(row.name, row.key, following, row.reserved, row.last, row.loose, row.rows))
        held = Held(tuple(streams), db.last_n(), len(db.gaps()), db.parked(), db.fresh)
        self._book.adopt(held, self._marks.ceilings, self._marks.n)
        for name, first, last in lost:
            self._book.lose(name, first, last, last - first + 1, "unclean stop", bound=True)
        self._adopted = True

    def close(self) -> None:
        """Empty the log and let go of everything."""
        if self.db is not None:
            self.guarded(self._empty_log)
        self._shut()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _empty_log(self) -> None:
        if self.db is not None:
            with self.db.lock:
                self.db.relieve()
