"""limpet.toml as it can be used: strictly if it is right, else its last good copy, else what of it is harmless.

What is wrong in identity, keys, trust, paths or addresses ends the start whatever copies there are: an agent under a
wrong name, or with readers that its operator has just taken away, is worse than none.
"""

import copy
import typing
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Final

from agent.config import Config, make_config, read_tables
from agent.errors import ConfigError
from agent.layerfiles import Good, LayerFiles, folder_of, likely_folders
from agent.layers.allowed import harmless
from agent.strict import Merged, build

SPARE: Final = frozenset({"cache", "log", "metrics", "models", "supervisor", "updates"})
"""Tables whose defaults expose nothing: a wrong key in them falls back."""


@dataclass(frozen=True, slots=True)
class Local:
    """The local layer of this start."""

    tables: Merged
    problem: str = ""
    """Why it is not limpet.toml as it stands, and what it is instead; empty when all is well."""


def usable_config(path: Path, environ: Mapping[str, str]) -> Config:
    """The local configuration that an agent started now would run with, less layers. Raises ConfigError."""
    return make_config(read_local(path, environ).tables, path)


def read_local(path: Path, environ: Mapping[str, str]) -> Local:
    """The local layer. Raises ConfigError when there is none that can be used."""
    try:
        tables = read_tables(path)
    except ConfigError as exc:
        return _from_copy(path, exc, likely_folders(path, environ))
    try:
        make_config(tables, path)
    except ConfigError as exc:
        if not tables:  # an editor's or a power cut's empty file says nothing, not even who we are
            return _from_copy(path, exc, likely_folders(path, environ))
        usable, config, left_out = spared(tables, path)
        good = _newest(path, (folder_of(config),))
        if good is not None:
            return Local(good.local, f"{exc}: the last good copy is used")
        return Local(usable, "\n".join(f"{why}: its default is used" for why in left_out))
    return Local(tables)


def spared(tables: Merged, path: Path) -> tuple[Merged, Config, list[str]]:
    """`tables` less wrong keys whose defaults are harmless, and what was wrong. Raises ConfigError for other wrongs."""
    kept, problems = copy.deepcopy(tables), []
    for name, cls in _classes().items():
        table = kept.get(name)
        if not isinstance(table, Merged):
            continue
        for key in list(table):
            try:
                build(cls, {key: table[key]}, f"{table.origins.get(key, path)} [{name}]")
            except ConfigError as exc:
                if name in SPARE or harmless(name, key):
                    problems.append(str(exc))
                    del table[key]
    return kept, make_config(kept, path), problems


def _from_copy(path: Path, exc: ConfigError, folders: tuple[Path, ...]) -> Local:
    good = _newest(path, folders)
    if good is None:
        raise exc
    return Local(good.local, f"{exc}: the last good copy is used")


def _newest(path: Path, folders: tuple[Path, ...]) -> Good | None:
    """A copy that today's agent still understands."""
    for folder in folders:
        good = LayerFiles(folder).good(path)
        try:
            if good is not None and make_config(good.local, path):
                return good
        except ConfigError:
            continue
    return None


def _classes() -> dict[str, type[Any]]:
    hints = typing.get_type_hints(Config)
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
