"""The depot under power cuts: what was committed runs, what was bad stays out, and there is always something to run.

The workload takes ten versions in, one after the other: staged, put, tried, and then committed or rolled back, with the
garbage collected in between. A mark stands for a promise: "committed 3" means that version 3 or a later one runs.
"""

import hashlib
import os
from dataclasses import dataclass

from agent.depot import Pick, Writer, burn_all, collect, folder_of, put, read_state
from agent.depot.objects import wrong_files

VERSIONS = range(1, 11)
SIZE_BYTES = 60_000


@dataclass(frozen=True)
class File:
    """One signed file."""

    path: str
    data: bytes

    @property
    def length(self):
        return len(self.data)

    @property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()


def files(number):
    """What version `number` consists of; the same at every call."""
    return File("model.toml", b"version = %d\n" % number), File("weights.bin", bytes([number]) * SIZE_BYTES)


def package(number):
    """Its package manifest."""
    return b'{"version":"1.0.%d"}' % number


def pick(number):
    """Its place in the record."""
    return Pick(f"1.0.{number}", hashlib.sha256(package(number)).hexdigest())


def prepare(folder):
    """The folders that an installation makes."""
    (folder / "parts").mkdir()
    (folder / "jobs").mkdir()


def work(folder, mark):
    """Ten updates; every third version goes wrong on probation."""
    for number in VERSIONS:
        staged = folder / "parts" / f"staged-{number}"
        staged.mkdir()
        for file in files(number):
            (staged / file.path).write_bytes(file.data)
        put(folder, "door", pick(number), package(number), files(number), staged)
        with Writer(folder) as writer:
            writer.save(writer.state.begin_trial("door", pick(number), tries=3, mode="live", job="j", now_s=0))
        mark(f"tried {number}")
        burn_all(folder)
        with Writer(folder) as writer:
            state, sha256 = writer.state, pick(number).sha256
            bad = number % 3 == 0
            writer.save(state.roll_back("door", sha256, "bad") if bad else state.commit("door", sha256))
        mark(f"{'refused' if bad else 'committed'} {number}")
        collect(folder)


def recover(folder, mark):
    """What happens before every start of the agent, and the next time that the updater runs."""
    burn_all(folder)
    mark("burnt")
    collect(folder)


def judge(folder, done):
    """What is wrong after a cut."""
    state = burn_all(folder)
    model = state.model("door")
    ended = [(kind, int(n)) for kind, n in (words.split() for words in done) if kind != "tried"]
    committed = max((n for kind, n in ended if kind == "committed"), default=0)
    if state.damaged:
        return state.damaged
    if committed and (model.active is None or _number(model.active) < committed):
        return f"{committed} was committed, {model.active} is active"
    for one in model.kept:
        if words := wrong_files(folder_of(folder, "door", one), files(_number(one)), package(_number(one))):
            return f"{one}: {words}"
    for kind, n in ended:
        if kind == "refused" and not model.is_bad(pick(n)):
            return f"{n} was bad, and the record has forgotten it"
    collect(folder)
    os.sync()
    return "" if read_state(folder).model("door") == model else "the record changes by being read"


def _number(one):
    return int(one.version.rpartition(".")[2])
