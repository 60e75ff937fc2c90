"""Trusted metadata under power cuts: a repository that was seen at version n is never believed at an older one again.

The stick beside the metadata holds five states of a repository; they are refreshed in order, and after the cut the
first one is offered. (python-tuf as it comes accepts it: it renames without fsync.)
"""

import os
import shutil

from agent.errors import UpdateError
from agent.updates.client import Repository
from agent.updates.local import BASE, LocalFetcher
from tests.tuf_repository import TufRepository

STATES = range(1, 6)


def prepare(folder):
    """Five states of one repository, each whole."""
    files = {}
    made = TufRepository(files)
    for number in STATES:
        if number > 1:
            made.add("models/door/stable.json", b"%d" % number)
            made.publish()
        for path, data in files.items():
            target = folder / "stick" / str(number) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    (folder / "anchor.json").write_bytes(made.anchor)


def work(folder, mark):
    """See one state after the other."""
    for number in STATES:
        _refresh(folder, number)
        mark(f"seen {number}")


def recover(folder, mark):
    """The next run of the updater, with the newest state on the stick."""
    _refresh(folder, max(STATES))
    mark(f"seen {max(STATES)}")


def judge(folder, done):
    """What is wrong: an older state is believed, or the newest is not."""
    seen = max((int(words.split()[1]) for words in done), default=0)
    older = folder / "older"
    shutil.copytree(folder / "metadata", older, symlinks=True) if (folder / "metadata").exists() else older.mkdir()
    if seen > 1 and _refresh(folder, seen - 1, older) == "believed":
        return f"{seen} was seen, and {seen - 1} is believed"
    answer = _refresh(folder, max(STATES))
    os.sync()
    return "" if answer == "believed" else f"the newest state is refused: {answer}"


def _refresh(folder, number, metadata=None):
    """Refresh from state `number`; "believed", or why not."""
    anchor = (folder / "anchor.json").read_bytes()
    stick = LocalFetcher(folder / "stick" / str(number))
    try:
        with Repository(metadata or folder / "metadata", BASE, anchor, stick) as repository:
            repository.refresh()
    except UpdateError as exc:
        return f"{exc.reason}: {exc}"
    return "believed"
