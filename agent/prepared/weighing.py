"""What a loaded model costs in memory: children that load and run it, looked at from outside (/proc/PID/smaps_rollup).

    python -P -m agent.prepared.weighing TASK      the child: says where it is, and goes on when it is told

Each child imports the runtime first, so that what is counted is the model alone. PSS counts a page that n processes
share as 1/n of it. Private are the pages that belong to no file ("Anonymous"): without swap the kernel cannot take them
back. Pages of files are not in it, also where only this process maps them: under pressure they go, and are read again.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

from agent.errors import ModelError
from agent.loading import PREPARED, open_model
from agent.manifest import Artifact, Manifest, load_manifest
from agent.modelchild import import_path
from agent.prepared.child import peak, random_inputs
from agent.process import private_bytes
from agent.runtime import preload
from agent.runtime.prepared import Place

RUNS: Final = 30
"""Timed runs of each child."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What one model costs in one or several processes; memory in bytes, without the runtime's own."""

    way: str
    """plain, or the recipe of the prepared files."""
    reason: str
    """Why it was not the way that was asked for."""
    pss_bytes: int
    """All processes together."""
    private_bytes: int
    """Each: the mean."""
    peak_bytes: int
    """Most private memory while loading, the largest of all."""
    load_ms: float
    run_ms: float
    """Medians: wall clock, one thread."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a child does. Plain values: it travels as JSON."""

    model: str
    file: str
    root: str = ""
    prepared: str = ""
    """Folder of prepared files; empty: a plain load."""
    limit_bytes: int = 512_000_000


def weigh(manifest: Manifest, artifact: Artifact, place: Place | None, processes: int = 1, root: Path | None = None,
          limit_bytes: int = 512_000_000) -> Weight:  # fmt: skip
    """Load and run `artifact` in so many processes at once. Raises ModelError when one of them cannot."""
    where = str(place.folder) if place else ""
    task = Task(str(manifest.folder), artifact.file, str(root or ""), where, limit_bytes)
    with ExitStack() as running:
        children = [running.enter_context(_child(task)) for _ in range(processes)]
        before = [_at_rest(child) for child in children]
        told = [_next(child) for child in children]  # one after the other: each has the machine for itself
        after = [memory(child.pid) for child in children]
    grown = [{key: now[key] - then[key] for key in now} for then, now in zip(before, after, strict=True)]
    return Weight(
        told[0]["way"], told[0]["reason"], sum(one["Pss"] for one in grown),
        sum(one["Anonymous"] for one in grown) // processes, max(one["peak_bytes"] for one in told),
        median(one["load_ms"] for one in told), median(one["run_ms"] for one in told),
    )  # fmt: skip


def memory(pid: int) -> dict[str, int]:
    """Rss, Pss, Anonymous and so on of a process, bytes. Raises ModelError when it is hidden."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError as exc:
        raise ModelError(f"/proc/{pid}/smaps_rollup: it cannot be read: {exc.strerror}") from exc
    return {name: int(words.split()[0]) * 1024 for name, _, words in (line.partition(":") for line in lines)}


@contextmanager
def _child(task: Task) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-P", "-m", "agent.prepared.weighing", json.dumps(asdict(task))]
    environment, pipe = {**os.environ, "PYTHONPATH": import_path()}, subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment, cwd="/"
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def _at_rest(child: "subprocess.Popen[str]") -> dict[str, int]:
    """The memory of a child that has imported its runtime and waits."""
    _told(child)
    return memory(child.pid)


def _next(child: "subprocess.Popen[str]") -> Mapping[str, Any]:
    """Let the child go on, and hear what it found."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return _told(child)


def _told(child: "subprocess.Popen[str]") -> Mapping[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise ModelError(f"a process that loads the model ended with status {child.wait()}")
    table: Mapping[str, Any] = json.loads(line)
    if "why" in table:
        raise ModelError(str(table["why"]))
    return table


def _main(task: Task, heard: IO[str]) -> None:
    manifest = load_manifest(Path(task.model))
    artifact = next(one for one in manifest.artifacts if one.file == task.file)
    preload(artifact.runs_on)
    _say(ready=True)
    heard.readline()
    place = Place(Path(task.prepared), 0) if task.prepared else None
    begin_s, base = time.perf_counter(), private_bytes()
    with peak() as seen:
        runner = open_model(
            manifest, only=artifact, artifact_root=Path(task.root) if task.root else None,
            limit_bytes=task.limit_bytes, prepared=place,
        )  # fmt: skip
        load_ms = (time.perf_counter() - begin_s) * 1e3
    given, spent_ms = random_inputs(runner), []
    for _ in range(RUNS):
        begin_s = time.perf_counter()
        runner.run(given)
        spent_ms.append((time.perf_counter() - begin_s) * 1e3)
    reason = next((note.reason for note in runner.info.fallbacks if note.asked == PREPARED), "")
    _say(way=runner.info.prepared or "plain", reason=reason, load_ms=load_ms, run_ms=median(spent_ms),
         peak_bytes=max(seen) - base)  # fmt: skip
    heard.readline()


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201  the pipe to the parent


if __name__ == "__main__":
    try:
        _main(Task(**json.loads(sys.argv[1])), sys.stdin)
    except ModelError as exc:
        _say(why=str(exc))
