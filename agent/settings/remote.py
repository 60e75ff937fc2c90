"""[remote] of limpet.toml: what may be changed from afar, and how a change is proved before it stays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from agent.strict import Range

_Pattern = Annotated[str, Range(1, 200)]


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """[remote]: fleet layers and set-config. This table itself is never changed from afar."""

    enabled: bool = True
    """False: neither fleet layers nor set-config have any effect here; only limpet.toml and conf.d count."""
    folder: Path | None = None
    """Where accepted remote settings and the last good copy of limpet.toml lie; default `remote` beside the outbox."""
    allow: tuple[_Pattern, ...] = ()
    """Patterns (`*`, `?`) of keys, such as "pipelines.*" or "log.level": of what may be changed at all, only these.
    Empty: everything that docs/remote-configuration.md lists."""
    deny: tuple[_Pattern, ...] = ()
    """Patterns of keys that no remote layer may touch, such as "uplink.*" or "pipelines.door.rule"."""
    store_budget_mib: Annotated[int, Range(16, 1 << 20)] = 1024
    """Largest [store] budget_mib that a remote layer may ask for, MiB."""
    deadline_s: Annotated[float, Range(5, 3600)] = 60.0
    """A change that has not shown itself healthy so long after the start with it is taken back, seconds."""
    settle_s: Annotated[float, Range(1, 600)] = 10.0
    """How long the agent must be healthy without a break before a change is kept, seconds."""
    tries: Annotated[int, Range(1, 10)] = 2
    """Starts that a change gets: one more than this, and it is taken back without being used again."""
