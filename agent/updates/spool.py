"""The spool's light work: verdicts, ways back, pins. In a moment, without network, beside a download."""

import logging
import time
from contextlib import suppress
from pathlib import Path

from agent.errors import UpdateError
from agent.release.follow import follow
from agent.updates.jobs import Book, Job, over, taken, waiting
from agent.updates.verdicts import LOCAL, work

log = logging.getLogger(__name__)


def work_local(folder: Path, spool: Path, book: Book) -> list[Job]:
    """Do what can be done at once; the other jobs, oldest first. Raises UpdateError when the disk refuses."""
    left: list[Job] = []
    changed = False
    for path, job in waiting(spool):
        if isinstance(job, UpdateError):
            log.error("update job=%s refused=%s", path.name, job)
            _put_away(path)
        elif job.do == "verdict" or (job.do in LOCAL and book.get(job.id) is None):
            work(folder, book, job)
            taken(spool, job.id)
            over(spool, job.id)
            changed = True
        elif book.get(job.id) is not None and job.do != "timer":
            taken(spool, job.id)  # seen before: its progress tells, and a job that was cut off is taken up from there
        else:
            left.append(job)
    if changed:
        follow(folder, book)
    return left


def _put_away(path: Path) -> None:
    """Whatever it is: what keeps the name of a job starts the updater for ever. A folder only loses its name."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        with suppress(OSError):
            path.rename(path.with_name(f"{path.name}.refused-{time.time_ns():x}"))
