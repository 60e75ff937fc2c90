"""`limpet config`: what counts on this device and who said so, and the way back from what was changed from afar."""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.cli.options import Commands, add_config
from agent.config import load_config, load_pipelines, read_tables, read_toml
from agent.control import ask
from agent.errors import ConfigError
from agent.layers.allowed import Key, Layer, flat
from agent.layers.effective import lay, written_by
from agent.layers.record import Record
from agent.reconfigure import usable_config
from agent.reconfigure.atrest import revert_at_rest
from agent.reconfigure.rewrite import carry_out, plan
from agent.reconfigure.start import standing


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("config", help="show what is configured and by whom, revert remote changes, migrate files")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="show|diff|revert|migrate")
    show = verbs.add_parser("show", help="the configuration that counts, each key with the layer that it came from")
    show.add_argument("--all", action="store_true", help="defaults too")
    show.add_argument("--json", action="store_true", help="one JSON object per key")
    diff = verbs.add_parser("diff", help="what remote layers change: 1 when there is anything")
    revert = verbs.add_parser("revert", help="take back what set-config changed last, or what is on trial")
    revert.add_argument("--all", action="store_true", help="take back everything that set-config ever changed")
    migrate = verbs.add_parser("migrate", help="rewrite limpet.toml and conf.d in the current format")
    migrate.add_argument("--dry-run", action="store_true", help="only tell what would be written")
    for verb in (show, diff, revert, migrate):
        add_config(verb)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; 2 for a configuration that cannot be used."""
    match args.verb:
        case "show":
            return _show(args)
        case "diff":
            return _diff(args.config)
        case "revert":
            return _revert(args.config, everything=args.all)
    return _migrate(args.config, dry=args.dry_run)


def _show(args: argparse.Namespace) -> int:
    record, layers, problems = standing(args.config)
    local = read_tables(args.config)
    rows = list(written_by(local, layers))
    if args.all:
        rows += _defaults(args.config, {key for key, _, _ in rows}, layers)
    if args.json:
        for key, value, who in sorted(rows, key=lambda row: row[0]):
            print(json.dumps({"key": ".".join(key), "value": value, "from": who}, default=str))
    else:
        print("\n".join([*_standing(record), *(f"# WRONG {what}: {why}" for what, why in problems.items())]))
        print("\n".join(_as_toml(rows)))
    return 2 if problems else 0


def _standing(record: Record) -> Iterator[str]:
    yield f"# remote settings {record.committed.digest}, {len(record.committed.layers)} layers"
    if (trial := record.provisional) is not None:
        names = ", ".join(layer.name for layer in trial.remote.layers) or "none"
        yield f"# ON TRIAL, not shown below: {trial.origin}, layers {names}, {trial.tries_left} tries left"


def _defaults(path: Path, written: set[Key], layers: tuple[Layer, ...]) -> Iterator[tuple[Key, Any, str]]:
    config = asdict(lay(path, read_tables(path), layers))
    for key, value in flat(config):
        spelled = tuple(part.rstrip("_") for part in key)
        if spelled not in written and value is not None and spelled[0] != "sources" and value != {}:
            yield spelled, value, "default"


def _as_toml(rows: list[tuple[Key, Any, str]]) -> Iterator[str]:
    """Tables like those of limpet.toml, with a comment behind each key."""
    table: Key | None = None
    for key, value, who in sorted(rows, key=lambda row: (len(row[0]) > 1, row[0][:-1], row[0][-1])):
        if key[:-1] != table:
            table = key[:-1]
            if table:
                yield f"\n[{'.'.join(table)}]"
        line = f"{key[-1]} = {json.dumps(value, default=str)}"
        yield f"{line:<60}  # {who}"


def _diff(path: Path) -> int:
    record, layers, problems = standing(path)
    for what, why in problems.items():
        print(f"WRONG {what}: {why}")
    below = _local_values(path)
    changed = list(_changes(below, layers))
    print("\n".join(changed) or "nothing is changed from afar")
    if (trial := record.provisional) is not None:
        print(f"on trial ({trial.origin}):")
        now = below | {key: value for layer in layers for key, value in flat(layer.table)}
        print("\n".join(_changes(now, trial.remote.layers)) or "  takes away what stands above")
    return 1 if changed or record.provisional else 0


def _local_values(path: Path) -> dict[Key, Any]:
    """Every key of the files, pipelines included, as layers name them."""
    config = load_config(path)
    pipelines, _ = load_pipelines(config.paths.pipelines)
    values = dict(flat(read_tables(path)))
    for file in pipelines:
        values |= flat({"pipelines": {file.config.name: read_toml(file.path)}})
    return values


def _changes(below: Mapping[Key, Any], layers: tuple[Layer, ...]) -> Iterator[str]:
    above = {key: (value, layer.name) for layer in layers for key, value in flat(layer.table) if key != ("schema",)}
    for key, (value, who) in sorted(above.items()):
        if key not in below or below[key] != value:
            was = json.dumps(below[key], default=str) if key in below else "not set"
            yield f"  {'.'.join(key)}: {was} -> {json.dumps(value, default=str)}  ({who})"


def _revert(path: Path, *, everything: bool) -> int:
    """By the running agent, or else for the next start."""
    try:
        said = ask(usable_config(path, os.environ).paths.socket, "config-revert", everything=everything)["said"]
    except ConfigError as exc:
        if not isinstance(exc.__cause__, FileNotFoundError | ConnectionRefusedError):
            raise
        said = revert_at_rest(path, time.time(), everything=everything)
    print(said)
    return 0


def _migrate(path: Path, *, dry: bool) -> int:
    planned = plan(path)
    if not planned:
        print(f"{path}: nothing to do: its format is the current one")
        return 0
    if dry:
        print("\n".join(f"would rewrite {one.path}" for one in planned))
        return 0
    for one, kept in zip(planned, carry_out(path, planned), strict=True):
        print(f"rewrote {one.path}; the old one is {kept.name}")
    return 0
