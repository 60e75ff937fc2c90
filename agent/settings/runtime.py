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
    prepared: bool = True
    """Whether prepared files may be used, where there are any. False: the model is loaded plainly."""
    required: bool = False
    """True: a provider or delegate that is missing is an error. False: the CPU does it, and the reason is recorded."""
    isolation: Literal["none", "process"] = "none"
    """process: the model runs in a process of its own, which may crash, hang or run out of memory alone, and which is
    started again after a growing wait (docs/runner-host.md). Costs a process and some microseconds a run."""
    python: Path | None = None
    """With isolation = "process": the Python that runs it, at least 3.8, with numpy and the vendor's runtime, e.g.
    "/usr/bin/python3.10"; default the agent's own."""
    workers: Annotated[int, Range(1, 16)] = 1
    """With isolation = "process": how many runs of this model may compute at once, each in a process of its own that
    shares the weights. Counts with threads = 1, no providers and no delegates; else there is one."""
    deadline_s: Annotated[float, Range(0, 3600)] = 0.0
    """With isolation = "process": a run that takes longer is killed, seconds; 0: 20 times [budget] latency_ms of the
    model, at least 2 s, and 10 s when the model has no budget."""
    load_deadline_s: Annotated[float, Range(1, 3600)] = 120.0
    """With isolation = "process": loading the model may take this long, seconds."""
    memory_limit_mb: Annotated[float, Range(0, 1 << 20)] = 0.0
    """With isolation = "process": private memory that each of its processes may ask for, MB (10^6 bytes); beyond it
    that process fails, nothing else. 0: no limit."""

    def __post_init__(self) -> None:
        """A key that would do nothing is a mistake."""
        if self.python is not None and not self.python.is_absolute():
            raise ValueError("python must be an absolute path, e.g. \"/usr/bin/python3.10\"")
        if self.isolation == "none" and (self.python is not None or self.workers > 1 or self.memory_limit_mb):
            raise ValueError("python, workers and memory_limit_mb need isolation = \"process\"")


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    """Where models lie and how many run at once: `[models]`."""

    folders: tuple[Path, ...] = (Path("/var/lib/limpet/models"), Path("/opt/limpet/share/limpet/models"))
    """Searched in this order for a model's name."""
    artifact_limit_mb: Annotated[float, Range(0.001, 4096)] = 512.0
    """A larger model file is refused before it is read, MB (10^6 bytes)."""
    slots: Annotated[int, Range(1, 64)] = 2
    """How many runs may compute at the same time, over all models."""
    added: Path = Path("/var/lib/limpet-added")
    """Where `limpet models add` puts public models: root's, the agent only reads it. Searched after `folders`."""
    prepared: Path = Path("/var/lib/limpet-models/prepared")
    """Where prepared files lie (docs/memory.md): the weights of large models as a runtime packs them, made once by
    `limpet models prepare` or the updater, mapped instead of copied. Whoever owns it may write them."""
    prepare_from_mb: Annotated[float, Range(0.001, 4096)] = 4.0
    """A smaller model file is loaded plainly: there is little to gain, MB (10^6 bytes)."""
    prepared_mb: Annotated[float, Range(1, 1 << 20)] = 4096.0
    """Room for prepared files on the disk, MB (10^6 bytes). A model that finds none is loaded plainly."""
    resident_mb: Annotated[float, Range(0.001, 1 << 20)] = 512.0
    """The files of all loaded models together, MB (10^6 bytes). Beyond it the model that ran longest ago is closed, and
    opened again when it is needed; a model that is larger by itself is refused."""


@dataclass(frozen=True, slots=True)
class SimilarConfig:
    """When a picture counts as one that was just looked at: `[cache.similar]` (docs/cache.md)."""

    enabled: bool = False
    """Whether near-duplicate pictures are answered from the last computed one; `[model] similar` of a pipeline decides
    for that pipeline. Off, because such an answer may be wrong, seldom, where all else is exact."""
    max_error: Annotated[float, Range(0.0001, 0.5)] = 0.01
    """Largest share of reused answers that may differ from what computing would have given."""
    max_distance: Annotated[float, Range(0.5, 128)] = 24.0
    """Pictures further apart are never similar, whatever was learnt; grey levels of 255 in the place that differs
    most."""
    ttl_s: Annotated[float, Range(0.05, 3600)] = 10.0
    """An answer is reused for so long after it was computed, stream seconds."""
    chain: Annotated[int, Range(1, 100_000)] = 100
    """So many pictures in a row may be answered by one computed answer."""
    recheck_every: Annotated[int, Range(2, 1000)] = 10
    """Of so many pictures that could be answered, one is computed anyway and judged; which one is left to chance."""
    score_band: Annotated[float, Range(0, 1)] = 0.15
    """Scores that differ by no more count as the same; a box that is not there counts with the decoder's threshold."""
    min_iou: Annotated[float, Range(0, 1)] = 0.5
    """Boxes that overlap by at least as much count as the same, intersection over union."""
    value_band: Annotated[float, Range(0, 1)] = 0.05
    """Values that differ by no more than this share of the larger one count as the same."""


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
    similar: SimilarConfig = field(default_factory=SimilarConfig)
    """[cache.similar]: answers for pictures that are nearly the same."""
