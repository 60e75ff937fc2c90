"""The record on the disk: two copies, each with its own sum, the backup written first.

A reader takes the newer of the copies that are whole, so that a power cut between the two, or damage to one, costs
nothing. Both gone: every model is the factory's, and `State.damaged` says why; nothing is removed from the disk then.
A copy that is older than the other was put back by somebody: the newer counts. When both were put back, the newest
generation that a job has noted (`jobs/`) tells on them, and the count goes on from there; what such an old record has
forgotten (a bad version, a floor) cannot be known, and the signed metadata stands against what it would let in.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agent.depot.places import BACKUP, RECORD, RECORD_LOCK
from agent.depot.record import Bad, ModelState, Pick, State, Trial
from agent.durable import read_limited, write_durably
from agent.errors import ConfigError, UpdateError
from agent.strict import build

LIMIT_BYTES: Final = 1024 * 1024
_PARTS: Final = {"active": Pick, "good": Pick, "pinned": Pick, "trial": Trial}


def encode(state: State) -> bytes:
    """JSON with the sha256 of all the rest under "sum"."""
    models = {name: asdict(model) for name, model in sorted(state.models.items())}
    table = {"schema": 1, "generation": state.generation, "repaired": state.repaired}
    table |= {"models": models, "agent": asdict(state.agent)}
    return json.dumps({**table, "sum": _sum(table)}, indent=1, sort_keys=True).encode() + b"\n"


def decode(data: bytes) -> State:
    """Read what `encode` wrote. Keys of a later schema are passed over: a release that rolls back must read it.

    Raises ValueError in words.
    """
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ValueError("it is empty" if not data.strip(b"\0 \n") else "it is no JSON") from exc
    if not isinstance(table, dict) or table.get("schema") != 1:
        raise ValueError("it is no record of schema 1")
    said = table.pop("sum", "")
    if said != _sum(table):
        raise ValueError("its sum is wrong")
    try:
        models = {str(name): _model(entry) for name, entry in table["models"].items()}
        generation = int(table["generation"])
        return State(generation, models, _model(table["agent"]), repaired=str(table.get("repaired", "")))
    except (ConfigError, KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"it cannot be understood: {exc}") from exc


def read_state(folder: Path) -> State:
    """The record of the depot in `folder`. Never raises: what is wrong stands in `damaged`, and the rest still runs.

    Where there is no depot yet, everything is the factory's and nothing is damaged.
    """
    read = {name: _read(folder / name) for name in (RECORD, BACKUP)}
    whole = [state for state, _ in read.values() if state]
    wrong = [f"{folder / name}: {text}" for name, (_, text) in read.items() if text]
    if not whole:
        return State(damaged="; ".join(wrong) and f"{'; '.join(wrong)}: every model is the factory's now")
    newest = max(whole, key=lambda state: state.generation)
    record, backup = (state.generation if state else newest.generation for state, _ in read.values())
    if record > backup or backup > record + 1:  # the backup is written first, one ahead of the record at most
        older = RECORD if record < backup else BACKUP
        wrong.append(f"{folder / older}: it is older than its other copy: somebody put an old one back")
    return replace(newest, damaged="; ".join(wrong))


class Writer:
    """The right to change the record: `with Writer(folder) as writer: writer.save(writer.state.commit(...))`.

    Held for the moment of a change only; a whole job is guarded by the lock of `agent.updates.jobs`.
    """

    def __init__(self, folder: Path, wait_s: float = 10.0) -> None:
        self.folder, self._wait_s = folder, wait_s
        self.state = State()
        self._handle = -1

    def __enter__(self) -> Self:
        """Raises UpdateError: busy for longer than `wait_s`, or the folder cannot be written."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._handle = os.open(self.folder / RECORD_LOCK, flags, 0o600)
        except OSError as exc:
            words = f"{self.folder}: the record cannot be changed: {exc.strerror}"
            raise UpdateError(f"{words}: run this as the user that owns the folder") from exc
        try:
            self._wait()
        except UpdateError:
            os.close(self._handle)
            raise
        self.state = self._newest()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        os.close(self._handle)

    def save(self, state: State) -> State:
        """Make `state` the record: durable when this returns, with the next generation. Raises UpdateError."""
        following = replace(
            state, generation=self.state.generation + 1, damaged="", repaired=self.state.damaged or state.damaged
        )
        data = encode(following)
        if len(data) > LIMIT_BYTES:  # nobody could read it again, and every model would be the factory's
            raise UpdateError(f"{self.folder / RECORD}: it would be larger than {LIMIT_BYTES} bytes: unpin some models")
        try:
            self._keep_damaged()
            self._catch_up()
            write_durably(self.folder / BACKUP, data, 0o644)
            write_durably(self.folder / RECORD, data, 0o644)
        except OSError as exc:
            reason = "NO_SPACE" if exc.errno in (28, 122) else "FAILED"
            raise UpdateError(f"{self.folder / RECORD}: it cannot be written: {exc.strerror}", reason) from exc
        self.state = following
        return following

    def _newest(self) -> State:
        """What is on the disk; its generation is at least the one that the newest job noted."""
        state = read_state(self.folder)
        noted = high_water(self.folder)
        if noted <= state.generation:
            return state
        words = f"{self.folder}: a job noted generation {noted}, the record says {state.generation}: an old one is back"
        return replace(state, generation=noted, damaged="; ".join(filter(None, (state.damaged, words))))

    def _keep_damaged(self) -> None:
        """What cannot be read is for people to look at: it is set aside, never written over."""
        for name in (RECORD, BACKUP):
            if _read(self.folder / name)[1]:
                (self.folder / name).rename(self.folder / f"{name}.damaged")

    def _catch_up(self) -> None:
        """A kill left the record one behind its backup: a second one must not leave it two behind, like an old copy."""
        record, _ = _read(self.folder / RECORD)
        if record is not None and record.generation < self.state.generation:
            write_durably(self.folder / RECORD, encode(self.state), 0o644)

    def _wait(self) -> None:
        until_s = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    words = f"{self.folder}: another process has been changing the record for {self._wait_s:g} s"
                    raise UpdateError(f"{words}: try again", "REJECTED_BUSY") from None
                time.sleep(0.02)
            else:
                return


def burn_all(folder: Path, *, agent: bool = False) -> State:
    """Take a try off everything on probation, before the agent starts; the record as it is afterwards.

    `agent`: see `State.burn`. Nothing is written when nothing is on probation and nothing is to be repaired.
    Raises UpdateError.
    """
    with Writer(folder) as writer:
        burnt = writer.state.burn(agent=agent)
        return writer.state if burnt == writer.state and not burnt.damaged else writer.save(burnt)


def high_water(folder: Path) -> int:
    """The highest generation that a job noted; 0 when none did."""
    highest = 0
    for path in (folder / "jobs").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            highest = max(highest, int(json.loads(read_limited(path, 64 * 1024))["detail"].get("generation", 0)))
    return highest


def _read(path: Path) -> tuple[State | None, str]:
    """The record in one file, or what is wrong with it; neither when there is no file."""
    try:
        return decode(read_limited(path, LIMIT_BYTES)), ""
    except FileNotFoundError:
        return None, ""
    except OSError as exc:
        return None, f"it cannot be read: {exc.strerror}"
    except ValueError as exc:
        return None, str(exc)


def _sum(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def _model(table: Mapping[str, Any]) -> ModelState:
    known = _known(ModelState, table)
    for key, kind in _PARTS.items():
        if known.get(key) is None:
            known.pop(key, None)
        else:
            known[key] = _known(kind, known[key])
    known["bad"] = [_known(Bad, bad) for bad in known.get("bad", ())]
    return build(ModelState, known, RECORD)


def _known(kind: type[Any], table: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {key: value for key, value in table.items() if key in names}
