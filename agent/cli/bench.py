"""`limpet bench memory`: what models cost in memory on this machine, plain and from prepared files, side by side."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.app.shelf import searched
from agent.cli.options import Commands, add_config
from agent.cli.terminal import shown
from agent.config import load_config
from agent.errors import LimpetError
from agent.loading import place_of
from agent.manifest import Artifact, Manifest
from agent.prepared.weighing import Weight, weigh
from agent.registry import candidates, find, installed
from agent.settings.runtime import ModelsConfig

COLUMNS = ("model", "weights", "PSS MB", "private MB", "peak MB", "load ms", "run ms")
NAME_WIDTH = 48
"""Characters for a model's name, version and file; a longer name moves its own figures to the right."""


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("bench", help="what models cost on this machine")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="memory")
    memory = kinds.add_parser("memory", help="PSS, private memory, load time and latency of models")
    add_config(memory)
    memory.add_argument("models", nargs="*", metavar="MODEL", help="names or folders (default: all installed)")
    memory.add_argument("--processes", type=int, default=1, metavar="N", help="so many at once, sharing what they can")
    memory.add_argument("--artifacts", type=Path, metavar="DIR", help="folder of the model files, when not MODEL's")
    memory.add_argument("--json", action="store_true", help="JSON lines")


def run(args: argparse.Namespace) -> int:
    """Print a row per model and way of loading it; 1 when one cannot be loaded."""
    if not 1 <= args.processes <= 64:
        print("--processes takes 1 to 64", file=sys.stderr)
        return 2
    config = load_config(args.config).models if args.config.exists() else ModelsConfig()
    if not args.json:
        print(_line(COLUMNS))
    failed = False
    for row in _rows(args, config):
        failed = failed or "error" in row
        print(json.dumps(row) if args.json else _line(_cells(row)), flush=True)
    return int(failed)


def _rows(args: argparse.Namespace, config: ModelsConfig) -> Iterator[dict[str, Any]]:
    roots = searched(config)
    named = [find(name, roots) for name in args.models]
    for manifest in named or [found.manifest for found in installed(roots) if found.manifest]:
        named_row: dict[str, Any] = {"model": str(manifest)}
        for prepared in (False, True):
            try:
                artifact = candidates(manifest)[0]
                named_row["file"] = artifact.file
                weight = _weighed(manifest, artifact, config, args, prepared=prepared)
            except LimpetError as exc:
                yield named_row | {"error": str(exc)}
                break
            if not prepared or weight.way != "plain" or weight.reason:
                yield named_row | {"processes": args.processes, **asdict(weight)}


def _weighed(
    manifest: Manifest, artifact: Artifact, config: ModelsConfig, args: argparse.Namespace, *, prepared: bool
) -> Weight:
    place = place_of(config) if prepared else None
    limit_bytes = int(config.artifact_limit_mb * 1e6)
    return weigh(manifest, artifact, place, args.processes, args.artifacts, limit_bytes)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    name = f"{row['model']} {row.get('file', '')}"
    if "error" in row:
        return (name, f"FAILED: {row['error']}")
    if row["reason"]:
        return (name, f"not mapped: {row['reason']}")
    sizes = (f"{row[f'{name}_bytes'] / 1e6:.1f}" for name in ("pss", "private", "peak"))
    return (name, row["way"], *sizes, f"{row['load_ms']:.1f}", f"{row['run_ms']:.3f}")


def _line(cells: tuple[str, ...]) -> str:
    return shown(f"{cells[0]:<{NAME_WIDTH}} {cells[1]:<16}" + "".join(f"{cell:>12}" for cell in cells[2:]))
