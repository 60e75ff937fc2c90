"""`limpet models catalogue`: the public models that can be added, and what one must know to choose."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from agent.app.shelf import FACTORY_MODELS, searched
from agent.catalogue import Entry, entries, state_of
from agent.cli.options import DEFAULT_CONFIG
from agent.cli.terminal import aligned
from agent.config import Config, load_config
from agent.settings.runtime import ModelsConfig

CATALOGUES = (FACTORY_MODELS / "catalogue", Path(sys.prefix) / "share" / "limpet" / "models" / "catalogue")
"""Of a checkout, and of an installation; the first that is there counts."""


def run(args: argparse.Namespace) -> int:
    """List what can be added."""
    config = config_of(args.config) if os.access(args.config, os.R_OK) else None  # anybody may look into the catalogue
    roots = searched(config.models if config else ModelsConfig())
    for row in listed(catalogue_of(args.catalogue), roots, as_json=args.json):
        print(row)
    return 0


def listed(catalogue: Path, roots: tuple[Path, ...], *, as_json: bool) -> list[str]:
    """A line per entry: JSON, or a table for people."""
    made = [_row(entry, roots) for entry in entries(catalogue)]
    if as_json:
        return [json.dumps(row) for row in made]
    columns = ("name", "task", "size", "licence", "runtime", "run", "there")
    return aligned([columns, *(_told(row) for row in made)])


def _row(entry: Entry, roots: tuple[Path, ...]) -> dict[str, Any]:
    return {
        "name": entry.name, "version": entry.model.version, "task": entry.table.task,
        "description": entry.model.description, "modality": entry.model.modality, "size_bytes": entry.size_bytes,
        "licence": entry.table.licence.id, "permissive": entry.permissive,
        "runtime": "/".join(dict.fromkeys(artifact.runs_on for artifact in entry.model.artifact)),
        "latency_ms": entry.table.latency_ms, "latency_class": latency_class(entry.table.latency_ms),
        "there": next((str(root / entry.name) for root in roots if state_of(entry, root) == "whole"), ""),
    }  # fmt: skip


def _told(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"], row["task"], megabytes(row["size_bytes"]), row["licence"], row["runtime"], row["latency_class"],
        "yes" if row["there"] else "",
    )  # fmt: skip


def latency_class(latency_ms: float) -> str:
    """How long one run takes on the machine of docs/catalogue.md, in steps of about three."""
    bounds = (0.3, 1, 3, 10, 30, 100, 300, 1000)
    return next((f"< {bound:g} ms" for bound in bounds if latency_ms < bound), "> 1 s")


def config_of(path: Path) -> Config | None:
    """None where no agent is installed and no configuration was named."""
    return None if path == DEFAULT_CONFIG and not os.path.lexists(path) else load_config(path)


def catalogue_of(named: Path | None) -> Path:
    """The one that was named, or the agent's own."""
    return named or next((path for path in CATALOGUES if path.is_dir()), CATALOGUES[0])


def megabytes(size_bytes: int) -> str:
    """A file's size in words."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.0f} kB"
