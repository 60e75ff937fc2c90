"""Section `latency`: from a picture to the broker's acknowledgement, at 10 pictures a second, one critical event each.

The agent says how long its events took. In the same seconds this process measures what the way cannot do without: a
flush of a page in a file on the same disk, and a message of the same size to the same broker by paho, TLS and QoS 1.
The floor is inference as the agent counted it, plus flush and round trip, whose sums are drawn from what was measured.
"""

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client

from tools.bench.agents import NO_CACHE, PIPELINE, Agent, Ground, Plan, Watched, agent, connected, disconnected, ground
from tools.bench.detectors import DETECTORS, write
from tools.bench.films import film, first_picture
from tools.bench.run import Run
from tools.bench.spread import percentile

FPS = 10
GOALS = {"p50_beyond_ms": 2.0, "p99_beyond_ms": 5.0, "flushes_per_event": 1.0}
"""At most."""
_PAGE = os.urandom(4096 + 24)
"""A frame of SQLite's write-ahead log."""
_MESSAGE = os.urandom(420)
_SLOW = f"fps = {FPS}\n"


def measure(run: Run) -> dict[str, Any]:
    """Milliseconds at p50 and p99, and flushes per event (None where strace is missing)."""
    moving, one = film(run), DETECTORS[0]
    write(run.folder / "models", one, first_picture(moving))
    pipeline = PIPELINE.format(name="looking", source="film", model=one.name, extra="")
    source = f'kind = "replay"\npath = "{moving}"\nloop = true\n{_SLOW}'
    plan = Plan({"film": Watched(source, (pipeline,))}, run.folder / "models", NO_CACHE)
    with ground(run.folder) as at, agent(at, plan) as running:
        running.until(2 * FPS)
        floors = _floors(at, run.many(35, 3))
        told = running.metrics()
        flushes = _flushes(running, run.many(10, 2))
    return _figures(told, *floors) | {"fps": FPS, "events": len(floors[0]), "flushes_per_event": flushes}


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    rows = [("frame to PUBACK", "delivery"), ("inference (gate to findings)", "inference"), ("flush alone", "flush")]
    rows += [("round trip alone", "round_trip"), ("the three together", "floor"), ("**beyond them**", "beyond")]
    made = ["| at 10 pictures a second | p50 ms | p99 ms |", "|---|---|---|"]
    made += [f"| {words} | {figures[f'p50_{key}_ms']:.2f} | {figures[f'p99_{key}_ms']:.2f} |" for words, key in rows]
    made.append(f"| goal, at most | {GOALS['p50_beyond_ms']:.2f} | {GOALS['p99_beyond_ms']:.2f} |")
    flushes = figures["flushes_per_event"]
    told = "not counted: strace is missing" if flushes is None else f"{flushes:.2f}"
    return [*made, "", f"Flushes (fsync, fdatasync) per event: {told}; goal: 1."]


def _figures(told: dict[str, float], flush_ms: list[float], trip_ms: list[float]) -> dict[str, float]:
    rng = random.Random(20260103)
    made: dict[str, float] = {}
    for quantile, share in (("0.5", 0.5), ("0.99", 0.99)):
        name = "p50" if share == 0.5 else "p99"
        delivery = told[f'limpet_delivery_seconds{{stream="looking",quantile="{quantile}"}}'] * 1e3
        inference = told[f'limpet_result_seconds{{pipeline="looking",quantile="{quantile}"}}'] * 1e3
        sums = [rng.choice(flush_ms) + rng.choice(trip_ms) for _ in range(20_000)]
        floor = inference + percentile(sums, share)
        made |= {
            f"{name}_delivery_ms": delivery, f"{name}_inference_ms": inference,
            f"{name}_flush_ms": percentile(flush_ms, share), f"{name}_round_trip_ms": percentile(trip_ms, share),
            f"{name}_floor_ms": floor, f"{name}_beyond_ms": delivery - floor,
        }  # fmt: skip
    return made


def _floors(at: Ground, seconds: float) -> tuple[list[float], list[float]]:
    """Flushes and round trips, milliseconds each, one after the other, as often as there are pictures."""
    client, acked = connected(at.account, "floor"), threading.Event()
    client.on_publish = lambda *_: acked.set()
    flush_ms, trip_ms = [], []
    descriptor = os.open(at.folder / "flushed", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for number in range(round(seconds * FPS)):
            flush_ms.append(_timed(partial(_flush, descriptor, number % 256)))
            acked.clear()
            trip_ms.append(_timed(partial(_send, client, at, acked)))
            time.sleep(1 / FPS)
    finally:
        os.close(descriptor)
        disconnected(client)
    return flush_ms, trip_ms


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _flush(descriptor: int, page: int) -> None:
    os.pwrite(descriptor, _PAGE, page * len(_PAGE))
    os.fdatasync(descriptor)


def _send(client: Client, at: Ground, acked: threading.Event) -> None:
    client.publish(str(at.account["topic"]), _MESSAGE, qos=1)
    assert acked.wait(10), "the broker does not answer"


def _flushes(running: Agent, seconds: float) -> float | None:
    """Flushes per event while strace looks on."""
    if shutil.which("strace") is None:
        return None
    trace = running.folder / "flushes"
    watch = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(trace), "-p", str(running.pid)]
    with subprocess.Popen(watch, stderr=subprocess.DEVNULL) as child:
        time.sleep(0.5)
        before, start = _events(running), _count(trace)
        time.sleep(seconds)
        after, end = _events(running), _count(trace)
        child.terminate()
    return (end - start) / (after - before)


def _events(running: Agent) -> int:
    return int(running.status()["outbox"]["durable"])


def _count(trace: Path) -> int:
    """Calls begun."""
    lines_ = trace.read_text().splitlines()
    return sum("sync(" in line for line in lines_)
