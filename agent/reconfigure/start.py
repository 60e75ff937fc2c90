"""What this start of the agent runs with: limpet.toml or its stand-in, and of the remote layers what may be used.

A change on trial is used only after one of its tries was burnt on the disk. Whatever stands in the way of that (no try
left, a disk that takes nothing, safe mode) leads to what was committed. A committed layer that no longer fits
limpet.toml is left out by itself and said: the operator's own file counts.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.config import make_config, read_tables
from agent.errors import ConfigError
from agent.layerfiles import LayerFiles, folder_of
from agent.layers.allowed import Layer
from agent.layers.effective import Effective, effective, lay
from agent.layers.record import Provisional, Record, Remote
from agent.progress import Reason
from agent.reconfigure.local import read_local
from agent.strict import Merged

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """The configuration of this start and how it came about."""

    path: Path
    local: Merged
    local_digest: str
    effective: Effective
    files: LayerFiles
    record: Record
    """As it lies on the disk."""
    layers: tuple[Layer, ...] = ()
    """The remote layers that are in force."""
    trial: Provisional | None = None
    """The change that this start tries."""
    alarms: Mapping[str, str] = field(default_factory=dict)
    """What the operator must see to: "configuration" or "remote-configuration", and why."""

    @property
    def safe(self) -> bool:
        """Whether limpet.toml could not be used as it stands."""
        return "configuration" in self.alarms


def start(path: Path, environ: Mapping[str, str], now_wall_s: float) -> Started:
    """Decide. Raises ConfigError when nothing can be run with, or identity and keys are wrong."""
    local = read_local(path, environ)
    alarms = {"configuration": f"safe mode: {local.problem}"} if local.problem else {}
    plain = effective(path, local.tables, ())
    files, digest = LayerFiles(folder_of(plain.config)), digest_of(local.tables)
    made = Started(path, local.tables, digest, plain, files, Record(), alarms=alarms)
    if not plain.config.remote.enabled:
        return made
    return _with_remote(made, _Memory(files, digest, now_wall_s), alarms)


def standing(path: Path) -> tuple[Record, tuple[Layer, ...], dict[str, str]]:
    """What lies on the disk, for people: the record, the committed layers that fit, and what is wrong. Changes nothing.

    Raises ConfigError when limpet.toml cannot be used as it stands.
    """
    local = read_tables(path)
    config = make_config(local, path)
    try:
        record = LayerFiles(folder_of(config)).read()
    except ConfigError as exc:
        return Record(), (), {"remote settings": str(exc)}
    layers = record.committed.layers if config.remote.enabled else ()
    fitting, left_out = _fitting(path, local, layers)
    return record, fitting, {f"layer {name}": why for name, why in left_out.items()}


def digest_of(tables: Merged) -> str:
    """16 hex digits that name the content of limpet.toml and conf.d."""
    return hashlib.sha256(json.dumps(tables, sort_keys=True, default=str).encode()).hexdigest()[:16]


class _Memory:
    """The record during a start: what cannot be written is only said."""

    def __init__(self, files: LayerFiles, local_digest: str, now_wall_s: float) -> None:
        self._files = files
        self._local_digest = local_digest
        self._now_wall_s = now_wall_s
        self.record = Record()
        self.problem = ""

    def read(self, path: Path) -> None:
        """The record, or after damage what the good copy knows of it."""
        try:
            self.record = self._files.read()
        except ConfigError as exc:
            self.problem = str(exc)
            good = self._files.good(path)
            try:
                aside = self._files.set_aside()
                self._write(Record(1, good.remote if good else Remote()))
                self.problem += f": set aside as {aside.name}; what was committed is back from the last good copy"
            except ConfigError as also:
                self.problem += f"; {also}"

    def burn(self) -> Provisional | None:
        """The change on trial with one try less, on the disk; None when there is none to be used."""
        change = self.record.provisional
        if change is None:
            return None
        if change.tries_left < 1:
            self.give_up("ROLLED_BACK", "the agent did not stay up with it until it was judged")
            return None
        try:
            self._write(self.record.burn())
        except ConfigError as exc:
            self.problem = f"the change on trial is not used: {exc}"
            return None
        return self.record.provisional

    def give_up(self, reason: Reason, why: str) -> None:
        """Go back to what was committed, on the disk if it lets us."""
        log.error("remote-configuration=taken-back reason=%s why=%r", reason, why)
        try:
            self._write(self.record.give_up(reason, why, self._local_digest, self._now_wall_s))
        except ConfigError as exc:
            self.problem = f"the change on trial is not used: {why}; {exc}"

    def _write(self, record: Record) -> None:
        self._files.write(record, self.record)
        self.record = record


def _with_remote(made: Started, memory: _Memory, alarms: dict[str, str]) -> Started:
    memory.read(made.path)
    trial, tried = None, None
    if made.safe and memory.record.provisional is not None:
        memory.give_up("FAILED", f"limpet.toml cannot be used: {made.alarms['configuration']}")
    elif (trial := memory.burn()) is not None:
        try:
            tried = effective(made.path, made.local, trial.remote.layers)
        except ConfigError as exc:
            memory.give_up("VERIFY_FAILED", f"it does not fit limpet.toml any more: {exc}")
    layers = trial.remote.layers if trial and tried else ()
    if tried is None:
        trial = None
        layers, left_out = _fitting(made.path, made.local, memory.record.committed.layers)
        memory.problem = "\n".join(
            [*filter(None, [memory.problem]), *(f"layer {name} is left out: {why}" for name, why in left_out.items())]
        )
        tried = effective(made.path, made.local, layers)
    if memory.problem:
        alarms = {**alarms, "remote-configuration": memory.problem}
    return Started(
        made.path, made.local, made.local_digest, tried, made.files, memory.record, layers, trial, alarms
    )


def _fitting(path: Path, local: Merged, layers: tuple[Layer, ...]) -> tuple[tuple[Layer, ...], dict[str, str]]:
    """The layers that can be laid over limpet.toml, and why the others cannot."""
    kept: tuple[Layer, ...] = ()
    left_out: dict[str, str] = {}
    for layer in layers:
        try:
            lay(path, local, (*kept, layer))
        except ConfigError as exc:
            left_out[layer.name] = str(exc)
        else:
            kept = (*kept, layer)
    return kept, left_out
