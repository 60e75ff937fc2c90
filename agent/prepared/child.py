"""The child that prepares a model, or measures it: `python -P -m agent.prepared.child TASK`.

A model is data that native code parses, and what is tried here may crash. It tells by one line of JSON on what was its
standard output: the figures, or {"why": ...}. The steps are those of `agent.prepared.task`.
"""

import json
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.errors import LimpetError, ModelError
from agent.golden import read_npz, selftest
from agent.loading import ENCRYPTED, in_memory
from agent.manifest import Artifact, Input, Manifest, load_manifest
from agent.modelchild import teller
from agent.prepared.task import Task
from agent.process import private_bytes
from agent.records import Array
from agent.registry import verified
from agent.runtime import Prepared, Runner, open_runner, preload
from agent.runtime.prepared import CACHE, RECIPES, files_of
from agent.settings.runtime import RuntimeOptions

OUTPUTS: Final = "outputs.npz"
"""What the plain load answered, in the folder of the files."""
INPUTS: Final = 6
"""Random inputs beside the golden ones; the last is the first once more, which tells whether a run leaves traces."""
MIN_RUNS: Final = 8
MAX_RUNS: Final = 400
"""Timed runs: at least and at most so many."""
_SAMPLE_S: Final = 0.001


def main(task: Task) -> None:
    """Do the step and tell."""
    tell = teller()
    if task.memory_bytes:  # whoever has a limit over all its processes must not be ended by this one
        resource.setrlimit(resource.RLIMIT_DATA, (task.memory_bytes, task.memory_bytes))
    try:
        figures = _done(task)
    except LimpetError as exc:
        figures = {"why": str(exc)}
    except OSError as exc:
        figures = {"why": f"{exc.filename or task.into}: {exc.strerror}"}
    except MemoryError:
        figures = {"why": f"preparing it takes more than {task.memory_bytes / 1e6:g} MB of memory"}
    tell(**figures)


def _done(task: Task) -> dict[str, Any]:
    manifest = load_manifest(Path(task.model))
    artifact = next(one for one in manifest.artifacts if one.file == task.file)
    root = Path(task.root) if task.root else None
    into = Path(task.into)
    with verified(manifest, artifact, root, task.limit_bytes) as path:
        if in_memory(path):
            raise ModelError(ENCRYPTED)
        if task.step == "save":
            return _saved(manifest, artifact, path, into)
        prepared = files_of(artifact.runs_on, into) if task.step == "prepared" else None
        return _measured(manifest, artifact, path, into, prepared, task.run_s)


def _saved(manifest: Manifest, artifact: Artifact, path: Path, into: Path) -> dict[str, Any]:
    if artifact.runs_on == "litert":
        from agent.runtime.litecompiled import CompiledRunner

        CompiledRunner(manifest, artifact, RuntimeOptions(), path, into / CACHE).close()
    else:
        from agent.runtime.ort import save_prepared

        save_prepared(path, into, f"{manifest} ({artifact.file})")
    missing = [name for name, file in files_of(artifact.runs_on, into).files.items() if not file.is_file()]
    if missing:
        raise ModelError(f"{manifest} ({artifact.file}): the runtime has written no {', '.join(missing)}")
    return {"recipe": RECIPES[artifact.runs_on]}


def _measured(
    manifest: Manifest, artifact: Artifact, path: Path, into: Path, prepared: Prepared | None, run_s: float
) -> dict[str, Any]:
    preload(artifact.runs_on)
    before_bytes = private_bytes()  # without what the packages take by themselves
    begin_s = time.perf_counter()
    with peak() as seen:
        runner = open_runner(manifest, artifact, RuntimeOptions(), path, prepared=prepared)
        load_ms = (time.perf_counter() - begin_s) * 1e3
    inputs = list(_inputs(manifest, runner))
    outputs = [runner.run(one) for one in inputs]
    if prepared is None:
        _keep(into, outputs)
    else:
        _compare(manifest, into, outputs)
        _refuse_wrong_goldens(manifest, runner)
    run_ms = _pace_ms(runner, inputs[0], run_s)
    taken_bytes, peak_bytes = private_bytes() - before_bytes, max(seen) - before_bytes
    return {
        "load_ms": load_ms, "run_ms": run_ms, "private_bytes": taken_bytes, "peak_bytes": max(peak_bytes, taken_bytes),
    }  # fmt: skip


def _inputs(manifest: Manifest, runner: Runner) -> Iterator[dict[str, Array]]:
    """Raw tensors for every port: golden ones as far as they are npz, then random ones."""
    feeds = {port.name for port in manifest.feeds}
    first = random_inputs(runner)
    yield first
    for golden in manifest.goldens:
        if golden.input.endswith(".npz"):
            given = read_npz(manifest.folder / golden.input)
            yield first | {name: array for name, array in given.items() if name in feeds}
    for seed in range(1, INPUTS):
        yield random_inputs(runner, seed)
    yield first


def random_inputs(runner: Runner, seed: int = 0) -> dict[str, Array]:
    """Raw tensors over the whole range of each port; constants, and zeros for what may be an index."""
    rng = np.random.default_rng(seed)
    return {port.name: _random(port, rng) for port in runner.inputs}


def _random(port: Input, rng: np.random.Generator) -> Array:
    kind = np.dtype(port.dtype)
    if port.value is not None:
        return np.full(port.shape, port.value, kind)
    if kind.kind == "f":
        return rng.uniform(-1.0, 1.0, port.shape).astype(kind)
    if kind.itemsize > 2:  # an index or a length: a random one may be out of bounds
        return np.zeros(port.shape, kind)
    low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
    return rng.integers(low, high, port.shape, endpoint=True).astype(kind)


def _keep(into: Path, outputs: list[dict[str, Array]]) -> None:
    arrays = {f"{number}/{name}": array for number, made in enumerate(outputs) for name, array in made.items()}
    np.savez(into / OUTPUTS, **arrays)  # type: ignore[arg-type]


def _compare(manifest: Manifest, into: Path, outputs: list[dict[str, Array]]) -> None:
    """Raises ModelError unless every output is, bit for bit, what the plain load gave."""
    expected = read_npz(into / OUTPUTS)
    for number, made in enumerate(outputs):
        for name, array in made.items():
            plain = expected[f"{number}/{name}"]
            if plain.dtype != array.dtype or plain.tobytes() != array.tobytes():
                apart = np.abs(plain.astype(np.float64) - array.astype(np.float64)).max()
                raise ModelError(f"{manifest}: prepared, output '{name}' differs from the plain load by {apart:.3g}")


def _refuse_wrong_goldens(manifest: Manifest, runner: Runner) -> None:
    if not manifest.goldens:
        return
    from agent.views import views

    failed = [f"{check.input}: {check.reason}" for check in selftest(manifest, runner, views) if not check.ok]
    if failed:
        raise ModelError(f"{manifest}: prepared, it fails its golden inputs: {'; '.join(failed)}")


def _pace_ms(runner: Runner, inputs: dict[str, Array], run_s: float) -> float:
    """The least processor time of a run, milliseconds: what other processes take does not count."""
    spent: list[float] = []
    until_s = time.monotonic() + run_s
    while len(spent) < MIN_RUNS or (len(spent) < MAX_RUNS and time.monotonic() < until_s):
        begin_s = time.process_time()
        runner.run(inputs)
        spent.append((time.process_time() - begin_s) * 1e3)
    return min(spent)


@contextmanager
def peak() -> Iterator[list[int]]:
    """Bytes of private memory while the block runs, sampled every millisecond; the list fills meanwhile."""
    seen, stop = [private_bytes()], threading.Event()

    def look() -> None:
        while not stop.wait(_SAMPLE_S):
            seen.append(private_bytes())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield seen
    finally:
        stop.set()
        looking.join()
        seen.append(private_bytes())


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])))
