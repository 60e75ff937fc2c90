"""`limpet models prepare`: make what large models are mapped from (docs/memory.md), or remove it."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.cli.options import Commands
from agent.cli.terminal import shown
from agent.errors import LimpetError
from agent.loading import ENCRYPTED, place_of
from agent.prepared import forget, prepare, sweep
from agent.registry import Found, Origin, candidates
from agent.settings.runtime import ModelsConfig


def add_parser(verbs: Commands) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("prepare", help="make files that a large model's weights are mapped from")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names or folders")
    parser.add_argument("--all", action="store_true", help="every installed model; and remove what belongs to none")
    parser.add_argument("--remove", action="store_true", help="remove them instead")
    parser.add_argument("--again", action="store_true", help="also where preparing gained nothing before")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="folder of the model files, when not MODEL's")
    parser.add_argument("--folder", type=Path, action="append", help="look here instead of the configured folders")
    parser.add_argument("--json", action="store_true", help="JSON lines")


def run(args: argparse.Namespace, found: Iterable[tuple[Found, Origin]], config: ModelsConfig) -> int:
    """Prepare the models that were found; 1 when one of them could not be."""
    if not args.models and not args.all:
        print("name the models to prepare, or say --all", file=sys.stderr)
        return 2
    rows, digests = [], set()
    for one, origin in found:
        digests |= {artifact.sha256 for artifact in one.manifest.artifacts} if one.manifest else set()
        for row in _removed(one, config) if args.remove else _prepared(one, origin, config, args):
            rows.append(row)
            print(json.dumps(row) if args.json else _words(row), flush=True)
    if args.all:
        gone = sweep(place_of(config).folder, () if args.remove else digests)
        print(f"{gone} folders of other models or processors removed", file=sys.stderr) if gone else None
    return 1 if any(row["state"] == "failed" for row in rows) or not rows else 0


def _prepared(
    found: Found, origin: Origin, config: ModelsConfig, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    if found.manifest is None:
        yield {"name": str(found.folder), "state": "failed", "reason": found.error}
        return
    manifest, limit_bytes = found.manifest, int(config.artifact_limit_mb * 1e6)
    named = {"name": manifest.name, "version": manifest.version}
    try:
        artifact = candidates(manifest)[0]
        if origin.unseal is not None:
            yield named | {"file": artifact.file, "state": "refused", "reason": ENCRYPTED}
            return
        done = prepare(
            manifest, artifact, place_of(config), root=args.artifacts, limit_bytes=limit_bytes, again=args.again
        )
        yield named | asdict(done)
    except LimpetError as exc:
        yield named | {"state": "failed", "reason": str(exc)}


def _removed(found: Found, config: ModelsConfig) -> Iterator[dict[str, Any]]:
    for artifact in found.manifest.artifacts if found.manifest else ():
        gone = forget(place_of(config).folder, artifact.sha256)
        yield {"name": str(found.manifest), "file": artifact.file, "state": "removed" if gone else "none"}


def _words(row: dict[str, Any]) -> str:
    name = f"{row['name']} {row.get('version', '')} {row.get('file', '')}".strip()
    figures = row.get("figures") or {}
    if row["state"] == "made":
        saved = [
            f"{label} {_mb(figures, f'plain_{key}')} -> {_mb(figures, f'prepared_{key}')}"
            for label, key in (("private memory", "private_bytes"), ("its peak at load", "peak_bytes"))
        ]
        words = f"prepared in {row['spent_s']:.1f} s, {row['size_bytes'] / 1e6:.0f} MB on disk: {', '.join(saved)}"
    else:
        words = {"there": "prepared already", "small": "not worth it", "refused": "stays plain"}.get(
            row["state"], row["state"]
        )
        words += f": {row['reason']}" if row.get("reason") else ""
    return shown(f"{name}: {words}")


def _mb(figures: dict[str, float], key: str) -> str:
    return f"{figures.get(key, 0.0) / 1e6:.1f} MB"
