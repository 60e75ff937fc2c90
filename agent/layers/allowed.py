"""What a layer from afar may change: a list of keys, and nothing that is not on it.

Never on it: identity, paths, files, keys, addresses, trust, commands, command lines, libraries that would be loaded,
and the limits that protect this device from what a source may deliver. The operator locks more by [remote] allow and
deny.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from agent.errors import ConfigError
from agent.settings.names import NAME
from agent.settings.remote import RemoteConfig

Key = tuple[str, ...]

SETTINGS: Final = "set-config"
"""Name of the highest layer: what single requests changed."""

TABLES: Final[Mapping[str, frozenset[str]]] = {
    "cache": frozenset({"enabled", "entries", "size_mb", "ttl_s", "stateful"}),
    "log": frozenset({"level", "burst"}),
    "metrics": frozenset({"series_limit"}),
    "store": frozenset({"budget_mib", "routine_wait_s", "pending_mib"}),
    "supervisor": frozenset({"revive_first_s", "revive_cap_s"}),
    "uplink": frozenset({
        "window", "batch_events", "park_after", "refusal_wait_s", "park_retry_s", "reconnect_first_s",
        "reconnect_cap_s",
    }),
    "updates": frozenset({"channel", "models", "window", "jitter_s", "bandwidth_kib_s"}),
}  # fmt: skip
"""Table -> keys that may be changed."""
SOURCES: Final[Mapping[str, frozenset[str]]] = {
    "v4l2": frozenset({"width", "height", "fps", "read_timeout_s"}),
    "url": frozenset({
        "width", "height", "fps", "rtsp_transport", "chunk_s", "rate_hz", "open_timeout_s", "read_timeout_s",
    }),
    "exec": frozenset(),
    "microphone": frozenset({"channel", "rate_hz", "chunk_s", "read_timeout_s"}),
    "sysfs": frozenset({"interval_s"}),
    "load": frozenset({"interval_s"}),
    "lines": frozenset({"read_timeout_s"}),
    "serial": frozenset({"read_timeout_s"}),
    "replay": frozenset({"fps", "rows_hz", "channel", "rate_hz", "chunk_s"}),
}  # fmt: skip
"""Kind of a source -> keys that may be changed. A source itself is never made or removed from afar."""
PIPELINES: Final = frozenset({
    "source", "stream", "class", "enabled", "gate", "window", "pre", "detector", "post", "rule",
})  # fmt: skip
"""Keys of [pipelines.<name>] besides those of its [model]."""
MODEL: Final = frozenset({"name", "version"})
RUNTIME: Final = frozenset({"prefer", "threads", "spin_us", "providers", "xnnpack", "required", "prepared"})
"""Not `delegates` and `python`, which name what is loaded, nor what keeps a model in a process of its own."""
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "cache.size_mb": (0, 256),
    "store.budget_mib": (16, math.inf),
    "store.pending_mib": (0, 64),
}
"""Tighter limits than the key's own: what a device survives. [remote] store_budget_mib bounds the budget above."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One document from afar: tables of limpet.toml, and [pipelines.<name>]."""

    name: str
    """base, group-<group>, device-<site>-<device>, set-config."""
    table: dict[str, Any]

    def __str__(self) -> str:
        return f"layer {self.name}"


def flat(table: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every key of nested tables with its value. Lists are values; an empty table counts as one."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, (*above, name))
        else:
            yield (*above, name), value


def require_allowed(layer: Layer, kinds: Mapping[str, str], lock: RemoteConfig) -> None:
    """`kinds`: name of a source -> its kind, from limpet.toml. Raises ConfigError with all that may not be."""
    problems = [why for key, value in flat(layer.table) if (why := _problem(layer, key, value, kinds, lock))]
    if problems:
        raise ConfigError("\n".join(problems))


def harmless(table: str, key: str) -> bool:
    """Whether limpet.toml may do without this key when it is wrong: its default exposes nothing."""
    return key in TABLES.get(table, frozenset())


def _problem(layer: Layer, key: Key, value: Any, kinds: Mapping[str, str], lock: RemoteConfig) -> str:
    """Why `key` may not stand in `layer`; empty when it may."""
    if key == ("schema",):
        return "" if value == 1 and not isinstance(value, bool) else f"{layer}: key 'schema': it must be 1"
    where = f"{layer} [{'.'.join(key[:-1])}]" if len(key) > 1 else str(layer)
    why = _closed(layer, key, kinds) or _locked(key, lock) or _unfit(key, value, lock)
    return f"{where}: key '{key[-1]}': {why}" if why else ""


def _closed(layer: Layer, key: Key, kinds: Mapping[str, str]) -> str:
    table, *rest = key
    if table == "updates" and layer.name == SETTINGS:
        return "is the updater's, which hears of no single request: set it in limpet.toml or in a layer of the fleet"
    if table == "sources":
        return _closed_source(rest, kinds)
    if table == "pipelines":
        return _closed_pipeline(rest)
    if table not in TABLES or len(rest) != 1:
        return "may not be changed from afar: set it in limpet.toml on the device"
    allowed = TABLES[table]
    return "" if rest[0] in allowed else f"may not be changed from afar: of [{table}] only {_listed(allowed)}"


def _closed_source(rest: list[str], kinds: Mapping[str, str]) -> str:
    if len(rest) != 2 or rest[0] not in kinds:
        return f"a source is made in limpet.toml on the device: there are {_listed(kinds)}"
    allowed = SOURCES.get(kinds[rest[0]], frozenset())
    if rest[1] in allowed:
        return ""
    return f"may not be changed from afar: of a source of kind {kinds[rest[0]]} only {_listed(allowed)}"


def _closed_pipeline(rest: list[str]) -> str:
    if len(rest) < 2 or not re.fullmatch(NAME, rest[0]):
        return "a pipeline is a table [pipelines.<name>]"
    name, *below = rest[1:]
    if name == "model" and below:
        runtime = below[0] == "runtime" and len(below) == 2 and below[1] in RUNTIME
        if runtime or (len(below) == 1 and below[0] in MODEL):
            return ""
        return f"may not be changed from afar: of [model] only {_listed(MODEL)}, of [model.runtime] {_listed(RUNTIME)}"
    return "" if name in PIPELINES else f"may not be changed from afar: of a pipeline only model, {_listed(PIPELINES)}"


def _locked(key: Key, lock: RemoteConfig) -> str:
    """A pattern fits a key, or a table above it."""
    steps = [".".join(key[: i + 1]) for i in range(len(key))]

    def named(patterns: tuple[str, ...]) -> bool:
        return any(fnmatchcase(step, pattern) for pattern in patterns for step in steps)

    if named(lock.deny) or (lock.allow and not named(lock.allow)):
        return "is locked by [remote] in limpet.toml of this device"
    return ""


def _unfit(key: Key, value: Any, lock: RemoteConfig) -> str:
    if not _plain(value):
        return "must be text, a finite number, true or false, or a list or table of them"
    if key[0] == "pipelines" and key[2:] == ("model", "name") and not re.fullmatch(NAME, str(value)):
        return f"{value!r} is no model's name: from afar a model is named, never a path"
    low, high = BOUNDS.get(".".join(key), (-math.inf, math.inf))
    if key == ("store", "budget_mib"):
        high = min(high, lock.store_budget_mib)
    if isinstance(value, int | float) and not low <= value <= high:
        return f"{value!r} is out of range: from afar it may be {low:g} to {high:g}"
    return ""


def _plain(value: Any) -> bool:
    """Whether JSON can hold it: no dates, no bytes, nothing that is not a number."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _plain(one) for name, one in value.items())
    if isinstance(value, list | tuple):
        return all(_plain(one) for one in value)
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _listed(names: frozenset[str] | Mapping[str, str]) -> str:
    return ", ".join(sorted(names)) or "none"
