"""Section `flush`: does a slow card hold up the cameras? Two agents watch the same film at 10 pictures per second, an
event per picture, at the same time: one writes to memory, one to a disk each of whose flushes takes 200 ms longer and
which stands still for 5 s in each minute (slow_flush.c, compiled here, loaded before the C library).
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.bench import chart
from tools.bench.agents import NO_CACHE, PIPELINE, Agent, Ground, Plan, Watched, agent, ground
from tools.bench.detectors import DETECTORS, write
from tools.bench.films import film, first_picture
from tools.bench.run import Run

FPS = 10
FLUSH_MS, STALL_S, EVERY_S = 200, 5, 60
WITHIN = 0.01
"""Goal: most difference of the two rates."""


def measure(run: Run) -> dict[str, Any]:
    """Pictures, events and losses of both agents over the same seconds."""
    if shutil.which("cc") is None:
        return {"skipped": "there is no C compiler to make slow_flush.c with"}
    library = run.folder / "slow_flush.so"
    source = Path(__file__).with_name("slow_flush.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    shown, one = film(run), DETECTORS[0]
    write(run.folder / "models", one, first_picture(shown))
    source_table = f'kind = "replay"\npath = "{shown}"\nfps = {FPS}\nloop = true'
    pipeline = PIPELINE.format(name="looking", source="film", model=one.name, extra="")
    plan = Plan({"film": Watched(source_table, (pipeline,))}, run.folder / "models", NO_CACHE)
    with contextlib.ExitStack() as stack:
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limpet-bench-", dir="/dev/shm")))
        at = {"memory": stack.enter_context(ground(memory)), "slow": stack.enter_context(ground(run.folder / "slow"))}
        agents = {"memory": stack.enter_context(agent(at["memory"], plan))}
        agents["slow"] = stack.enter_context(_slow_agent(at["slow"], plan, library))
        return _watched(agents, run.many(EVERY_S + 20, 5))


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    if "skipped" in figures:
        return [f"left out: {figures['skipped']}"]
    made = ["| outbox on | pictures/s | events durable | evicted | most pending |", "|---|---|---|---|---|"]
    for name, words in (("memory", "memory"), ("slow", f"{FLUSH_MS} ms a flush, {STALL_S} s a minute")):
        told = figures[name]
        cells = (words, f"{told['pictures_per_s']:.3f}", told["durable"], told["evicted"], told["most_pending"])
        made.append(f"| {' | '.join(map(str, cells))} |")
    return [*made, "", f"Rates differ by {figures['difference'] * 100:.2f} %; goal: at most {WITHIN * 100:.0f} %."]


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """How many events wait for the disk, over time."""
    if "skipped" in figures:
        return {}
    series = {f"{name}: pending events": figures[name]["pending"] for name in ("memory", "slow")}
    series |= {f"{name}: pictures, tens": figures[name]["pictures"] for name in ("memory", "slow")}
    title = "A card that stalls holds up nothing"
    return {"flush.svg": chart.lines(title, "seconds", "pending events, and pictures looked at in tens", series)}


@contextlib.contextmanager
def _slow_agent(at: Ground, plan: Plan, library: Path) -> Iterator[Agent]:
    slow = {
        "LD_PRELOAD": str(library), "LIMPET_FLUSH_MS": str(FLUSH_MS), "LIMPET_STALL_S": str(STALL_S),
        "LIMPET_EVERY_S": str(EVERY_S),
    }  # fmt: skip
    os.environ.update(slow)
    with agent(at, plan) as made:
        for name in slow:
            del os.environ[name]
        yield made


def _watched(agents: dict[str, Agent], seconds: int) -> dict[str, Any]:
    for one in agents.values():
        one.until(2 * FPS)
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in agents}
    for _ in range(seconds + 1):
        for name, one in agents.items():
            told = one.status()
            looked = told["pipelines"]["looking"]
            seen[name].append({"t_s": time.perf_counter(), "pictures": looked["results"], **told["outbox"]})
        time.sleep(1.0)
    figures: dict[str, Any] = {name: _told(samples) for name, samples in seen.items()}
    slow, memory = figures["slow"]["pictures_per_s"], figures["memory"]["pictures_per_s"]
    return {"seconds": seconds, "difference": abs(slow / memory - 1), **figures}


def _told(samples: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = samples[0], samples[-1]
    return {
        "pictures_per_s": (last["pictures"] - first["pictures"]) / (last["t_s"] - first["t_s"]),
        "durable": last["durable"] - first["durable"], "evicted": last["evicted"],
        "most_pending": max(sample["pending"] for sample in samples),
        "pending": [(round(s["t_s"] - first["t_s"], 1), s["pending"]) for s in samples],
        "pictures": [(round(s["t_s"] - first["t_s"], 1), (s["pictures"] - first["pictures"]) / 10) for s in samples],
    }  # fmt: skip
