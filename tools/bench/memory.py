"""Memory: what each import and the agent take, and what a large model takes, plain and from prepared files.

Models of 100 MB made here (dense and convolutional, int8, ONNX and TFLite), in one and in four processes; a change from
one model to the next; a model of 200 MB in a group of processes that may have 512 MiB, page cache included. Private
memory are the pages that belong to no file ("Anonymous" in /proc/PID/smaps_rollup): without swap the kernel cannot take
them back. Memory in MiB (2^20 bytes), as /proc says it; files in MB (10^6).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.manifest import Manifest, load_manifest
from agent.prepared import prepare
from agent.prepared.weighing import memory as rollup
from agent.prepared.weighing import weigh
from agent.runtime.prepared import Place
from tests.limits import NoLimitError, memory_group
from tools.bench.agents import Ground, Plan, Watched, agent, film_source, ground
from tools.bench.chart import Bar, bars
from tools.bench.run import ROOT, Run
from tools.bench.weights import Format, Kind, write_heavy

MIB = 1 << 20
GOALS = {"camera, ONNX Runtime": 80.0, "sensor, LiteRT": 45.0}
"""Most private memory of the agent, MiB."""
KINDS: tuple[tuple[Kind, Format], ...] = (("dense", "onnx"), ("dense", "tflite"), ("conv", "onnx"), ("conv", "tflite"))
IMPORTS = {
    "python": "pass", "numpy": "import numpy", "cv2": "import cv2", "onnxruntime": "import onnxruntime",
    "LiteRT": "import ai_edge_litert.interpreter", "cryptography": "import cryptography.x509",
    "paho-mqtt": "import paho.mqtt.client", "agent, nothing configured": "import agent.app.app",
}  # fmt: skip
"""Each alone in a fresh interpreter; what it brings along counts too."""
_LIMIT_BYTES = 512 << 20


def measure(run: Run) -> dict[str, Any]:
    """All of it; about five minutes, with --quick one."""
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # as limpet.service has it
    size_mb = 20.0 if run.quick else 100.0
    imports = {name: _imported(line) for name, line in IMPORTS.items()}
    agents = dict(_agents(run))
    models = {f"{kind} {form}": _model(run, kind, form, size_mb) for kind, form in KINDS}
    swaps = {f"{kind} {form}": _swap(run, kind, form, size_mb) for kind, form in KINDS}
    return {
        "size_mb": size_mb, "imports_mib": imports, "agents": agents, "goals_mib": GOALS, "models": models,
        "swaps": swaps, "limited": _limited(run, 2 * size_mb),
    }  # fmt: skip


def lines(figures: dict[str, Any]) -> list[str]:
    """Tables."""
    return [
        *_table(("import", "private MiB", "PSS MiB"), (
            (name, f"{one['private_mib']:.1f}", f"{one['pss_mib']:.1f}") for name, one in figures["imports_mib"].items()
        )), "",
        *_table(("agent", "private MiB", "at most", "PSS MiB", "clean file pages MiB", "threads"), (
            (name, f"{one['private_mib']:.1f}", f"{figures['goals_mib'].get(name, '')}", f"{one['pss_mib']:.1f}",
             f"{one['clean_mib']:.1f}", str(one["threads"])) for name, one in figures["agents"].items()
        )), "",
        *_table(("model", "weights", "processes", "PSS MiB", "private MiB each", "peak MiB", "load ms", "run ms"), (
            (name, one["way"], str(one["processes"]), f"{one['pss_bytes'] / MIB:.1f}",
             f"{one['private_bytes'] / MIB:.1f}", f"{one['peak_bytes'] / MIB:.1f}", f"{one['load_ms']:.0f}",
             f"{one['run_ms']:.2f}") for name, rows in figures["models"].items() for one in rows
        )), "",
        *_table(("change of models", "weights", "current MiB", "peak MiB", "beyond the current, of the file"), (
            (name, one["way"], f"{one['alone_bytes'] / MIB:.1f}", f"{one['peak_bytes'] / MIB:.1f}",
             f"{one['beyond_of_file']:.2f}") for name, rows in figures["swaps"].items() for one in rows
        )), "",
        *_limited_lines(figures["limited"]),
    ]  # fmt: skip


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """Private memory of agents, and of models plain and mapped."""
    parts = {"agent": [
        Bar(name, one["private_mib"], f"{one['private_mib']:.1f} MiB", goal=figures["goals_mib"].get(name))
        for name, one in figures["agents"].items()
    ]}  # fmt: skip
    for name, rows in figures["models"].items():
        alone = [one for one in rows if one["processes"] == 1]
        parts[f"{name}, {figures['size_mb']:g} MB"] = [
            Bar(one["way"], one["private_bytes"] / MIB, f"{one['private_bytes'] / MIB:.1f} MiB") for one in alone
        ]
    return {"memory.svg": bars("Private memory", "MiB of pages that belong to no file; the mark is the goal", parts)}


# --- imports and agents -------------------------------------------------------------------------------------------


def _imported(line: str) -> dict[str, float]:
    program = f"{line}\nprint(flush=True)\ninput()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        child.stdout.readline()
        sizes = rollup(child.pid)
        child.communicate("\n")
    return {"private_mib": sizes["Anonymous"] / MIB, "pss_mib": sizes["Pss"] / MIB}


def _agents(run: Run) -> Iterator[tuple[str, dict[str, float]]]:
    """The whole agent, connected to a broker, with a source, a model and events."""
    with ground(_made(run.folder / "ground")) as at:
        camera = film_source(ROOT / "models" / "digits" / "demo.mp4", "realtime")
        for runtime, words in (("onnxruntime", "camera, ONNX Runtime"), ("litert", "camera, LiteRT")):
            text = (ROOT / "pipelines" / "meter.toml").read_text() + f'[model.runtime]\nprefer = ["{runtime}"]\n'
            yield words, _agent(run, at, Plan({"camera": Watched(camera, (_moved(text),))}, ROOT / "models"))
        rows = run.folder / "rows.csv"
        rows.write_text("value\n" + "".join(f"{n % 17}\n" for n in range(3000)))
        for form, words in (("onnx", "sensor, ONNX Runtime"), ("tflite", "sensor, LiteRT")):
            models = _sensor_model(run.folder / form, form)
            table = f'kind = "replay"\npath = "{rows}"\nrows_hz = 100\nloop = true'
            yield words, _agent(run, at, Plan({"machine": Watched(table, (_SENSOR,))}, models))


_SENSOR = """schema = 1
name = "sensor"
source = "machine"
[model]
name = "sensor"
[[rule]]
kind = "every"
period_s = 1.0
"""


def _moved(text: str) -> str:
    """The table [model.runtime] right behind [model], where TOML wants it."""
    body, _, runtime = text.rpartition("[model.runtime]\n")
    head, model, rest = body.partition('[model]\nname = "digits"\n')
    return f"{head}{model}[model.runtime]\n{runtime}{rest}"


def _sensor_model(folder: Path, form: Format) -> Path:
    """A dense model of 16 values that looks at a running window; returns the folder of models."""
    made = write_heavy(folder / "sensor", "dense", form, 0.0003)
    text = (made / "model.toml").read_text().replace('"heavy-dense"', '"sensor"').replace('"tensor"', '"series"')
    window = '[window]\nstep = "running_rows"\nlength = 16\n[decoder]\nstep = "reconstruction"\nthreshold = 1e9\n'
    (made / "model.toml").write_text(text.replace("[[artifact]]", window + "[[artifact]]"))
    return folder


def _agent(run: Run, at: Ground, plan: Plan) -> dict[str, float]:
    with agent(at, plan) as one:
        one.until(20)
        time.sleep(run.many(20, 2))
        sizes, looked = rollup(one.pid), one.looked()
        threads = len(list(Path(f"/proc/{one.pid}/task").iterdir()))
    return {
        "private_mib": sizes["Anonymous"] / MIB, "clean_mib": sizes["Private_Clean"] / MIB,
        "pss_mib": sizes["Pss"] / MIB, "rss_mib": sizes["Rss"] / MIB, "threads": threads, "views": looked,
    }  # fmt: skip


# --- models -------------------------------------------------------------------------------------------------------


def _model(run: Run, kind: Kind, form: Format, size_mb: float) -> list[dict[str, Any]]:
    manifest, place = _prepared(run, kind, form, size_mb, "one")
    return [
        {"processes": processes, **asdict(weigh(manifest, manifest.artifacts[0], where, processes))}
        for processes in (1, 4) for where in (None, place)
    ]  # fmt: skip


def _prepared(run: Run, kind: Kind, form: Format, size_mb: float, name: str) -> tuple[Manifest, Place]:
    """A model with its prepared files; made once."""
    home, place = run.folder / f"{kind}-{form}-{size_mb:g}", Place(run.folder / "prepared", 1_000_000, 1 << 40)
    folder = home / name
    if not folder.is_dir():
        write_heavy(folder, kind, form, size_mb, seed=len(name))
    manifest = load_manifest(folder)
    done = prepare(manifest, manifest.artifacts[0], place)
    if done.state == "refused":
        raise RuntimeError(f"{folder}: it cannot be prepared: {done.reason}")
    return manifest, place


def _swap(run: Run, kind: Kind, form: Format, size_mb: float) -> list[dict[str, Any]]:
    _prepared(run, kind, form, size_mb, "one")
    manifest, place = _prepared(run, kind, form, size_mb, "two")
    file_bytes = (manifest.folder / manifest.artifacts[0].file).stat().st_size
    told = [_told(run, manifest, where, subprocess.run) for where in ("", str(place.folder))]
    return [one | {"beyond_of_file": (one["peak_bytes"] - one["alone_bytes"]) / file_bytes} for one in told]


def _limited(run: Run, size_mb: float) -> dict[str, Any]:
    """A model of `size_mb` with 512 MiB for everything, and without a limit."""
    found: dict[str, Any] = {"size_mb": size_mb, "limit_mib": _LIMIT_BYTES / MIB, "rows": []}
    for kind, form in KINDS[:2]:
        manifest, place = _prepared(run, kind, form, size_mb, "one")
        found["rows"].append({"model": f"{kind} {form}", "limit": False, **_told(run, manifest, str(place.folder))})
        try:
            with memory_group(_LIMIT_BYTES) as group:
                told = _told(run, manifest, str(place.folder), group.run)
                more = {"limit": True, "group_peak_mib": group.peak_bytes / MIB, "killed": group.killed}
        except NoLimitError as exc:
            found["reason"] = str(exc)
            break
        found["rows"].append({"model": f"{kind} {form}", **more, **told})
    return found


def _told(run: Run, manifest: Manifest, prepared: str, start: Any = subprocess.run) -> dict[str, Any]:
    runtime, runs = manifest.artifacts[0].runs_on, str(run.many(20, 3))
    command = [sys.executable, "-m", "tools.bench.swap", manifest.folder.parent, prepared, runtime, runs]
    done = start(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{manifest.folder}: {done.stderr[-1000:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _limited_lines(figures: dict[str, Any]) -> list[str]:
    if "reason" in figures:
        return [f"Under a limit: not measured here: {figures['reason']}"]
    head = (f"{figures['size_mb']:g} MB model", "limit", "private MiB", "run ms", "major faults", "ended by the kernel")
    return _table(head, (
        (one["model"], f"{figures['limit_mib']:.0f} MiB" if one["limit"] else "none",
         f"{one['alone_bytes'] / MIB:.1f}", f"{one['run_ms']:.2f}", f"{one['major_faults']:.0f}",
         str(one.get("killed", ""))) for one in figures["rows"]
    ))  # fmt: skip


def _table(head: tuple[str, ...], rows: Any) -> list[str]:
    text = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    return [*text, *(f"| {' | '.join(row)} |" for row in rows)]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
