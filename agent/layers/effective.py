"""What limpet.toml and the layers over it come to: one configuration, its sources and its pipelines.

A layer that may not be, or that makes a table wrong, is a ConfigError that names it. A source or pipeline that comes
out wrong is left out with its reason, as without layers; who proposes a change refuses what breaks more than before.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent.config import Config, PipelineFile, load_pipelines, load_sources, make_config
from agent.layers.allowed import Key, Layer, flat, require_allowed
from agent.plugins import adopt
from agent.settings.capture import SourceConfig
from agent.strict import Merged

_ELSEWHERE: Final = frozenset({"schema", "pipelines"})
"""Keys of a layer that are not laid over limpet.toml."""


@dataclass(frozen=True, slots=True)
class Effective:
    """A whole configuration, checked as far as it can be without opening anything."""

    config: Config
    sources: dict[str, SourceConfig]
    pipelines: tuple[PipelineFile, ...]
    broken: dict[str, str] = field(default_factory=dict)
    """What is left out ("source eye", "pipeline door") and why."""


def effective(path: Path, local: Merged, layers: Sequence[Layer]) -> Effective:
    """Lay `layers` over the tables of limpet.toml at `path`. Raises ConfigError that names layer, table and key."""
    config = lay(path, local, layers)
    told = {f"plugin {name}": why for name, why in adopt(config.plugins).items()}
    sources, bad_sources = load_sources(config, path)
    pipelines, bad_pipelines = load_pipelines(config.paths.pipelines, patches(layers))
    told |= {f"source {name}": why + _changers(layers, "sources", name) for name, why in bad_sources.items()}
    told |= {f"pipeline {name}": why + _changers(layers, "pipelines", name) for name, why in bad_pipelines.items()}
    return Effective(config, sources, pipelines, told)


def lay(path: Path, local: Merged, layers: Sequence[Layer]) -> Config:
    """The tables of limpet.toml with `layers` over them, each checked in its turn. Raises ConfigError."""
    config = make_config(local, path)
    if not layers:
        return config
    kinds = {name: str(table.get("kind", "")) for name, table in config.sources.items()}
    merged = copy.deepcopy(local)
    lock = config.remote
    for layer in layers:
        require_allowed(layer, kinds, lock)
        merged.overlay({k: v for k, v in layer.table.items() if k not in _ELSEWHERE}, str(layer))
        config = make_config(merged, path)
    return config


def patches(layers: Sequence[Layer]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """What the layers say of each pipeline, lowest first."""
    laid: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for layer in layers:
        for name, table in layer.table.get("pipelines", {}).items():
            laid.setdefault(name, []).append((str(layer), table))
    return laid


def written_by(local: Merged, layers: Sequence[Layer]) -> Iterator[tuple[Key, Any, str]]:
    """Every key that a file or a layer sets, the value that counts and who wrote it. Pipeline files are not read."""
    last: dict[Key, tuple[Any, str]] = dict(_origins(local, ()))
    for layer in layers:
        for key, value in flat(layer.table):
            if key != ("schema",):
                last[key] = (value, str(layer))
    yield from ((key, value, who) for key, (value, who) in sorted(last.items()))


def _origins(table: Merged, above: Key) -> Iterator[tuple[Key, tuple[Any, str]]]:
    for name, value in table.items():
        if isinstance(value, Merged) and value:
            yield from _origins(value, (*above, name))
        else:
            yield (*above, name), (value, table.origins[name])


def _changers(layers: Sequence[Layer], table: str, name: str) -> str:
    """Words that say which layers had a hand in something that came out wrong."""
    names = [layer.name for layer in layers if name in layer.table.get(table, {})]
    return f" (changed by layer {', '.join(names)})" if names else ""
