"""The remote configuration on the disk: the record, the last good copy of limpet.toml, and the fleet's layers.

The folder is the agent's own. Every file in it is written whole and synced before it counts, so that a power cut at any
moment leaves the old one or the new. A record that is damaged all the same is set aside, never guessed at, and the
committed part comes back from the good copy.
"""

import contextlib
import json
import logging
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.config import Config
from agent.durable import locked, read_limited, write_durably
from agent.errors import ConfigError
from agent.layers.allowed import Layer
from agent.layers.record import Record, Remote, checksum, decode, encode
from agent.strict import Merged, build
from agent.tomlfile import parse, read_plain

log = logging.getLogger(__name__)

RECORD_LIMIT: Final = 4 * 1024 * 1024
LAYER_LIMIT: Final = 256 * 1024
"""Largest fleet layer, bytes."""
RECORD, GOOD, LOCK = "record.json", "good.json", "lock"


@dataclass(frozen=True, slots=True)
class Good:
    """The last local configuration with which the agent was healthy."""

    of: str
    """The limpet.toml that it is a copy of."""
    tables: dict[str, Any]
    remote: Remote
    """What was committed then: the spare copy of the record's most precious part."""

    @property
    def local(self) -> Merged:
        """Its tables, as they come from files."""
        merged = Merged()
        merged.overlay(self.tables, f"the last good copy of {self.of}")
        return merged


class LayerFiles:
    """The files of one device. Reading never needs the lock, writing does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> Record:
        """The record; an empty one when there is none yet. Raises ConfigError when it is damaged or not to be read."""
        path = self.folder / RECORD
        try:
            return decode(read_limited(path, RECORD_LIMIT), str(path))
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{path}: cannot be read: {exc}: remote settings are left out") from exc

    def write(self, record: Record, instead_of: Record) -> None:
        """Put `record` on the disk in place of `instead_of`. Raises ConfigError when another one has come since."""
        with self._alone():
            on_disk = self.read()
            if on_disk.generation != instead_of.generation:
                raise ConfigError(f"{self.folder / RECORD}: was changed by another process: try again")
            self._put(RECORD, encode(record))

    def set_aside(self) -> Path:
        """Rename a damaged record so that a new one can be written; returns its new name. Raises ConfigError."""
        aside = self.folder / f"{RECORD}.damaged"
        with self._alone():
            try:
                (self.folder / RECORD).rename(aside)
            except OSError as exc:
                raise ConfigError(f"{self.folder / RECORD}: cannot be set aside: {exc.strerror}") from exc
        return aside

    def good(self, path: Path) -> Good | None:
        """The last good copy of the limpet.toml at `path`; None when there is none that can be used."""
        try:
            table = json.loads(read_limited(self.folder / GOOD, RECORD_LIMIT))
            body = table["body"]
            if table["sum"] != checksum(body):
                return None
            good = build(Good, body, str(self.folder / GOOD))
        except (OSError, ValueError, KeyError, TypeError, ConfigError):
            return None
        return good if good.of == str(path.resolve()) else None

    def keep_good(self, path: Path, local: Merged, remote: Remote) -> None:
        """Remember what is in force as good. Raises ConfigError. Written only when it differs: flash wears."""
        body = json.loads(json.dumps({
            "of": str(path.resolve()), "tables": local,
            "remote": {"fleet": [{"name": one.name, "table": one.table} for one in remote.fleet],
                       "settings": remote.settings},
        }, default=str))  # fmt: skip
        data = json.dumps({"body": body, "sum": checksum(body)}, sort_keys=True).encode() + b"\n"
        with contextlib.suppress(OSError, ValueError):
            if read_limited(self.folder / GOOD, RECORD_LIMIT) == data:
                return
        with self._alone():
            self._put(GOOD, data)

    def _put(self, name: str, data: bytes) -> None:
        try:
            write_durably(self.folder / name, data)
        except OSError as exc:
            raise ConfigError(f"{self.folder / name}: cannot be written: {exc.strerror}: see to the disk") from exc

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self.folder / LOCK) as mine:
                if not mine:
                    raise ConfigError(f"{self.folder}: another process is writing: try again")
                yield
        except OSError as exc:
            raise ConfigError(f"{self.folder}: cannot be written: {exc.strerror}: let the agent's user own it") from exc


def folder_of(config: Config) -> Path:
    """Where the remote configuration of this device lies."""
    return config.remote.folder or config.store.folder.parent / "remote"


def likely_folders(path: Path, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the folder may be when limpet.toml cannot even be parsed: the service's state, or beside the file."""
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0] or "/var/lib/limpet"
    return Path(state) / "remote", path.resolve().parent / "remote"


def read_fleet(config: Config) -> tuple[Layer, ...]:
    """The layers that the updater has put there for this device, lowest first. Raises ConfigError."""
    folder, device = config.updates.folder / "config", config.device
    names = ["base", *([f"group-{config.updates.group}"] if config.updates.group else [])]
    names.append(f"device-{device.site}-{device.name}")
    found = ((name, _fleet_layer(folder / f"{name}.toml")) for name in names)
    return tuple(Layer(name, table) for name, table in found if table is not None)


def _fleet_layer(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(f"{path}: others than its owner may write it: chmod 644")
        raw = read_plain(path, LAYER_LIMIT)
        if len(raw) > LAYER_LIMIT:
            raise ConfigError(f"{path}: larger than {LAYER_LIMIT} bytes")
        table = parse(raw)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}: let the agent's user read it") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from exc
    if table.get("schema") != 1:
        raise ConfigError(f"{path}: key 'schema': it must be 1")
    return table


def owner_of(folder: Path) -> tuple[int, int]:
    """User and group that the files in `folder` belong to. Raises ConfigError."""
    try:
        status = folder.stat()
    except OSError as exc:
        raise ConfigError(f"{folder}: cannot be looked at: {exc.strerror}: has the agent ever run?") from exc
    return status.st_uid, status.st_gid
