"""Plays power cuts: a workload on a logged disk, then the disk as it was at any moment, recovered and judged.

    unshare --mount --propagation private python -m tests.power CASE CUTS [--unsynced]

CASE is a module with `prepare(folder)`, `work(folder, mark)` and `judge(folder, done)`: `work` calls `mark(words)` when
a promise stands, `judge` recovers what it finds and returns what is wrong, "" for nothing, given the marks before the
cut. Every second cut is followed by another one in the middle of the recovery. `--unsynced` makes every fsync of the
workload a lie: a judge that does not complain then judges nothing. Prints one JSON object.
"""

import argparse
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.block_log import BlockLog, Flush, FuseDisk, Mark, Mounted, Written, formatted

DISK_BYTES = 12 << 20
LIE = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "inject=fsync,fdatasync,sync_file_range,msync:retval=0"]


def play(case, cuts, seed, *, unsynced=False):
    """Run `case` once and cut its power `cuts` times; returns the counts and the first complaints."""
    rng = random.Random(seed)
    module = importlib.import_module(case)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # the host's own flushes would only cost time
    with tempfile.TemporaryDirectory(prefix="limpet-power-", dir=memory) as name:
        place = Path(name)
        log = _record(place, case, module, unsynced)
        wrong, twice = [], 0
        for number in range(cuts):
            count = _moment(log, rng)
            image = log.after(count, lambda _n: rng.random() < 0.5)
            done = [event.words for event in log.events[:count] if isinstance(event, Mark)]
            if number % 2:
                image, twice = _cut_recovery(place, image, case, rng), twice + 1
            if words := _judged(place, image, module, done):
                wrong.append(f"cut at {count} after {done[-1:]}: {words}")
        kinds = {kind.__name__.lower(): sum(isinstance(e, kind) for e in log.events) for kind in (Written, Flush, Mark)}
    return {"cuts": cuts, "twice": twice, "lost": len(wrong), "log": kinds, "wrong": wrong[:10]}


def _moment(log, rng):
    """A cut between two events: half of them just before a flush, where most is at stake."""
    flushes = [n for n, event in enumerate(log.events) if isinstance(event, Flush)]
    return rng.choice(flushes) if flushes and rng.random() < 0.5 else rng.randrange(len(log.events) + 1)


def _record(place, case, module, unsynced):
    log = BlockLog(formatted(place / "empty.img", DISK_BYTES))
    with FuseDisk(log, place / "fuse") as disk, Mounted(disk.path, place / "live") as folder:
        module.prepare(folder)
        os.sync()
        log.start()
        _drive(log, case, "work", folder, unsynced=unsynced)
    return log


def _cut_recovery(place, image, case, rng):
    """Recover on a logged disk, and cut the power again before that is over."""
    log = BlockLog(image)
    with FuseDisk(log, place / "fuse") as disk, Mounted(disk.path, place / "live") as folder:
        log.start()
        _drive(log, case, "recover", folder)
        count = _moment(log, rng)
    return log.after(count, lambda _n: rng.random() < 0.5)


def _drive(log, case, function, folder, *, unsynced=False):
    """Run a function of the case in a process of its own: a page fault on our disk must not wait for us.

    Each mark waits until it stands in the log, so that it comes before whatever is written next.
    """
    command = [*(LIE if unsynced else ()), sys.executable, "-m", "tests.power", "--drive", case, function, folder]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        log.events.append(Mark(line.rstrip("\n")))
        child.stdin.write("\n")
        child.stdin.flush()
    if child.wait():
        raise RuntimeError(f"{case}.{function} failed with {child.returncode}")


def _mark(words):
    print(words, flush=True)
    sys.stdin.readline()


def _judged(place, image, module, done):
    (place / "cut.img").write_bytes(image)
    with Mounted(place / "cut.img", place / "after") as folder:
        return module.judge(folder, done)


def main():
    """One case from the command line."""
    if sys.argv[1:2] == ["--drive"]:
        case, function, folder = sys.argv[2:]
        return getattr(importlib.import_module(case), function)(Path(folder), _mark)
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("cuts", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unsynced", action="store_true")
    args = parser.parse_args()
    return print(json.dumps(play(args.case, args.cuts, args.seed, unsynced=args.unsynced)))


if __name__ == "__main__":
    main()
