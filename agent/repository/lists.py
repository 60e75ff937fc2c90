"""Lists of trust and configuration layers as people write them, made into targets.

A list is JSON or TOML with the keys of docs/repository.md; an entry may name a .pub file beside the list (`file`)
instead of carrying its key (`public`), so that nobody copies base64 by hand.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent.envelope.keys import ReaderPublic, VerifyKey, spki
from agent.errors import ConfigError, UpdateError
from agent.layers.allowed import Layer, require_allowed
from agent.package import READERS_PATH, REVOKED_PATH, TECHNICIANS_PATH, Readers, Revoked, Technicians
from agent.package.trust import public_text
from agent.settings.names import NAME
from agent.settings.remote import RemoteConfig
from agent.tomlfile import parse, read_plain

LIST_LIMIT_BYTES: Final = 1 << 20
LAYER_LIMIT_BYTES: Final = 256 * 1024
LISTS: Final = ("technicians", "readers", "revoked")
_LAYER: Final = re.compile(rf"base\.toml|group-{NAME}\.toml|device-{NAME}-{NAME}\.toml")


def trust_list(kind: str, files: tuple[Path, ...]) -> tuple[str, bytes]:
    """The target's path and content from one or several list files together. Raises ConfigError."""
    path, inner, encode = _KINDS[kind]
    entries = [_entry(entry, file) for file in files for entry in _entries(file, inner)]
    try:
        return path, encode(json.dumps({"schema": 1, inner: entries}).encode())
    except UpdateError as exc:
        raise ConfigError(f"{', '.join(map(str, files))}: {exc}") from exc


def layer(file: Path) -> tuple[str, bytes]:
    """The target's path and content of a configuration layer, checked as far as all devices are alike.

    Raises ConfigError: a key that may not be changed from afar would be refused by every device.
    """
    if not _LAYER.fullmatch(file.name):
        words = "a layer is called base.toml, group-<group>.toml or device-<site>-<device>.toml"
        raise ConfigError(f"{file}: {words}")
    data = _read(file, LAYER_LIMIT_BYTES)
    table = _parsed(file, data)
    if table.get("schema") != 1:
        raise ConfigError(f"{file}: key 'schema': it must be 1")
    known = {key: value for key, value in table.items() if key != "sources"}  # of what kind they are, a device knows
    require_allowed(Layer(file.stem, known), {}, RemoteConfig())
    return f"config/{file.name}", data


def _technicians(data: bytes) -> bytes:
    made = Technicians.decode(data, "technicians")
    for key in made.keys:
        VerifyKey.from_bytes(key.spki, f"key of '{key.name}'")
    return made.encode()


def _readers(data: bytes) -> bytes:
    made = Readers.decode(data, "readers")
    for reader in made.readers:
        ReaderPublic.from_bytes(reader.spki, f"key of '{reader.name}'")
    return made.encode()


_KINDS: Final[Mapping[str, tuple[str, str, Callable[[bytes], bytes]]]] = {
    "technicians": (TECHNICIANS_PATH, "keys", _technicians),
    "readers": (READERS_PATH, "readers", _readers),
    "revoked": (REVOKED_PATH, "keys", lambda data: Revoked.decode(data, "revoked keys").encode()),
}


def _entries(file: Path, inner: str) -> list[dict[str, Any]]:
    table = _parsed(file, _read(file, LIST_LIMIT_BYTES))
    entries = table.get(inner)
    if set(table) - {"schema", inner} or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ConfigError(f"{file}: it must hold the list '{inner}' and nothing else (docs/repository.md)")
    return entries


def _entry(entry: dict[str, Any], file: Path) -> dict[str, Any]:
    """The entry with its key in it."""
    named = entry.pop("file", None)
    if named is None:
        return entry
    path = file.parent / str(named)
    try:
        return entry | {"public": public_text(spki(VerifyKey.load(path).public))}
    except ConfigError:
        return entry | {"public": public_text(spki(ReaderPublic.load(path).public))}


def _parsed(file: Path, data: bytes) -> dict[str, Any]:
    try:
        table = json.loads(data) if file.suffix == ".json" else parse(data)
    except (ValueError, RecursionError) as exc:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ConfigError(f"{file}: this is not {kind}: {exc}") from exc
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: this is no table")
    return table


def _read(file: Path, limit_bytes: int) -> bytes:
    try:
        data = read_plain(file, limit_bytes)
    except OSError as exc:
        raise ConfigError(f"{file}: it cannot be read: {exc.strerror}") from exc
    if len(data) > limit_bytes:
        raise ConfigError(f"{file}: larger than {limit_bytes} bytes")
    return data
