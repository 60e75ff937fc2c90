"""A model's life in the depot, as a process of its own that a test can kill at any step.

    python tests/depot_life.py FOLDER commit|roll_back|burn      a new version is put in, tried, and ends so

It tells each promise that is kept from then on, by one line on standard output. Run again after a kill, it goes on.
"""

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from agent.depot import Pick, Writer, burn_all, collect, folder_of, put, read_state, whole

NAME = "door"
OLD, NEW = 1, 2


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
    """What a version consists of."""
    return File("model.toml", b"version = %d\n" % number), File("golden/weights.bin", bytes([number]) * 5000)


def package(number):
    """Its package manifest."""
    return b'{"version":"1.%d.0"}' % number


def pick(number):
    """Its place in the record."""
    return Pick(f"1.{number}.0", hashlib.sha256(package(number)).hexdigest())


def stage(folder, number):
    """As a download leaves it."""
    staged = folder / "parts" / f"stage-{number}"
    for file in files(number):
        (staged / file.path).parent.mkdir(parents=True, exist_ok=True)
        (staged / file.path).write_bytes(file.data)
    return staged


def bring(folder, number):
    """Put a version in."""
    staged = stage(folder, number)
    put(folder, NAME, pick(number), package(number), files(number), staged)
    shutil.rmtree(staged, ignore_errors=True)  # it was there already


def try_out(folder, number):
    """Put it on probation, unless it is there already or proved bad."""
    with Writer(folder) as writer:
        model = writer.state.model(NAME)
        if model.trial or model.active == pick(number) or model.is_bad(pick(number)):
            return
        writer.save(writer.state.begin_trial(NAME, pick(number), tries=2, mode="live", job="j", now_s=0.0))


def end(folder, number, how):
    """Commit it, roll it back, or let it use up its tries."""
    if how == "burn":
        while burn_all(folder).model(NAME).trial:
            pass
        return
    with Writer(folder) as writer:
        if writer.state.model(NAME).trial:
            state, sha256 = writer.state, pick(number).sha256
            writer.save(state.commit(NAME, sha256) if how == "commit" else state.roll_back(NAME, sha256, "bad"))


def prepare(folder):
    """An older version is committed; another old one has to be removed."""
    for number in (0, OLD):
        bring(folder, number)
        try_out(folder, number)
        end(folder, number, "commit")
    with Writer(folder) as writer:
        writer.save(writer.state.go_back(NAME, "for the test").activate(NAME, pick(OLD)))


def wrong(folder, promises, how):
    """What a device would have lost after a kill; empty when nothing is."""
    state = read_state(folder)
    model = state.model(NAME)
    if state.damaged:
        return state.damaged
    for number in (0, OLD, NEW):
        if pick(number) in model.kept and not whole(folder_of(folder, NAME, pick(number)), files(number)):
            return f"{pick(number)} is in the record and not whole on the disk"
    allowed = {pick(OLD), pick(NEW)} if how == "commit" else {pick(OLD)}
    if model.active not in allowed:
        return f"{model.active} is active"
    if "ended" in promises:
        good = model.active == pick(NEW) if how == "commit" else bool(model.is_bad(pick(NEW)))
        return "" if good and not model.trial else f"what had ended is undone: {model}"
    if "tried" in promises and not (model.trial or model.active == pick(NEW) or model.is_bad(pick(NEW))):
        return f"the trial is forgotten: {model}"
    return ""


def main(folder, how):
    """One life."""
    bring(folder, NEW)
    os.write(1, b"put\n")
    try_out(folder, NEW)
    os.write(1, b"tried\n")
    end(folder, NEW, how)
    os.write(1, b"ended\n")
    collect(folder)
    os.write(1, b"collected\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
