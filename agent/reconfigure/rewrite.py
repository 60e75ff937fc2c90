"""Brings limpet.toml and its conf.d to the current format on the disk, comments and order kept, old files beside them.

An agent reads older formats without this; it is for the operator who wants the files to say what counts. Nothing is
written before the whole result has passed the strict loader. limpet.toml, whose number decides, is written last: after
a power cut in between the same steps run once more, which they do not mind.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from agent.config import local_files, make_config, read_text, read_toml
from agent.durable import write_durably
from agent.errors import ConfigError
from agent.migrations import TOML, Ladder
from agent.strict import Merged
from agent.tomlfile import parse


@dataclass(frozen=True, slots=True)
class Rewritten:
    """One file that was, or would be, brought to the current format."""

    path: Path
    old: str
    new: str


def plan(path: Path, ladder: Ladder[str] = TOML) -> tuple[Rewritten, ...]:
    """What would be written, limpet.toml last; nothing when it is current. Raises ConfigError if it would not load."""
    schema = read_toml(path).get("schema")
    if schema == ladder.current:
        return ()
    files = [*local_files(path)[1:], path]
    made = [Rewritten(f, old := read_text(f), ladder.climb(old, schema, str(f))) for f in files]
    tables = {one.path: _parsed(one) for one in made}
    merged = Merged()
    for file in local_files(path):
        merged.overlay(tables[file], str(file))
    if tables[path].get("schema") != ladder.current:
        raise ConfigError(f"{path}: key 'schema' stands where it cannot be rewritten: write {ladder.current} yourself")
    make_config(merged, path)
    return tuple(one for one in made if one.new != one.old)


def carry_out(path: Path, planned: tuple[Rewritten, ...]) -> tuple[Path, ...]:
    """Write `planned`; returns the names under which the old files lie. Raises ConfigError."""
    schema = read_toml(path).get("schema")
    kept = []
    try:
        for one in planned:
            kept.append(_keep(one, f"{one.path.name}.schema-{schema}"))
            _write(one.path, one.new, like=one.path)
    except OSError as exc:
        raise ConfigError(f"{exc.filename or path}: cannot be written: {exc.strerror}: see to disk and owner") from exc
    return tuple(kept)


def _parsed(one: Rewritten) -> dict[str, object]:
    try:
        return parse(one.new.encode())
    except ValueError as exc:
        raise ConfigError(f"{one.path}: would be no TOML any more: {exc}: rewrite it by hand") from exc


def _keep(one: Rewritten, name: str) -> Path:
    """The old content under a name of its own; an older copy is never overwritten."""
    number = 0
    while (aside := one.path.with_name(f"{name}.{number}" if number else name)).exists():
        if aside.read_text() == one.old:
            return aside
        number += 1
    _write(aside, one.old, like=one.path)
    return aside


def _write(path: Path, text: str, like: Path) -> None:
    """Durably, with the mode and owner of `like`."""
    status = like.stat()
    write_durably(path, text.encode(), status.st_mode & 0o777)
    if os.geteuid() == 0:
        os.chown(path, status.st_uid, status.st_gid)
