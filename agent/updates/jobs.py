"""Jobs: what the agent, a timer or a person asks of the updater, and how far each one has come.

The agent leaves a job as a small file in the spool (`drop`); the updater takes it from there into its own book
(`Book`), one `Progress` per job in `<folder>/jobs/`, durable before the spool's file goes. What the spool holds is
distrusted: it can ask for nothing but what is signed. An id that the book knows is never run again. Light on purpose:
the agent imports this, and so does the step before every start.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from agent.durable import read_limited, write_durably
from agent.errors import ConfigError, LimpetError, UpdateError
from agent.progress import LIMIT_BYTES, Progress, Status
from agent.strict import Match, Range, build

Do = Literal["update", "rollback", "pin", "unpin", "activate", "verdict", "refresh", "release", "timer"]
JOB_LIMIT_BYTES: Final = 8192
BOOK_LIMIT: Final = 200
"""Ended jobs that the book remembers; the oldest are forgotten first."""
BOOK_DAYS: Final = 30
"""So long it remembers them even when there are more, days: a repeated id must not run twice."""
TICK_S: Final = 1.0
OWN_DETAILS: Final = frozenset({"generation", "resumed", "mode"})
"""Of a progress's detail: what the updater counts and decides. A job that brings it along is refused."""
_ID: Final = "[A-Za-z0-9_.-]{1,64}"
_MODEL: Final = "|@agent|[a-z0-9][a-z0-9._-]{0,63}"


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked."""

    id: Annotated[str, Match(_ID, "1 to 64 letters, digits, '_', '.', '-'")]
    do: Do
    model: Annotated[str, Match(_MODEL, "the name of a model, or @agent")] = ""
    version: Annotated[str, Range(0, 64)] = ""
    sha256: Annotated[str, Match("|[0-9a-f]{64}", "64 hex digits")] = ""
    """verdict and refresh: of the package manifest that it is about."""
    verdict: Literal["", "commit", "roll_back", "promote"] = ""
    reason: Annotated[str, Range(0, 64)] = ""
    text: Annotated[str, Range(0, 2000)] = ""
    detail: dict[str, Any] = field(default_factory=dict)
    """JSON values that go into the progress: counts of a probation, disagreements, who asked."""

    def __post_init__(self) -> None:
        """Raises ValueError for a detail that only the updater knows."""
        if forged := OWN_DETAILS & self.detail.keys():
            raise ValueError(f"detail holds what the updater itself writes: {', '.join(sorted(forged))}")

    def encode(self) -> bytes:
        """One JSON object."""
        return json.dumps({"schema": 1, **asdict(self)}, separators=(",", ":"), sort_keys=True).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, where: str) -> "Job":
        """Raises UpdateError that names `where`."""
        try:
            table = json.loads(data)
            if not isinstance(table, dict) or table.pop("schema", None) != 1:
                raise UpdateError(f"{where}: no job of schema 1", "REJECTED_UNSUPPORTED")
            return build(cls, table, where)
        except (ValueError, RecursionError, ConfigError) as exc:
            raise UpdateError(f"{where}: this is no job: {exc}", "REJECTED_UNSUPPORTED") from exc


def asked_again(progress: Progress) -> Job:
    """The job that a progress tells of, with the version that was chosen for it. Raises UpdateError."""
    known = {key: progress.detail.get(key, "") for key in ("model", "version", "sha256")}
    table = {"schema": 1, "id": progress.id, "do": progress.operation, **known}
    return Job.decode(json.dumps(table).encode(), f"job {progress.id}")


def drop(spool: Path, job: Job) -> None:
    """Leave `job` for the updater, whole or not at all. Raises UpdateError."""
    data = job.encode()
    if len(data) > JOB_LIMIT_BYTES:
        raise UpdateError(f"job {job.id}: {len(data)} bytes, at most {JOB_LIMIT_BYTES}: shorten its detail")
    try:
        write_durably(spool / f"{job.id}.json", data, 0o640)
    except OSError as exc:
        raise UpdateError(f"{spool}: the job cannot be left for the updater: {exc.strerror}") from exc


def cancel(spool: Path, job_id: str) -> None:
    """Ask that the job ends before it is activated. Raises UpdateError."""
    try:
        (spool / f"{job_id}.cancel").touch()
    except OSError as exc:
        raise UpdateError(f"{spool}: the job cannot be cancelled: {exc.strerror}") from exc


def cancelled(spool: Path, job_id: str) -> bool:
    """Whether somebody asked so."""
    return (spool / f"{job_id}.cancel").exists()


def waiting(spool: Path) -> Iterator[tuple[Path, Job | UpdateError]]:
    """Every job in the spool, the oldest first, or why a file is none."""
    for path in sorted(spool.glob("*.json"), key=_age):
        try:
            if path.is_symlink():
                raise UpdateError(f"{path}: this is a link: a job is a plain file", "REJECTED_UNSUPPORTED")
            job = Job.decode(read_limited(path, JOB_LIMIT_BYTES), str(path))
            yield path, job if job.id == path.stem else UpdateError(f"{path}: it holds the job {job.id}: wrong name")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            yield path, UpdateError(f"{path}: this job cannot be read: {exc}", "REJECTED_UNSUPPORTED")
        except UpdateError as exc:
            yield path, exc


def taken(spool: Path, job_id: str) -> None:
    """The book has the job: its file leaves the spool."""
    with suppress(OSError):
        (spool / f"{job_id}.json").unlink(missing_ok=True)


def over(spool: Path, job_id: str) -> None:
    """The job has ended: nobody can cancel it any more."""
    with suppress(OSError):
        (spool / f"{job_id}.cancel").unlink(missing_ok=True)


class Book:
    """The progress of every job. Files are 0644: the agent, another user, reads and tells them."""

    def __init__(self, folder: Path, now_s: Callable[[], float] = time.time) -> None:
        self._folder, self.now_s = folder / "jobs", now_s

    def get(self, job_id: str) -> Progress | None:
        """What is written of a job; None when nothing is. What cannot be read counts as interrupted."""
        path = self._path(job_id)
        try:
            return Progress.decode(read_limited(path, LIMIT_BYTES), str(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LimpetError) as exc:
            text = f"its progress could not be read: {exc}"[:500]
            return Progress(job_id, "update", "failed", reason="INTERRUPTED", text=text, t_wall_s=self.now_s())

    def every(self) -> list[Progress]:
        """All of them, the oldest first."""
        found = [self.get(path.stem) for path in self._folder.glob("*.json")]
        return sorted((progress for progress in found if progress), key=lambda progress: progress.t_wall_s)

    def open(self, job: Job) -> "Track":
        """Write a new job down as `init`, with all that is needed to take it up again. Raises UpdateError."""
        asked = {key: value for key, value in asdict(job).items() if value and key not in ("id", "do", "detail")}
        detail = {**{k: v for k, v in job.detail.items() if k not in asked}, **asked}
        progress = Progress(job.id, job.do, t_wall_s=self.now_s(), detail=detail)
        self.write(progress, durable=True)
        return Track(self, progress)

    def write(self, progress: Progress, *, durable: bool) -> None:
        """Raises UpdateError. Only a change of state is worth a flush of the disk."""
        path = self._path(progress.id)
        try:
            self._folder.mkdir(mode=0o755, exist_ok=True)
            if durable:
                write_durably(path, progress.encode(), 0o644)
                return
            fresh = path.with_name(path.name + ".new")
            fresh.write_bytes(progress.encode())
            fresh.replace(path)
        except OSError as exc:
            reason = "NO_SPACE" if exc.errno in (28, 122) else "FAILED"
            raise UpdateError(f"{path}: the progress cannot be written: {exc.strerror}", reason) from exc

    def trim(self) -> None:
        """Forget the oldest ended jobs beyond `BOOK_LIMIT` that are older than `BOOK_DAYS`."""
        ended = [progress for progress in self.every() if progress.terminal]
        for progress in ended[:-BOOK_LIMIT]:
            if self.now_s() - progress.t_wall_s > BOOK_DAYS * 86400:
                self._path(progress.id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        if not re.fullmatch(_ID, job_id):
            raise UpdateError(f"job {job_id!r}: this is no name for a job", "REJECTED_UNSUPPORTED")
        return self._folder / f"{job_id}.json"


class Track:
    """One job on its way: each state is on the disk before what it says is done."""

    def __init__(
        self, book: Book, progress: Progress, told: Callable[[Progress], None] = lambda _: None,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.progress = progress
        self.told = told
        """Called with every change, for who looks on."""
        self._book, self._mono_s, self._ticked_s = book, mono_s, 0.0

    def move(self, status: Status, text: str = "", /, **detail: Any) -> None:
        """The next state, durably; the keys of `detail` may be any. Raises UpdateError."""
        self._write(durable=True, status=status, text=text, reason="", detail={**self.progress.detail, **detail})

    def tick(self, done_bytes: int, total_bytes: int) -> bool:
        """How far the download is; written, and True, once per second at most."""
        if self._mono_s() - self._ticked_s < TICK_S and done_bytes < total_bytes:
            return False
        self._ticked_s = self._mono_s()
        self._write(durable=False, done_bytes=done_bytes, total_bytes=total_bytes)
        return True

    def fail(self, error: UpdateError, /, **detail: Any) -> None:
        """The end, and why."""
        told = {**self.progress.detail, **detail}
        self._write(durable=True, status="failed", reason=error.reason, text=str(error)[:2000], detail=told)

    def _write(self, *, durable: bool, **changes: Any) -> None:
        following = self.progress.moved(self._book.now_s(), **changes)
        self._book.write(following, durable=durable)
        self.progress = following
        self.told(following)


def _age(path: Path) -> tuple[int, str]:
    with suppress(OSError):
        return path.stat().st_mtime_ns, path.name
    return 0, path.name
