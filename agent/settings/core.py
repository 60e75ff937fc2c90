"""Tables of limpet.toml that belong to the agent as a whole, and the tables of a pipeline file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from agent.records import EventClass
from agent.settings.names import Name
from agent.settings.rules import RuleConfig
from agent.settings.runtime import RuntimeOptions
from agent.strict import Range


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """[device]: who this is. Both names stand in every topic and are bound into every sealed message."""

    site: Name = "site"
    """Name of the place; part of the MQTT root limpet/v1/<site>/<device>/."""
    name: Name = "device"
    """Name of this device, unique within the site."""


@dataclass(frozen=True, slots=True)
class PathsConfig:
    """[paths]: where things lie. Relative paths count from the folder of limpet.toml."""

    runtime: Path = Path("/run/limpet")
    """The Unix socket through which `limpet status` and `limpet outbox` ask the running agent."""
    pipelines: tuple[Path, ...] = (Path("pipelines"),)
    """Folders whose *.toml are pipelines, or single pipeline files."""

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.runtime / "control.sock"


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """[supervisor]: how lanes are revived and when the agent counts as unhealthy."""

    revive_first_s: Annotated[float, Range(0.01, 60)] = 0.5
    """Longest first wait before a failed lane is started again, seconds; doubles with each failure."""
    revive_cap_s: Annotated[float, Range(0.1, 3600)] = 60.0
    """Longest wait before a failed lane is started again, seconds."""
    stop_s: Annotated[float, Range(1, 60)] = 8.0
    """Time that all lanes together have to end after a stop, seconds; stuck ones are left behind."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """[log]: what is written to the journal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is written."""
    burst: Annotated[int, Range(1, 1000)] = 10
    """Equal lines allowed per minute before they are counted instead of written."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """[model] of a pipeline: which model, and how to run it."""

    name: Annotated[str, Range(1, 200)]
    """Name of a model in the configured folders, or a path of a model folder (relative to the pipeline file)."""
    version: str | None = None
    """Take this version only; default the newest present."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """[model.runtime]: threads, providers and delegates."""
    similar: bool | None = None
    """Whether near-duplicate pictures are answered from the last computed one; default as [cache.similar] `enabled`."""


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """One pipeline file: a gate, a window, steps before the model, a model or a detector, steps after it, rules."""

    schema: Literal[1]
    """Version of this file's format."""
    name: Name
    """Name in results, events, logs and metrics."""
    source: Name
    """Name of the [sources.<name>] table that feeds it."""
    stream: Name | None = None
    """Topic tail of its events, e/<stream>; default the pipeline's name."""
    class_: EventClass = "critical"
    """critical: written and synced at once, close to another at most `gather_s` of [store] later. routine: may wait in
    memory up to the store's limit."""
    enabled: bool = True
    """False keeps the file but does not run it."""
    gate: dict[str, Any] | None = None
    """[gate]: the step that decides whether a view is worth a model."""
    window: dict[str, Any] | None = None
    """[window]: how audio or rows become views; default the model's own."""
    pre: tuple[dict[str, Any], ...] = ()
    """[[pre]]: steps before the model's own, such as a crop."""
    model: ModelUse | None = None
    """[model]: which model."""
    detector: dict[str, Any] | None = None
    """[detector]: a step that finds things without a model."""
    post: tuple[dict[str, Any], ...] = ()
    """[[post]]: steps that drop, rewrite or follow findings."""
    rule: tuple[RuleConfig, ...] = ()
    """[[rule]]: what makes an event."""

    def __post_init__(self) -> None:
        """A pipeline looks with one pair of eyes."""
        if (self.model is None) == (self.detector is None):
            raise ValueError("a pipeline needs either [model] or [detector], and not both")
