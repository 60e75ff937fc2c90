"""Makes the prepared files of one artifact, and judges whether they stay."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from agent.codec import read_json
from agent.durable import sync_file
from agent.errors import EnvelopeError
from agent.manifest import Artifact, Manifest
from agent.modelchild import Ended, run_child
from agent.prepared.folder import NEW, PrepareError, as_prepare_error, install, only_writer, size_bytes, take_back
from agent.prepared.owner import as_root, group_of
from agent.prepared.task import Step, Task
from agent.runtime.prepared import (
    Blob,
    Key,
    NoGainError,
    Place,
    Record,
    UnpreparedError,
    files_of,
    find_prepared,
    key_of,
    measure,
)

GAIN: Final = 0.25
"""Least part of the model file's size that must be saved, of private memory or of its peak while loading."""
SLOWER: Final = 1.25
"""A run may take so many times what it took plainly: the traps measured cost 1.2 to 2.5 times, noise is below."""
SLOWER_MS: Final = 0.05
RUN_S: Final = 1.0
"""Time for timing runs, plainly and prepared, seconds."""
TIME_S: Final = 300.0
"""Longest time for one step, seconds."""
FIGURES: Final = ("load_ms", "run_ms", "private_bytes", "peak_bytes")
"""What a child tells of a load."""
_FIGURE_LIMIT: Final = 1e15
_WHY_LIMIT: Final = 2000
"""Characters: the record has room for them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of preparing one artifact."""

    file: str
    state: Literal["made", "there", "small", "refused"]
    """made now; there already; too small to profit; no gain, or not possible (then `reason` says why)."""
    reason: str = ""
    figures: Mapping[str, float] | None = None
    """As in the record: `plain_*` and `prepared_*`."""
    size_bytes: int = 0
    """Of the prepared files."""
    spent_s: float = 0.0


def prepare(
    manifest: Manifest, artifact: Artifact, place: Place, *, root: Path | None = None,
    limit_bytes: int = 512_000_000, again: bool = False, wait_s: float = 2 * TIME_S, memory_bytes: int = 0,
) -> Outcome:  # fmt: skip
    """Make the prepared files of `artifact`, unless good ones are there; `again`: also when preparing gained nothing.

    `root`: folder that the artifact's file is relative to, when it is not the manifest's. Waits up to `wait_s` seconds
    for another process that prepares; `memory_bytes` limits the private memory of each child, 0: not at all. Raises
    PrepareError when they cannot be written, ModelError for a model file that cannot be loaded at all.
    """
    begin_s = time.monotonic()
    file = (root or manifest.folder) / artifact.file
    model_bytes = _size_bytes(file)
    if model_bytes < place.from_bytes:
        return Outcome(artifact.file, "small", f"below [models] prepare_from_mb = {place.from_bytes / 1e6:g}")
    try:
        key = key_of(artifact)
    except UnpreparedError as exc:
        return Outcome(artifact.file, "refused", str(exc))
    with only_writer(place.folder, wait_s):
        if known := _known(place.folder, key, artifact, again=again):
            return known
        _refuse_full(place, model_bytes, _room_factor(artifact))
        task = Task("plain", str(manifest.folder), artifact.file, "", str(root or ""), limit_bytes, memory_bytes, RUN_S)
        made = _made(place.folder, key, task, file, model_bytes)
    return Outcome(
        artifact.file, "refused" if made.refused else "made", made.refused, made.figures,
        sum(blob.size_bytes for blob in made.files), time.monotonic() - begin_s,
    )  # fmt: skip


def judged(plain: Mapping[str, float], prepared: Mapping[str, float], model_bytes: int) -> str:
    """Why prepared files are not worth it; empty when they are."""
    return _no_gain(plain, prepared, model_bytes) or _slower(plain, prepared)


def _no_gain(plain: Mapping[str, float], prepared: Mapping[str, float], model_bytes: int) -> str:
    saved = plain["private_bytes"] - prepared["private_bytes"]
    spared = plain["peak_bytes"] - prepared["peak_bytes"]
    if (most := max(saved, spared, 0)) < GAIN * model_bytes:
        return f"they would save {most / 1e6:.1f} MB of private memory here, of a model of {model_bytes / 1e6:.1f} MB"
    return ""


def _slower(plain: Mapping[str, float], prepared: Mapping[str, float]) -> str:
    if prepared["run_ms"] > SLOWER * plain["run_ms"] + SLOWER_MS:
        return f"a run would take {prepared['run_ms']:.3g} ms here instead of {plain['run_ms']:.3g} ms"
    return ""


def _known(root: Path, key: Key, artifact: Artifact, *, again: bool) -> Outcome | None:
    try:
        files = find_prepared(root, key).files
        return Outcome(artifact.file, "there", size_bytes=sum(path.stat().st_size for path in files.values()))
    except NoGainError as exc:
        return None if again else Outcome(artifact.file, "refused", str(exc))
    except UnpreparedError:
        return None


def _made(root: Path, key: Key, task: Task, file: Path, model_bytes: int) -> Record:
    """The record of what became of preparing `file`; it and the files are in `root` by then."""
    into = Path(tempfile.mkdtemp(prefix=NEW, dir=root))
    try:
        into.chmod(0o755)
        user = _child_user(into, file)
        record = _tried(key, replace(task, into=str(into)), user, model_bytes)
        install(root, into, record)
        return record
    except OSError as exc:
        raise as_prepare_error(root, exc) from exc
    finally:
        shutil.rmtree(into, ignore_errors=True)


def _tried(key: Key, task: Task, user: int, model_bytes: int) -> Record:
    """The record of the files that children of `user` made, or of why there are none.

    Raises PrepareError for a failure of the machine.
    """
    plain = _step("plain", task, user)
    if "why" in plain:
        raise PrepareError(f"it cannot be loaded plainly: {plain['why']}")
    why, prepared = _saved(task, user)
    if not why:
        why = judged(plain, prepared, model_bytes)
        if why and why == _slower(plain, prepared):  # a busy machine may have made it look so: once more
            plain, prepared = _step("plain", task, user), _step("prepared", task, user)
            why = str(plain.get("why", "") or prepared.get("why", "")) or judged(plain, prepared, model_bytes)
    figures = {f"plain_{name}": value for name, value in plain.items() if name != "why"}
    figures |= {f"prepared_{name}": value for name, value in prepared.items() if name != "why"}
    into = Path(task.into)
    wanted = () if why else tuple(files_of(key.runtime, into).files.values())
    return Record(key, _only_wanted(into, wanted), why, figures)


def _only_wanted(into: Path, wanted: Collection[Path]) -> tuple[Blob, ...]:
    """The wanted files in `into`, taken back from the children; all others are gone after this."""
    take_back(into)
    blobs = tuple(measure(path) for path in wanted)
    for path in into.iterdir():
        if path not in wanted:
            path.unlink()
    return blobs


def _saved(task: Task, user: int) -> tuple[str, dict[str, Any]]:
    """Make the files and measure with them: why they are no good, and the figures."""
    into = Path(task.into)
    saved = _step("save", task, user)
    if why := str(saved.get("why", "")):
        if shutil.disk_usage(into).free < 1 << 20:
            raise PrepareError(f"{into.parent}: the disk is full: make room, then prepare the model again")
        return why, {}
    for path in into.iterdir():
        sync_file(path)  # pages that are not on the disk yet count as private to whoever maps them
    prepared = _step("prepared", task, user)
    return str(prepared.get("why", "")), prepared


def _child_user(into: Path, file: Path) -> int:
    """Who shall look at the model when root prepares it by hand: the owner of the folder, whom root is by now, or in
    root's own the owner of the model, who is given `into`. A model is no program, but who parses it should not be root.
    0: whoever runs this."""
    if os.geteuid():
        return os.geteuid() if os.getuid() == 0 else 0
    if user := file.stat().st_uid:
        os.chown(into, user, -1, follow_symlinks=False)
    return user


def _become(user: int) -> dict[str, Any]:
    """With that user's own group, and none of root's."""
    return {"user": user, "group": group_of(user), "extra_groups": ()}


def _step(step: Step, task: Task, user: int) -> dict[str, Any]:
    """What a child told of one step; {"why": ...} also when it crashed or hung."""
    words = json.dumps(asdict(replace(task, step=step)))
    become = _become(user) if user else None
    try:
        with as_root():
            ended = run_child("agent.prepared.child", words, TIME_S, become=become)
    except OSError as exc:
        raise PrepareError(f"the child that prepares models cannot be started: {exc.strerror}") from exc
    if ended.status is None:
        return {"why": f"the step '{step}' was not done after {TIME_S:g} s"}
    return _read(step, ended)


def _read(step: str, ended: Ended) -> dict[str, Any]:
    """What the last line says, as far as it is the answer to that step: a model may have written it."""
    with suppress(EnvelopeError, IndexError):
        table = read_json(ended.said.splitlines()[-1])
        if isinstance(table, dict) and "why" in table:
            return {"why": str(table["why"])[:_WHY_LIMIT] or "it says no reason"}
        if isinstance(table, dict) and (step == "save" or all(_is_figure(table.get(name)) for name in FIGURES)):
            return {name: table[name] for name in (FIGURES if step != "save" else ())}
    return {"why": f"the step '{step}' ended {ended.how}"}


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _FIGURE_LIMIT


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as exc:
        raise PrepareError(f"{path}: it cannot be read: {exc.strerror}: install the model again") from exc


def _room_factor(artifact: Artifact) -> float:
    """Prepared files over the model file: ONNX Runtime keeps the weights as they were beside the packed ones."""
    return 2.1 if artifact.runs_on == "onnxruntime" else 1.1


def _refuse_full(place: Place, model_bytes: int, factor: float) -> None:
    needs, taken = int(model_bytes * factor), size_bytes(place.folder)
    if taken + needs > place.limit_bytes:
        words = f"{place.folder}: {taken / 1e6:.0f} MB are taken, {needs / 1e6:.0f} MB more are needed"
        raise PrepareError(f"{words}: raise [models] prepared_mb, or remove some: limpet models prepare --remove")
    if shutil.disk_usage(place.folder).free < needs:
        raise PrepareError(f"{place.folder}: its disk has no room for {needs / 1e6:.0f} MB more")
