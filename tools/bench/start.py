"""Section `start`: from the start of the process to its first event at a reader, and what an idle agent costs.

First event: `limpet run` looks at a film, its first picture makes a critical event, which is durable, sealed and
published before a reader of the broker has it; the files lie in the page cache, with the byte code that an
installation has. Idle: an agent that watches the
machine's load every five seconds, connected to its broker; CPU and wake-ups of all its threads.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any

from tests.agents import PIPELINES, running, status
from tools.bench.agents import (
    PIPELINE,
    Ground,
    Plan,
    Watched,
    agent,
    configured,
    connected,
    disconnected,
    film_source,
    ground,
)
from tools.bench.detectors import DETECTORS, write
from tools.bench.films import film, first_picture
from tools.bench.processes import cpu_s, memory, wakeups
from tools.bench.run import Run
from tools.bench.spread import spread, words

GOALS = {"first_event_s": 1.0, "idle_cpu_percent": 0.5}
"""At most."""
_SETTLE_S = 5.0
_LIMIT_S = 30.0


def measure(run: Run) -> dict[str, Any]:
    """Seconds to the first event, over some starts; CPU, wake-ups and memory of an idle agent."""
    _keep_byte_code(run.folder / "bytecode")
    moving = film(run)
    write(run.folder / "models", DETECTORS[0], first_picture(moving))
    pipeline = PIPELINE.format(name="looking", source="film", model=DETECTORS[0].name, extra="")
    plan = Plan({"film": Watched(film_source(moving, "realtime"), (pipeline,))}, run.folder / "models")
    with ground(run.folder) as at:
        _started(at, plan)  # fills the page cache
        starts = [_started(at, plan) for _ in range(run.many(5, 1))]
        return {"first_event_s": spread(starts)} | _idle(at, run)


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    return [
        "| what | figure | goal |", "|---|---|---|",
        f"| start to first event at a reader | {words(figures['first_event_s'])} s | {GOALS['first_event_s']:g} s |",
        f"| idle CPU | {figures['idle_cpu_percent']:.2f} % of a core | {GOALS['idle_cpu_percent']:g} % |",
        f"| idle wake-ups | {figures['idle_wakeups_per_s']:.1f} a second | |",
        f"| idle memory, private | {figures['idle_private_mib']:.1f} MiB | |",
    ]  # fmt: skip


def _keep_byte_code(folder: Path) -> None:
    """In `folder`, whatever this process was told: else each start would compile the agent anew."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


def _started(at: Ground, plan: Plan) -> float:
    """Seconds from the start of the process to its first event at a reader."""
    at.count += 1
    folder = at.folder / f"agent-{at.count}"
    folder.mkdir()
    config, came, seen = configured(folder, at, plan), threading.Event(), []
    reader = connected(at.account_of("reader"), f"reader-{at.count}")

    def on_message(*_: object) -> None:
        seen.append(time.perf_counter())
        came.set()

    reader.on_message = on_message
    reader.subscribe("limpet/v1/+/+/e/looking", qos=1)
    time.sleep(0.3)
    start = time.perf_counter()
    with running(config, folder / "log"):
        assert came.wait(_LIMIT_S), f"no event came in {_LIMIT_S:g} s: see {folder}/log"
    disconnected(reader)
    return seen[0] - start


def _idle(at: Ground, run: Run) -> dict[str, float]:
    machine = (PIPELINES / "machine.toml").read_text()
    plan = Plan({"machine": Watched('kind = "load"\ninterval_s = 5.0', (machine,))}, run.folder / "models")
    with agent(at, plan) as one:
        status(one.socket, lambda told: told["uplink"]["connected"])
        time.sleep(run.many(_SETTLE_S, 1))
        cpu, woken, start = cpu_s(one.pid), wakeups(one.pid), time.perf_counter()
        time.sleep(run.many(40, 2))
        spent_s = time.perf_counter() - start
        return {
            "idle_cpu_percent": (cpu_s(one.pid) - cpu) / spent_s * 100,
            "idle_wakeups_per_s": (wakeups(one.pid) - woken) / spent_s,
            "idle_private_mib": memory(one.pid).private_mib, "idle_pss_mib": memory(one.pid).pss_mib,
        }  # fmt: skip
