"""The commands' journal under power cuts: what was admitted is known, so that no request ever runs twice."""

import os

from agent.journal import Command, Journal, first_bad
from agent.progress import Progress

KEY = b"technici"
REQUESTS = range(1, 21)


def prepare(folder):
    """An empty disk: the journal makes itself."""


def work(folder, mark):
    """Twenty requests, each admitted and then ended."""
    with Journal(folder / "commands.db", "boot") as journal:
        for number in REQUESTS:
            command = _command(number)
            journal.admit(command, {"what": "admit", "id": command.id})
            mark(f"admitted {number}")
            journal.move(command.moved(number, "boot", status="successful"), {"what": "ended"})
            mark(f"ended {number}")


def recover(folder, mark):
    """The next start."""
    with Journal(folder / "commands.db", "boot-2") as journal:
        journal.note(0.0, {"what": "start"})
    mark("started 0")


def judge(folder, done):
    """What is wrong: a request that is forgotten, a counter that went back, an audit trail with a hole."""
    with Journal(folder / "commands.db", "boot-3") as journal:
        if journal.trouble:
            return journal.trouble
        last = max((int(words.split()[1]) for words in done), default=0)
        if journal.counter(KEY) < last:
            return f"{last} was admitted, the counter says {journal.counter(KEY)}"
        for kind, number in (words.split() for words in done):
            row = journal.find(f"r{number}")
            if kind != "started" and (row is None or (kind == "ended" and not row.progress.terminal)):
                return f"{kind} {number} is forgotten"
        bad = first_bad(journal.audit(0, 1000), journal.anchor, [journal.head])
    os.sync()
    return bad


def _command(number):
    progress = Progress(f"r{number}", "update", t_wall_s=float(number))
    return Command(progress, "d" * 64, KEY, "ann", "technician", number, 1, 2, {"model": "door"}, float(number))
