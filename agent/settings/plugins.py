"""Which code of others may run in the agent: `[plugins]`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from agent.strict import Match, Range

Distribution = Annotated[
    str, Match(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", "the name of an installed package")
]


@dataclass(frozen=True, slots=True)
class PluginsConfig:
    """[plugins]: steps, decoders and sources of other packages (docs/plugins.md). Never changed from afar."""

    allow: Annotated[tuple[Distribution, ...], Range(0, 64)] = ()
    """Names of the packages that may be used. Nothing of any other is ever imported."""
    folder: Path = Path("/opt/limpet/plugins")
    """Where packages lie that are not part of the agent's own environment, which a new release replaces. Root's."""
