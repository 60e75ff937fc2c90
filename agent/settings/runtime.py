"""How models are found, loaded and run, and what the result cache may hold."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from agent.strict import Range


@dataclass(frozen=True, slots=True)
class DelegateOptions:
    """A TFLite delegate in a shared library of a vendor."""

    path: Path
    """The library, e.g. "libedgetpu.so.1"; found as the dynamic linker finds it when it is a plain name."""
    options: dict[str, str] = field(default_factory=dict)
    """Passed to the delegate as they are."""


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """How one model is run: `[model.runtime]` of a pipeline."""

    prefer: tuple[Literal["litert", "onnxruntime"], ...] = ()
    """Runtimes to try first when a model has several files, in this order; empty: the order of the manifest."""
    threads: Annotated[int, Range(1, 64)] = 1
    """Threads of one run."""
    spin_us: Annotated[int, Range(0, 1_000_000)] = 50
    """How long an idle ONNX Runtime thread spins before it sleeps, microseconds. Matters from two threads on: 50 keeps
    the speed-up of a second thread for a sixth of the CPU that unlimited spinning burns; 0: never spins."""
    providers: tuple[str, ...] = ()
    """ONNX Runtime execution providers, best first, e.g. "CUDAExecutionProvider"; the CPU always comes last."""
    delegates: tuple[DelegateOptions, ...] = ()
    """TFLite delegates, in this order."""
    xnnpack: bool = True
    """Whether TFLite may use XNNPACK: 2 to 13 times faster, for a private copy of the weights."""
    required: bool = False
    """True: a provider or delegate that is missing is an error. False: the CPU does it, and the reason is recorded."""


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    """Where models lie and how many run at once: `[models]`."""

    folders: tuple[Path, ...] = (Path("/var/lib/limpet/models"), Path("/opt/limpet/share/limpet/models"))
    """Searched in this order for a model's name."""
    artifact_limit_mb: Annotated[float, Range(0.001, 4096)] = 512.0
    """A larger model file is refused before it is read, MB (10^6 bytes)."""
    slots: Annotated[int, Range(1, 64)] = 2
    """How many runs may compute at the same time, over all models."""


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """What the exact result cache may hold: `[cache]`."""

    enabled: bool = True
    """False: nothing is kept and every result says "miss"."""
    entries: Annotated[int, Range(1, 1_000_000)] = 1024
    """At most this many results; the one used longest ago leaves first."""
    size_mb: Annotated[float, Range(0.001, 4096)] = 8.0
    """At most this much memory for their tensors, MB (10^6 bytes)."""
    ttl_s: Annotated[float, Range(0.001, 31_536_000)] = 300.0
    """A result older than this is computed again, seconds."""
    stateful: bool = False
    """Whether models with state are cached too. Their key includes the state, which seldom repeats."""
