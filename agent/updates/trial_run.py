"""The child that tries a candidate: `python -P -m agent.updates.trial_run CANDIDATE`, started by `probe`.

It limits itself before it touches the model, loads it with every check that the agent makes, runs the golden inputs,
then runs on to see how fast it is, whether a NaN comes out and whether memory grows. It tells by JSON lines on the
descriptor that was its standard output: {"step": ...} at each step, so that the parent knows where it died, and
{"why": ...} at the end.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from agent.depot import Pick
from agent.errors import LimpetError
from agent.modelchild import teller
from agent.process import private_bytes

RUNS: Final = (10, 200)
"""At least and at most so many timed runs."""
PACE_S: Final = 1.0
"""Time for them once there are enough, seconds."""
LEAK_BYTES: Final = 8_000_000
"""Private memory that may come on top between the fifth run and the last."""
MAPPED_BYTES: Final = 2 << 30
"""Address space beside the memory limit: libraries and mapped model files."""
STARTING: Final = "starting"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What to try, and what it may take. Plain values: it travels as JSON."""

    folder: str
    """Of the depot."""
    name: str
    version: str
    sha256: str
    time_s: float
    memory_bytes: int
    artifact_bytes: int = 512_000_000
    """Largest model file."""
    key: str = ""
    """File, or name of the credential, that opens encrypted models; empty: none."""


def main(candidate: Candidate) -> None:
    """Try the model and tell. Ends by itself or is killed by its limits."""
    say = teller()
    _limit(candidate)
    say(step=STARTING)
    try:
        say(why="; ".join(_wrong(candidate, lambda step: say(step=step))))
    except LimpetError as exc:
        say(why=str(exc))
    except MemoryError:
        say(why=f"it needs more than {candidate.memory_bytes / 1e6:g} MB of memory")


def _wrong(candidate: Candidate, step: Any) -> Iterator[str]:
    """Everything that speaks against the model; stops at the first thing that makes the rest pointless."""
    from agent.golden import selftest
    from agent.loading import open_model
    from agent.settings.updates import UpdatesConfig
    from agent.stock import Stock
    from agent.views import views

    step("reading its manifest")
    key = Path(candidate.key) if candidate.key else None
    stock = Stock(UpdatesConfig(folder=Path(candidate.folder), decryption_key=key))
    held = stock.hold(candidate.name, Pick(candidate.version, candidate.sha256))
    manifest = held.manifest
    before_bytes = private_bytes()
    step("loading it")
    runner = open_model(manifest, limit_bytes=candidate.artifact_bytes, origin=held.origin)
    step("running its golden inputs")
    failed = [f"{check.input}: {check.reason}" for check in selftest(manifest, runner, views) if not check.ok]
    yield from failed
    if not failed:
        step("running it for a while")
        yield from _pace(manifest, runner, before_bytes)


def _pace(manifest: Any, runner: Any, before_bytes: int) -> Iterator[str]:
    times_ms, warm_bytes = [], 0
    until_s = time.monotonic() + PACE_S
    for number, time_ms in enumerate(_runs(manifest, runner)):
        times_ms.append(time_ms)
        if number == 4:
            warm_bytes = private_bytes()
        if number + 1 >= RUNS[0] and (number + 1 >= RUNS[1] or time.monotonic() > until_s):
            break
    yield from judged(median(times_ms), warm_bytes - before_bytes, private_bytes() - warm_bytes, manifest.budget)


def judged(latency_ms: float, taken_bytes: int, grown_bytes: int, budget: Any) -> Iterator[str]:
    """What of these measures is too much. `taken`: by loading and five runs, `grown`: by the runs after."""
    if budget.latency_ms and latency_ms > budget.latency_ms:
        yield f"a run takes {latency_ms:.3g} ms here, its budget is {budget.latency_ms:g} ms"
    if budget.memory_mb and taken_bytes > budget.memory_mb * 1e6:
        yield f"it takes {taken_bytes / 1e6:.1f} MB of memory here, its budget is {budget.memory_mb:g} MB"
    if grown_bytes > LEAK_BYTES:
        yield f"its memory grows while it runs, by {grown_bytes / 1e6:.1f} MB so far: it leaks"


def _runs(manifest: Any, runner: Any) -> Iterator[float]:
    """Milliseconds of each run, for ever: on the first golden input, or on zeros when there is none."""
    from agent.golden import read_npz
    from agent.inference import Inference
    from agent.runtime.quant import zeros
    from agent.views import views

    inference = Inference(manifest, runner)
    path = manifest.folder / manifest.goldens[0].input if manifest.goldens else None
    fed = {port.name for port in manifest.feeds}
    while True:
        if path and path.suffix != ".npz":
            yield from (inference(view).timings_ms.get("run", 0.0) for view in views(manifest, path))
        else:
            raw = read_npz(path) if path else {p.name: zeros(p) for p in runner.inputs if p.name in fed}
            yield inference.run_raw(raw).timings_ms.get("run", 0.0)


def _limit(candidate: Candidate) -> None:
    """Memory, processor time, size of files. RLIMIT_DATA counts private writable memory, so that a mapped model file
    and the runtimes' libraries do not count."""
    time_s, memory_bytes = int(candidate.time_s) + 1, candidate.memory_bytes
    for kind, limit in (
        (resource.RLIMIT_DATA, memory_bytes), (resource.RLIMIT_AS, memory_bytes + MAPPED_BYTES),
        (resource.RLIMIT_CPU, time_s * (os.cpu_count() or 1)), (resource.RLIMIT_FSIZE, 64 << 20),
        (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        hard = resource.getrlimit(kind)[1]
        fits = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (fits, fits))


if __name__ == "__main__":
    main(Candidate(**json.loads(sys.argv[1])))
