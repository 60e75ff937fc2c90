"""Runs a floor or the agent once, and several of them in turns; used by the sections that compare.

What is compared is CPU per 1,000 views, of all threads and children.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.bench.agents import Ground, Plan, Watched, agent, spent
from tools.bench.floors import WARM
from tools.bench.run import ROOT
from tools.bench.spread import interleaved, ratios, spread

Contenders = dict[str, Callable[[], dict[str, float]]]
"""Name -> one run, which tells `cpu_s` and `frames`; one of them is called "bare"."""


def compared(rounds: int, contenders: Contenders) -> dict[str, Any]:
    """CPU seconds per 1,000 views, and over the bare loop's of the same round."""
    found = interleaved(contenders, rounds)
    cost = {who: [one["cpu_s"] / one["frames"] * 1000 for one in all_] for who, all_ in found.items()}
    return {
        who: {"cpu_s_per_1000": spread(values), "ratio": ratios(values, cost["bare"])} for who, values in cost.items()
    }


def floor(module: str, *words: str) -> dict[str, float]:
    """One run of a floor as a process of its own."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    told: dict[str, float] = json.loads(done.stdout)
    return told


def limpet(at: Ground, pipeline: str, models: Path, source: str, views: int, extra: str) -> dict[str, float]:
    """One run of the agent with one pipeline on one source; `extra`: more of limpet.toml."""
    with agent(at, Plan({"film": Watched(source, (pipeline,))}, models, extra)) as one:
        return spent(one, WARM, views)
