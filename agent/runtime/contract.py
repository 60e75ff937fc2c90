"""What every runtime promises, and the checks that they share.

A `Runner` is one loaded model, one per model and process, shared by the pipelines that use it and safe to call from
several threads. It keeps no state between calls: a stream's state goes in and comes out as tensors. It takes and
gives raw tensors by the manifest's port names. Every error of the foreign runtime becomes a ModelError with its reason.
"""

import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from agent.errors import ModelError
from agent.manifest import Artifact, Input, Manifest, Port
from agent.records import Array, ModelRef, Tensors

Slots = threading.Semaphore | threading.BoundedSemaphore | None
"""Bounds how many runs compute at once, over all runners that share it."""

SCALE_TOLERANCE = 1e-6
"""Relative: a scale is a float32 in the file and decimal digits in the manifest."""


class RuntimeMissingError(ModelError):
    """This machine cannot run this kind of file at all; another artifact of the model may still do."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """A provider or delegate that was asked for and is not used, and why."""

    asked: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostTally:
    """What became of the processes that a model ran in, since it was opened."""

    python: str
    """The program."""
    starts: int = 1
    """How often it was started."""
    crashes: int = 0
    """How often a process ended by itself: a segmentation fault, an abort, no memory."""
    hangs: int = 0
    """How often one was killed because a run passed its deadline."""
    last: str = ""
    """How the newest one ended."""


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What really runs. `used` names the execution providers or delegates, best first."""

    model: ModelRef
    runtime: str
    version: str
    used: tuple[str, ...]
    fallbacks: tuple[Fallback, ...] = ()
    threads: int = 1
    prepared: str = ""
    """The recipe of the prepared files that its weights are mapped from; empty: they are a copy in private memory."""
    host: HostTally | None = None
    """None: it runs in this process."""


class Runner(Protocol):
    """One loaded model. `inputs` and `outputs` are the manifest's ports as the loaded file has them."""

    @property
    def info(self) -> RunnerInfo: ...
    @property
    def inputs(self) -> tuple[Input, ...]: ...
    @property
    def outputs(self) -> tuple[Port, ...]: ...
    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Raw tensors by port name -> raw tensors by port name, in manifest order, owned by the caller.

        Raises ModelError when an input is missing, unknown, of the wrong shape or dtype or NaN, when the runtime
        fails, and after `close`.
        """
        ...

    def close(self) -> None:
        """Give the model's memory back. A second close does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Declared:
    """A tensor as the model file declares it. None in `shape`: a dimension left open; `shape` None: an unknown rank."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str
    scale: float = 0.0
    zero_point: int = 0
    quantised: bool = False
    """Whether the file says anything about scale and zero point (ONNX files do not)."""


def turn(slots: Slots) -> AbstractContextManager[object]:
    """The right to compute."""
    return slots if slots is not None else nullcontext()


def reference(manifest: Manifest, artifact: Artifact) -> ModelRef:
    return ModelRef(manifest.name, manifest.version, artifact.sha256)


def match_ports(where: str, ports: Iterable[Port], declared: Iterable[Declared], *, all_of_them: bool) -> None:
    """Hold the manifest against the file. Raises ModelError that says both sides of every disagreement.

    `all_of_them`: the file must not declare more than the manifest does (true for inputs).
    """
    listed = tuple(declared)
    known = {tensor.name: tensor for tensor in listed}
    problems = ["two tensors of the file share a name: convert it again"] if len(known) < len(listed) else []
    wanted = {port.graph_name: port for port in ports}
    for name, port in wanted.items():
        if name not in known:
            problems.append(f"the manifest names tensor '{name}', the file has {', '.join(map(repr, known)) or 'none'}")
        else:
            problems += _disagreements(port, known[name])
    if all_of_them:
        more = sorted(known.keys() - wanted.keys())
        problems += [f"the file has input '{name}', the manifest does not: describe it" for name in more]
    if problems:
        raise ModelError("\n".join(f"{where}: {problem}" for problem in problems))


def _disagreements(port: Port, tensor: Declared) -> list[str]:
    problems = []
    if tensor.shape is not None and not _fits(port.shape, tensor.shape):
        theirs = ", ".join("?" if size is None else str(size) for size in tensor.shape)
        problems.append(f"'{port.name}': shape is {list(port.shape)} in the manifest and [{theirs}] in the file")
    if tensor.dtype != port.dtype:
        problems.append(f"'{port.name}': dtype is {port.dtype} in the manifest and {tensor.dtype} in the file")
    elif tensor.quantised:
        if abs(tensor.scale - port.scale) > SCALE_TOLERANCE * max(abs(tensor.scale), abs(port.scale)):
            problems.append(f"'{port.name}': scale is {port.scale!r} in the manifest and {tensor.scale!r} in the file")
        if tensor.zero_point != port.zero_point:
            ours, theirs = port.zero_point, str(tensor.zero_point)
            problems.append(f"'{port.name}': zero_point is {ours} in the manifest and {theirs} in the file")
    return problems


def _fits(pinned: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    return len(pinned) == len(declared) and all(d is None or p == d for p, d in zip(pinned, declared, strict=True))


def check_inputs(where: str, ports: Mapping[str, Input], tensors: Tensors) -> None:
    """Refuse what a runtime would misread or crash on. Raises ModelError that names the port."""
    if tensors.keys() != ports.keys():
        missing, unknown = sorted(ports.keys() - tensors.keys()), sorted(tensors.keys() - ports.keys())
        words = f"inputs missing: {missing or 'none'}; unknown: {unknown or 'none'}"
        raise ModelError(f"{where}: {words}: feed every port once")
    for name, port in ports.items():
        array = tensors[name]
        if array.shape != port.shape:
            given = list(array.shape)
            raise ModelError(f"{where}: input '{name}' takes shape {list(port.shape)}, it was given {given}")
        if array.dtype != port.dtype:
            raise ModelError(f"{where}: input '{name}' takes {port.dtype}, it was given {array.dtype}")
        if has_nan(array):
            raise ModelError(f"{where}: input '{name}' contains NaN: fill the holes of the source before the model")


def has_nan(array: Array) -> bool:
    """Whether a NaN is among the numbers; the least of them passes it on, and needs no array of truth values."""
    return array.dtype.kind == "f" and bool(array.size) and bool(np.isnan(array.min()))


def check_output(where: str, port: Port, array: Array) -> None:
    """An output must be what the manifest says also when the file left it open. Raises ModelError."""
    if array.shape != port.shape or array.dtype != port.dtype:
        theirs, ours = f"{array.dtype} {list(array.shape)}", f"{port.dtype} {list(port.shape)}"
        words = f"output '{port.name}' came out as {theirs}, the manifest says {ours}"
        raise ModelError(f"{where}: {words}: correct the manifest")
