"""Section `backlog`: what a long outage costs when the agent starts again: opening, the first batch, memory, disk.

Each size runs in a process of its own, so that its memory is its own; what filled the outbox was another process.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools.bench import chart
from tools.bench.outboxes import event, opened, running
from tools.bench.processes import memory, own_pid
from tools.bench.run import ROOT, Run

SIZES = (1000, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (100, 1000)
BATCH_EVENTS = 500
_HELD = 20_000
"""Events that may pend in memory while the outbox is filled."""


def measure(run: Run) -> dict[str, Any]:
    """Per number of events: milliseconds, MiB, bytes."""
    found = {}
    for count in QUICK_SIZES if run.quick else SIZES:
        folder = run.folder / str(count)
        _child("fill", folder, count)
        size = sum(path.stat().st_size for path in folder.glob("outbox.db*"))
        found[str(count)] = json.loads(_child("look", folder, count)) | {"disk_bytes_per_event": size / count}
    return found


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    made = ["| events waiting | open | first 500 | read all | memory for it | on disk |", "|---|---|---|---|---|---|"]
    for count, told in figures.items():
        cells = (
            f"{int(count):,}", f"{told['open_ms']:.0f} ms", f"{told['first_ms']:.0f} ms", f"{told['all_s']:.2f} s",
            f"{told['memory_mib']:.1f} MiB", f"{told['disk_bytes_per_event']:.0f} B each",
        )  # fmt: skip
        made.append(f"| {' | '.join(cells)} |")
    return made


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """Lines over the number of events."""
    keys = {"open, ms": "open_ms", "first 500, ms": "first_ms", "memory, MiB": "memory_mib"}
    series = {words: [(int(n), max(told[key], 0.1)) for n, told in figures.items()] for words, key in keys.items()}
    title = "Starting again with a backlog"
    return {"backlog.svg": chart.lines(title, "events waiting", "logarithmic", series, log_x=True, log_y=True)}


def _child(what: str, folder: Path, count: int) -> str:
    command = [sys.executable, "-m", "tools.bench.backlog", what, str(folder), str(count)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _fill(folder: Path, count: int) -> None:
    with running(folder) as store:
        for i in range(count):
            last = store.accept(event(i))
            if i % 5000 == 0:
                while store.stats()["pending"] > _HELD:
                    time.sleep(0.005)
        assert last.wait(60)


def _look(folder: Path, count: int) -> dict[str, float]:
    before, start = memory(own_pid()).private_mib, time.perf_counter()
    with opened(folder) as store:
        open_s = time.perf_counter() - start
        entries = store.take(0, BATCH_EVENTS)
        first_s = time.perf_counter() - start
        read, most = 0, memory(own_pid()).private_mib
        while entries:
            read += len(entries)
            most = max(most, memory(own_pid()).private_mib) if read % 50_000 == 0 else most
            entries = store.take(entries[-1].n, BATCH_EVENTS)
        all_s = time.perf_counter() - start
    assert read == count, f"{read} of {count} events came back"
    return {"open_ms": open_s * 1e3, "first_ms": first_s * 1e3, "all_s": all_s, "memory_mib": most - before}


if __name__ == "__main__":
    task, where, size = sys.argv[1:]
    if task == "fill":
        _fill(Path(where), int(size))
    else:
        print(json.dumps(_look(Path(where), int(size))))
