"""A model in a process of its own, behind the same `Runner` as one in this process.

Whatever the model does to its process, here it is a ModelError; `revival` counts it and starts another one. Nothing
that comes from there is trusted: see `connection` for tensors and `answers` for words. The file stays open, so that a
host can be started again; its digest is checked again then.
"""

import hashlib
import json
import logging
import os
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.errors import ModelError
from agent.manifest import Artifact, Manifest
from agent.records import Array, Tensors
from agent.runtime.answers import LaidOut, Opened, T, parsed, refusal
from agent.runtime.connection import Connection, Layout
from agent.runtime.contract import Fallback, RunnerInfo, Slots, check_inputs, match_ports, reference, turn
from agent.runtime.host import wire
from agent.runtime.hosting import Hosting, LostError, RefusedError
from agent.runtime.prepared import CACHE, GRAPH, Prepared, UnpreparedError, find_prepared, key_of
from agent.runtime.revival import Revival
from agent.settings.runtime import RuntimeOptions

log = logging.getLogger(__name__)

_HASH_BYTES = 1 << 20
_FILES = "prepared files"
_GIVEN = {"graph": GRAPH, "cache": CACHE}
"""Key of the OPEN message -> the prepared file that is meant."""
_DEADLINE_BUDGETS, _MIN_DEADLINE_S, _DEFAULT_DEADLINE_S = 20, 2.0, 10.0
"""What `RuntimeOptions.deadline_s` = 0 stands for: so many latency budgets, at least so long; without budget, this."""


@dataclass(slots=True)
class _Seat:
    """The right to one run at a time, and the connection that serves it just now."""

    connection: Connection | None = None


class RemoteRunner:
    """See `agent.runtime.contract.Runner` for what its methods promise."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, options: RuntimeOptions, path: Path, slots: Slots = None,
        notes: tuple[Fallback, ...] = (), prepared: Prepared | None = None,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`mono_s`: monotonic seconds, by which the wait before another start is counted."""
        if prepared is not None and options.python is not None:
            prepared, notes = None, (*notes, Fallback(_FILES, f"they are not made for the runtime of {options.python}"))
        self._where = f"{manifest} ({artifact.file})"
        self._artifact, self._options, self._slots = artifact, options, slots
        self.inputs, self.outputs = manifest.inputs_of(artifact), manifest.outputs_of(artifact)
        self._by_name = {port.name: port for port in self.inputs}
        self._layout = Layout.of(self.inputs, self.outputs)
        self._prepared = prepared
        self._opened: Opened | None = None
        self._closed = False
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            deadline_s = _deadline_s(manifest, options)
            self._revival = Revival(self._where, self._start, self._layout, deadline_s, mono_s)
        except ModelError:
            os.close(self._file)
            raise
        opened = self._opened
        assert opened is not None
        fallbacks = (*notes, *(Fallback(*pair) for pair in opened.fallbacks))
        self._info: RunnerInfo = RunnerInfo(
            reference(manifest, artifact), opened.runtime, opened.version, opened.used, fallbacks, options.threads
        )
        self._seat_count: int = options.workers if opened.forks else 1
        self._idle: queue.LifoQueue[_Seat] = queue.LifoQueue()
        for _ in range(self._seat_count):
            self._idle.put(_Seat())

    @property
    def info(self) -> RunnerInfo:
        recipe = self._prepared.recipe if self._prepared else ""
        return replace(self._info, host=self._revival.tally, prepared=recipe)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        check_inputs(self._where, self._by_name, inputs)
        seat = self._idle.get()
        try:
            with turn(self._slots):  # in this order: who waits for the model holds no slot
                return self._run(seat, inputs)
        finally:
            self._idle.put(seat)

    def close(self) -> None:
        seats = [self._idle.get() for _ in range(self._seat_count)]  # whoever runs finishes, or passes its deadline
        for seat in seats:
            if seat.connection is not None:
                seat.connection.close()
            seat.connection = None
        if not self._closed:
            self._closed = True
            self._revival.close()
            os.close(self._file)
        for seat in seats:
            self._idle.put(seat)

    def _run(self, seat: _Seat, inputs: Tensors) -> dict[str, Array]:
        if self._closed:
            raise ModelError(f"{self._where}: it is closed: open it again")
        connection = seat.connection = seat.connection or self._revival.connection()
        try:
            return connection.run(inputs)
        except RefusedError as exc:
            said = exc.body.decode(errors="replace")
            raise ModelError(f"{self._where}: {self._info.runtime} failed while running it: {said}") from exc
        except LostError as exc:
            seat.connection = None
            raise self._revival.bury(connection, exc) from exc

    def _start(self) -> Hosting:
        """A host that has loaded the model and agrees with the manifest."""
        if self._opened is not None:
            self._refuse_changed()
            self._prepared = _still_good(self._prepared, self._artifact)
        hosting = Hosting(self._options.python)
        try:
            self._opened = self._hand_over(hosting)
        except LostError as exc:
            raise ModelError(f"{self._where}: its host {exc}, it {hosting.end()}") from exc
        except ModelError:
            hosting.close()
            raise
        return hosting

    def _hand_over(self, hosting: Hosting) -> Opened:
        order = json.dumps(_order(self._artifact, self._options, self._prepared)).encode()
        opened = self._asked(Opened, hosting, wire.OPEN, order, (self._file,))
        match_ports(self._where, self.inputs, (t.declared() for t in opened.inputs), all_of_them=True)
        layout = json.dumps(self._layout.fields()).encode()
        laid = self._asked(LaidOut, hosting, wire.LAYOUT, layout)
        match_ports(self._where, self.outputs, (t.declared() for t in laid.outputs), all_of_them=False)
        return opened

    def _asked(
        self, answer: type[T], hosting: Hosting, kind: int, body: bytes, descriptors: tuple[int, ...] = ()
    ) -> T:
        try:
            return parsed(answer, hosting.ask(kind, body, self._options.load_deadline_s, descriptors))
        except RefusedError as exc:
            raise refusal(self._where, exc) from exc

    def _refuse_changed(self) -> None:
        state, offset = hashlib.sha256(), 0
        while chunk := os.pread(self._file, _HASH_BYTES, offset):
            state.update(chunk)
            offset += len(chunk)
        if state.hexdigest() != self._artifact.sha256:
            raise ModelError(f"{self._where}: its file has changed since it was opened: install the model again")


def _still_good(prepared: Prepared | None, artifact: Artifact) -> Prepared | None:
    """The same files, every byte of them compared again; None, for a plain load, when they may not be used any more."""
    if prepared is None:
        return None
    folder = next(iter(prepared.files.values())).parent
    try:
        return find_prepared(folder.parent, key_of(artifact))
    except UnpreparedError as exc:
        log.warning("artifact=%r prepared files left out: %s", artifact.file, exc)
        return None


def _order(artifact: Artifact, options: RuntimeOptions, prepared: Prepared | None) -> dict[str, object]:
    """The body of an OPEN message."""
    return {
        "protocol": wire.PROTOCOL, "runtime": artifact.runs_on, "format": artifact.format,
        "threads": options.threads, "spin_us": options.spin_us, "xnnpack": options.xnnpack,
        "providers": list(options.providers), "required": options.required,
        "delegates": [[str(one.path), one.options] for one in options.delegates],
        "memory_bytes": int(options.memory_limit_mb * 1e6),
        "prepared": {word: str(prepared.files[name]) for word, name in _GIVEN.items() if name in prepared.files}
        if prepared else {},
    }  # fmt: skip


def _deadline_s(manifest: Manifest, options: RuntimeOptions) -> float:
    if options.deadline_s:
        return options.deadline_s
    budget_s = manifest.budget.latency_ms / 1e3
    return max(_MIN_DEADLINE_S, _DEADLINE_BUDGETS * budget_s) if budget_s else _DEFAULT_DEADLINE_S
