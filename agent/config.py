"""Reads limpet.toml, its conf.d and the pipeline files into frozen settings.

Strict: every wrong word is a ConfigError that names file, table and key. limpet.toml must be right as a whole; a
pipeline file that is wrong is set aside with its reason, so that the good ones run (`limpet check` fails on it).
Secrets are never values here, only names of files or of systemd credentials.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from agent.errors import ConfigError
from agent.migrations import TOML, Ladder
from agent.plugins import adopt
from agent.settings.capture import SourceConfig, source_config
from agent.settings.commands import CommandsConfig
from agent.settings.core import DeviceConfig, LogConfig, PathsConfig, PipelineConfig, SupervisorConfig
from agent.settings.envelope import EnvelopeConfig
from agent.settings.identity import IdentityConfig
from agent.settings.metrics import MetricsConfig
from agent.settings.plugins import PluginsConfig
from agent.settings.reader import ReaderFile
from agent.settings.remote import RemoteConfig
from agent.settings.runtime import CacheConfig, ModelsConfig
from agent.settings.store import StoreSettings
from agent.settings.updates import UpdatesConfig
from agent.settings.uplink import UplinkConfig
from agent.strict import Merged, build
from agent.tomlfile import parse, read_plain

R = TypeVar("R")

FILE_LIMIT = 1024 * 1024
"""Largest configuration file, bytes."""

Patches = Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]
"""Name of a pipeline -> what layers lay over its file, lowest first: the layer's name and its table."""


@dataclass(frozen=True, slots=True)
class Config:
    """limpet.toml with its conf.d."""

    schema: Literal[1]
    """Version of this file's format."""
    device: DeviceConfig = field(default_factory=DeviceConfig)
    """[device]"""
    paths: PathsConfig = field(default_factory=PathsConfig)
    """[paths]"""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """[sources.<name>]: cameras, microphones, sensors, recordings; `kind` says which (docs/capture.md)."""
    store: StoreSettings = field(default_factory=StoreSettings)
    """[store]"""
    uplink: UplinkConfig = field(default_factory=UplinkConfig)
    """[uplink]"""
    envelope: EnvelopeConfig = field(default_factory=EnvelopeConfig)
    """[envelope]"""
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    """[identity]"""
    models: ModelsConfig = field(default_factory=ModelsConfig)
    """[models]"""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """[cache]"""
    plugins: PluginsConfig = field(default_factory=PluginsConfig)
    """[plugins]"""
    updates: UpdatesConfig = field(default_factory=UpdatesConfig)
    """[updates]"""
    commands: CommandsConfig = field(default_factory=CommandsConfig)
    """[commands]"""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """[remote]"""
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    """[metrics]"""
    supervisor: SupervisorConfig = field(default_factory=SupervisorConfig)
    """[supervisor]"""
    log: LogConfig = field(default_factory=LogConfig)
    """[log]"""


@dataclass(frozen=True, slots=True)
class PipelineFile:
    """A pipeline and the file that describes it."""

    path: Path
    config: PipelineConfig


def load_config(path: Path) -> Config:
    """Read `path` and the conf.d/*.toml beside it, in the order of their names. Raises ConfigError.

    From then on this process knows the steps and sources of the plugins that it allows.
    """
    config = make_config(read_tables(path), path)
    adopt(config.plugins)
    return config


def read_tables(path: Path, ladder: Ladder[str] = TOML) -> Merged:
    """The tables of `path` and its conf.d, merged but not yet checked; of an older format, as the current one says it.

    Raises ConfigError for what is no TOML.
    """
    merged = Merged()
    schema = read_toml(path).get("schema")
    older = isinstance(schema, int) and schema in ladder.steps
    for file in local_files(path):
        table = _parsed(file, ladder.climb(read_text(file), schema, str(file))) if older else read_toml(file)
        merged.overlay(table, str(file))
    return merged


def local_files(path: Path) -> list[Path]:
    """`path` and the conf.d/*.toml beside it, in the order in which they are laid over each other."""
    return [path, *_listed(path.parent / "conf.d")]


def make_config(tables: Mapping[str, Any], path: Path) -> Config:
    """Check tables that count as those of the file `path`. Raises ConfigError."""
    return _rebased(build(Config, tables, str(path)), path.resolve().parent)


def load_reader(path: Path) -> ReaderFile:
    """Read a reader.toml. Raises ConfigError."""
    return _rebased(build(ReaderFile, read_toml(path), str(path)), path.resolve().parent)


def load_sources(config: Config, path: Path) -> tuple[dict[str, SourceConfig], dict[str, str]]:
    """Read the [sources.<name>] tables; returns the good ones and, by name, why the others are not."""
    good: dict[str, SourceConfig] = {}
    broken: dict[str, str] = {}
    base = path.resolve().parent
    for name, table in config.sources.items():
        try:
            good[name] = _rebased(source_config(table, f"{path} [sources.{name}]"), base)
        except ConfigError as exc:
            broken[name] = str(exc)
    return good, broken


def load_pipelines(
    places: Iterable[Path], patches: Patches | None = None
) -> tuple[tuple[PipelineFile, ...], dict[str, str]]:
    """Read every pipeline file in `places` and lay `patches` over them; a patch for no file is a pipeline by itself.

    Returns the good ones and, by name, why the others are not.
    """
    good: dict[str, PipelineFile] = {}
    broken: dict[str, str] = {}
    alone = dict(patches or {})
    for path in _every_file(places, broken):
        try:
            table = read_toml(path)
            _keep(_patched(path, table, alone.pop(str(table.get("name")), ())), good)
        except ConfigError as exc:
            broken[str(path) if path.stem in broken else path.stem] = str(exc)
    for name, laid in alone.items():
        try:
            _keep(_patched(Path(laid[0][0]), {"schema": 1, "name": name}, laid, f" [pipelines.{name}]"), good)
        except ConfigError as exc:
            broken[name] = str(exc)
    return tuple(good.values()), broken


def load_pipeline(path: Path) -> PipelineFile:
    """Read one pipeline file. Raises ConfigError."""
    return _patched(path, read_toml(path), ())


def read_toml(path: Path) -> Mapping[str, Any]:
    """Parse a TOML file of at most FILE_LIMIT bytes. Raises ConfigError that names it."""
    return _parsed(path, read_text(path))


def read_text(path: Path) -> str:
    """A text file of at most FILE_LIMIT bytes. Raises ConfigError that names it."""
    try:
        raw = read_plain(path, FILE_LIMIT)
        if len(raw) > FILE_LIMIT:
            raise ConfigError(f"{path}: larger than {FILE_LIMIT} bytes: this is no configuration file")
        return raw.decode()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}: check its path and who may read it") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from exc


def _parsed(path: Path, text: str) -> Mapping[str, Any]:
    try:
        return parse(text.encode())
    except ValueError as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from exc


def _keep(pipeline: PipelineFile, good: dict[str, PipelineFile]) -> None:
    """Add a pipeline that is enabled. Raises ConfigError when its name is taken."""
    name = pipeline.config.name
    if name in good:
        raise ConfigError(f"{pipeline.path}: key 'name': {name!r} is taken by {good[name].path}: choose another")
    if pipeline.config.enabled:
        good[name] = pipeline


def _patched(
    path: Path, table: Mapping[str, Any], laid: Sequence[tuple[str, Mapping[str, Any]]], inside: str = ""
) -> PipelineFile:
    """A pipeline's table with layers over it. A step that a layer names anew replaces the one below, keys and all."""
    merged = Merged()
    for origin, layer in ((str(path), table), *laid):
        for key, value in layer.items():
            if isinstance(value, Mapping) and "step" in value:
                merged.pop(key, None)
        merged.overlay(layer, origin)
    return PipelineFile(path, build(PipelineConfig, merged, f"{path}{inside}"))


def _every_file(places: Iterable[Path], broken: dict[str, str]) -> Iterator[Path]:
    for place in places:
        try:
            yield from _pipeline_files(place)
        except ConfigError as exc:
            broken[str(place)] = str(exc)


def _pipeline_files(place: Path) -> list[Path]:
    """`place` itself or the *.toml in it. Raises ConfigError: what cannot be seen must not look like nothing."""
    try:
        return _listed(place) if stat.S_ISDIR(place.stat().st_mode) else [place]
    except FileNotFoundError as exc:
        raise ConfigError(f"{place} does not exist: make it, or mend [paths] pipelines") from exc
    except OSError as exc:
        raise ConfigError(f"{place} cannot be looked at: {exc.strerror}: let the agent's user read it") from exc


def _listed(folder: Path) -> list[Path]:
    """The *.toml in `folder` by name, none when it is missing. Raises ConfigError when it may not be listed."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise ConfigError(f"{folder} cannot be listed: {exc.strerror}: let the agent's user read it") from exc


def _absolute(path: Path, base: Path) -> Path:
    """A bare name may be a credential of the service manager; every other relative path counts from `base`."""
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / path
    return credential if len(path.parts) == 1 and credential.is_file() else base / path


def _rebased(record: R, base: Path) -> R:
    """`record` with every relative path in it counted from `base`."""
    changes: dict[str, Any] = {}
    for part in fields(record):  # type: ignore[arg-type]
        value = getattr(record, part.name)
        if isinstance(value, Path):
            changes[part.name] = _absolute(value, base)
        elif isinstance(value, tuple) and value and all(isinstance(v, Path) for v in value):
            changes[part.name] = tuple(_absolute(v, base) for v in value)
        elif isinstance(value, tuple) and any(is_dataclass(v) for v in value):
            changes[part.name] = tuple(_rebased(v, base) for v in value)
        elif is_dataclass(value) and not isinstance(value, type):
            changes[part.name] = _rebased(value, base)
    return replace(record, **changes) if changes else record  # type: ignore[type-var]
