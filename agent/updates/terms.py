"""What the updater needs to know of limpet.toml, read without loading the rest of the agent: [device] and [updates].

The step before every start of the agent must be quick and must not fail over a camera's settings. Fleet layers may
change a few keys of [updates] (`agent.layers.allowed`); they count once the updater has work that needs the network.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.settings.names import NAME
from agent.settings.updates import UpdatesConfig
from agent.strict import Merged, build
from agent.tomlfile import parse, read_plain

_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Terms:
    """Whose updates, and how."""

    path: Path
    """limpet.toml."""
    updates: UpdatesConfig
    site: str
    device: str
    runtime: Path
    """Folder of the agent's control socket."""


def read_terms(path: Path) -> Terms:
    """Raises ConfigError that names the file and the key."""
    merged = Merged()
    for file in (path, *sorted((path.parent / "conf.d").glob("*.toml"))):
        merged.overlay(_read(file), str(file))
    return make_terms(path, merged)


def make_terms(path: Path, tables: Mapping[str, Any]) -> Terms:
    """From tables that count as those of the file `path`. Raises ConfigError."""
    base = path.resolve().parent
    updates = build(UpdatesConfig, tables.get("updates", {}), f"{path} [updates]")
    places: dict[str, Any] = {
        one.name: base / place for one in fields(updates)
        if one.name != "decryption_key" and isinstance(place := getattr(updates, one.name), Path)
    }  # fmt: skip
    key = updates.decryption_key
    if key is not None and len(key.parts) > 1:  # a bare name may be a credential
        places["decryption_key"] = base / key
    device = tables.get("device", {})
    runtime = base / str(tables.get("paths", {}).get("runtime", "/run/limpet"))
    names = _name(path, device, "site", "site"), _name(path, device, "name", "device")
    return Terms(path, replace(updates, **places), *names, runtime)


def _name(path: Path, table: Mapping[str, Any], key: str, default: str) -> str:
    name = table.get(key, default)
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ConfigError(f"{path} [device]: key '{key}': {name!r} is no name of letters, digits, '_', '.' and '-'")
    return name


def _read(path: Path) -> Mapping[str, Any]:
    try:
        raw = read_plain(path, _LIMIT_BYTES)
        if len(raw) > _LIMIT_BYTES:
            raise ConfigError(f"{path}: larger than {_LIMIT_BYTES} bytes: this is no configuration file")
        return parse(raw)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}: check its path and who may read it") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from exc
