"""Section `host`: what a model costs in a process of its own, against the same model in this one.

hand-off: the time of a run beyond that of the same run here, for 150,528 bytes in (a 224x224 RGB picture) and as many
out, back to back and paced. memory: a 100 MB int8 network for four runs at once, as four processes that load it each,
and as one host with four workers. idle: CPU and wake-ups while nobody asks. revival: from a worker's or a host's end to
the next answer, the wait before it left out.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ModelError
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.runtime import Runner
from agent.runtime.remote import RemoteRunner
from agent.settings.runtime import RuntimeOptions
from tests.tiny_models import make_model
from tools.bench.processes import cpu_s, family, memory
from tools.bench.run import ROOT, Run
from tools.bench.spread import percentile
from tools.bench.weights import write_heavy

PICTURE = (1, 224, 224, 3)
CLIENTS = 4
GOAL_US = 100.0
"""Most that a hand-off of a picture may cost, microseconds."""
_APART = RuntimeOptions(isolation="process", workers=CLIENTS)


def measure(run: Run) -> dict[str, Any]:
    """Microseconds, MiB, milliseconds."""
    return {
        "handoff": [_handoff(run, form, pause_s) for form in ("onnx", "tflite") for pause_s in (0.0, 0.01)],
        "memory": [_memory(run, kind, form) for kind in ("dense", "conv") for form in ("onnx", "tflite")],
        "idle": _idle(run),
        "revival": _revival(run),
    }


def lines(figures: dict[str, Any]) -> list[str]:
    """The tables."""
    made = ["| 150 kB there and back | here, us | apart, us | hand-off, us | goal |", "|---|---|---|---|---|"]
    for row in figures["handoff"]:
        name = f"{row['form']}, {'paced' if row['pause_s'] else 'back to back'}"
        figure = f"{row['here_us']:.0f} | {row['apart_us']:.0f} | {row['handoff_us']:.0f}"
        made.append(f"| {name} | {figure} | at most {GOAL_US:.0f} |")
    columns = "PSS each alone, MiB | PSS one host, MiB | private a worker, MiB | here, ms | apart, ms"
    made += ["", f"| 100 MB, {CLIENTS} at once | {columns} |", "|---|---|---|---|---|---|"]
    for row in figures["memory"]:
        pss = f"{row['alone_pss_mib']:.0f} | {row['host_pss_mib']:.0f} | {row['worker_private_mib']:.1f}"
        made.append(f"| {row['kind']}, {row['form']} | {pss} | {row['here_ms']:.1f} | {row['apart_ms']:.1f} |")
    idle, revival = figures["idle"], figures["revival"]
    made += ["", f"Idle for {idle['seconds']:.0f} s: {idle['cpu_s']:.2f} s of CPU, {idle['wakeups']} wake-ups."]
    ends = f"a worker's end {revival['worker_ms']:.0f} ms, a host's {revival['host_ms']:.0f} ms"
    return [*made, f"From {ends} to the next answer, the wait left out."]


def _handoff(run: Run, form: str, pause_s: float) -> dict[str, Any]:
    folder = run.folder / f"copy-{form}-{pause_s}"
    manifest = make_model(folder, "copy", form, dtype="uint8", shape=PICTURE)
    fed = {"x": np.random.default_rng(0).integers(0, 256, PICTURE, np.uint8)}
    runners = {"here": open_model(manifest), "apart": open_model(manifest, _APART)}
    spent: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(run.many(500 if pause_s else 5000, 20)):
        for name, runner in runners.items():
            time.sleep(pause_s)
            spent[name].append(_spent_s(runner, fed))
    for runner in runners.values():
        runner.close()
    figures = {f"{name}_us": percentile(times, 0.5) * 1e6 for name, times in spent.items()}
    p99s = {f"{name}_p99_us": percentile(times, 0.99) * 1e6 for name, times in spent.items()}
    return {"form": form, "pause_s": pause_s, **figures, **p99s, "handoff_us": figures["apart_us"] - figures["here_us"]}


def _spent_s(runner: Runner, fed: dict[str, Any]) -> float:
    begin = time.perf_counter()
    runner.run(fed)
    return time.perf_counter() - begin


def _memory(run: Run, kind: Any, form: Any) -> dict[str, Any]:
    folder = write_heavy(run.folder / f"{kind}-{form}", kind, form, run.many(100, 5))
    rounds = run.many(40, 3)
    alone = [_started(folder, rounds) for _ in range(CLIENTS)]
    for child in alone:
        child.stdout.readline()
    alone_pss_mib = sum(memory(child.pid).pss_mib for child in alone)
    for child in alone:
        child.communicate(b"\n")
    runner = open_model(load_manifest(folder), _APART)
    fed = {port.name: np.zeros(port.shape, port.dtype) for port in runner.inputs}
    assert isinstance(runner, RemoteRunner)
    _occupy(runner, fed)
    top, *workers = family(_pid(runner))
    whole, own = memory(top), [memory(pid).private_mib for pid in workers]
    apart_ms = percentile([_spent_s(runner, fed) for _ in range(rounds)], 0.5) * 1e3
    runner.close()
    here = open_model(load_manifest(folder))
    here_ms = percentile([_spent_s(here, fed) for _ in range(rounds)], 0.5) * 1e3
    here.close()
    return {
        "kind": kind, "form": form, "alone_pss_mib": alone_pss_mib, "host_pss_mib": whole.pss_mib,
        "worker_private_mib": max(own), "here_ms": here_ms, "apart_ms": apart_ms,
    }  # fmt: skip


_CHILD = """
import sys
from pathlib import Path
import numpy as np
from agent.loading import open_model
from agent.manifest import load_manifest
runner = open_model(load_manifest(Path(sys.argv[1])))
fed = {port.name: np.zeros(port.shape, port.dtype) for port in runner.inputs}
for _ in range(int(sys.argv[2])):
    runner.run(fed)
print("ready", flush=True)
sys.stdin.readline()
"""


def _started(folder: Path, rounds: int) -> Any:
    command = [sys.executable, "-c", _CHILD, str(folder), str(rounds)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _occupy(runner: RemoteRunner, fed: dict[str, Any]) -> None:
    """Let every worker run, so that all of them are there."""
    seats = [runner._idle.get() for _ in range(CLIENTS)]
    for seat in seats:
        runner._run(seat, fed)
    for seat in seats:
        runner._idle.put(seat)


def _pid(runner: RemoteRunner) -> int:
    hosting = runner._revival._hosting
    assert hosting is not None
    return hosting.pid


def _idle(run: Run) -> dict[str, Any]:
    runner, fed = _small(run, "idle")
    _occupy(runner, fed)
    members, seconds = list(family(_pid(runner))), run.many(20, 1)
    time.sleep(0.2)
    before = _cost(members)
    time.sleep(seconds)
    after = _cost(members)
    runner.close()
    return {"seconds": seconds, "cpu_s": after[0] - before[0], "wakeups": after[1] - before[1]}


def _small(run: Run, name: str) -> tuple[RemoteRunner, dict[str, Any]]:
    manifest = make_model(run.folder / name, "copy", "tflite", dtype="uint8", shape=PICTURE)
    artifact = manifest.artifacts[0]
    now_s = [0.0]
    runner = RemoteRunner(manifest, artifact, _APART, manifest.folder / artifact.file, mono_s=lambda: _later(now_s))
    return runner, {"x": np.zeros(PICTURE, np.uint8)}


def _later(now_s: list[float]) -> float:
    """A clock on which every wait is over at once: what is measured here is not the wait."""
    now_s[0] += 100.0
    return now_s[0]


def _cost(members: list[int]) -> tuple[float, int]:
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in members]
    switches = sum(int(line.split()[1]) for text in texts for line in text.splitlines() if "ctxt_switches" in line)
    return cpu_s(members[0]), switches


def _revival(run: Run) -> dict[str, float]:
    runner, fed = _small(run, "revival")
    worker_ms, host_ms = [], []
    for _ in range(run.many(15, 2)):
        runner.run(fed)
        worker_ms.append(_again_ms(runner, fed, list(family(_pid(runner)))[1]))
        host_ms.append(_again_ms(runner, fed, _pid(runner)))
    runner.close()
    return {"worker_ms": percentile(worker_ms, 0.5), "host_ms": percentile(host_ms, 0.5)}


def _again_ms(runner: RemoteRunner, fed: dict[str, Any], victim: int) -> float:
    members = list(family(victim))
    os.kill(victim, signal.SIGKILL)
    while any(Path(f"/proc/{pid}/smaps").read_text() for pid in members if Path(f"/proc/{pid}").exists()):
        time.sleep(0.001)
    begin = time.perf_counter()
    while True:
        try:
            runner.run(fed)
        except ModelError:
            continue
        return (time.perf_counter() - begin) * 1e3


