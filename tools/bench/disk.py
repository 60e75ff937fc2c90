"""Section `disk`: bytes that an event causes to be written, against the two obvious ways of keeping it.

Bytes are what the process caused (/proc/self/io write_bytes), so each way runs in a process of its own; the file
system's journal and the card's own amplification come on top. Bodies have 300 bytes. Routine events at one a second
with T = 30 s run a hundred times as fast: 100 a second with T = 0.3 s, which asks the same of the disk.
"""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.bench import chart
from tools.bench.outboxes import encoded, event, running
from tools.bench.processes import own_pid, written_bytes
from tools.bench.run import ROOT, Run
from tools.bench.spread import spread, words

GOALS = {"routine, one a second": 2900, "critical, in bursts": 900}
"""Most bytes per event."""


def measure(run: Run) -> dict[str, Any]:
    """Bytes per event, per way of keeping it."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for round_ in range(run.many(3, 1)):
        for number, name in enumerate(WAYS):
            folder = run.folder / f"{round_}-{number}"
            folder.mkdir()
            count = run.many(20_000 if "burst" in name else 1500, 100)
            command = [sys.executable, "-m", "tools.bench.disk", name, str(folder), str(count)]
            told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            found[name].append(json.loads(told)["bytes_per_event"])
    return {name: {"bytes_per_event": spread(values)} for name, values in found.items()}


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    made = ["| how events are kept | bytes written per event | goal, at most |", "|---|---|---|"]
    for name, figure in figures.items():
        goal = f"{GOALS[name]:,}" if name in GOALS else ""
        made.append(f"| {name} | {words(figure['bytes_per_event'], 0)} | {goal} |")
    return made


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """Bars."""
    groups: dict[str, list[chart.Bar]] = {"sqlite3, one commit per event": [], "Limpet": []}
    for name, figure in figures.items():
        size = figure["bytes_per_event"]
        theirs = name.startswith("sqlite3")
        label, goal = name.removeprefix("sqlite3, "), GOALS.get(name)
        colour = chart.RED if theirs else chart.BLUE
        text = f"{size['median']:,.0f} B"
        bar = chart.Bar(label, size["median"], text, size["least"], size["most"], goal, colour)
        groups["sqlite3, one commit per event" if theirs else "Limpet"].append(bar)
    unit = "bytes written per event of 300 bytes, as the process caused them; dashed: goal"
    return {"disk.svg": chart.bars("What an event writes to flash", unit, groups)}


def _bare(folder: Path, count: int, journal: str) -> None:
    """The obvious script: its own table, one transaction per event."""
    db = sqlite3.connect(folder / "bare.db")
    db.execute(f"pragma journal_mode = {journal}")
    db.execute("pragma synchronous = full")
    db.execute("create table event (n integer primary key, t real, body blob)")
    for i in range(count):
        db.execute("insert into event (t, body) values (?, ?)", (time.time(), encoded(i)))
        db.commit()
    db.close()


def _one_by_one(folder: Path, count: int) -> None:
    with running(folder) as store:
        for i in range(count):
            assert store.accept(event(i)).wait(30)


def _burst(folder: Path, count: int) -> None:
    with running(folder) as store:
        assert [store.accept(event(i)) for i in range(count)][-1].wait(60)


def _routine(folder: Path, count: int) -> None:
    with running(folder, wait_s=0.3) as store:
        start = time.perf_counter()
        for i in range(count):
            last = store.accept(event(i, "routine"))
            time.sleep(max(0.0, start + i / 100 - time.perf_counter()))
        assert last.wait(30)


WAYS: dict[str, Callable[[Path, int], None]] = {
    "sqlite3, rollback journal": lambda folder, count: _bare(folder, count, "delete"),
    "sqlite3, write-ahead log": lambda folder, count: _bare(folder, count, "wal"),
    "critical, one at a time": _one_by_one,
    "routine, one a second": _routine,
    "critical, in bursts": _burst,
}


def main(name: str, folder: str, count: str) -> None:
    """Keep `count` events in a process of its own; prints what that wrote."""
    before = written_bytes(own_pid())
    WAYS[name](Path(folder), int(count))
    print(json.dumps({"bytes_per_event": (written_bytes(own_pid()) - before) / int(count)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
