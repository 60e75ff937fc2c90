"""`limpet models`: list what is installed, verify a model in every respect, choose what runs, describe a new one."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agent.app.shelf import searched
from agent.cli import modelsadd, modelsnew, modelstry
from agent.cli.depotmodels import bad, change, held, use
from agent.cli.modelscatalogue import config_of
from agent.cli.modelsprepare import add_parser as add_prepare
from agent.cli.modelsprepare import run as run_prepare
from agent.cli.options import Commands, add_config, add_config_again
from agent.cli.terminal import aligned, fleeting, shown
from agent.depot import State
from agent.errors import LimpetError
from agent.golden import selftest
from agent.loading import open_model
from agent.manifest import Artifact, Manifest
from agent.registry import OPERATOR, Found, Origin, candidates, find, installed, verified
from agent.settings.runtime import ModelsConfig
from agent.settings.updates import UpdatesConfig
from agent.stock import Stock
from agent.updates.jobs import Do
from agent.views import views

CHANGES: dict[Do, str] = {
    "activate": "run a version of the depot at once, without a trial, or the factory's",
    "rollback": "end a trial, or else go back to the version before; what goes is not tried again",
    "pin": "let no update touch a model until it is unpinned",
    "unpin": "take updates again",
}
"""Verbs that change what runs."""


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("models", help="list and verify models, or describe a new one")
    add_config(parser)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="list|verify|catalogue|add|prepare|activate|rollback|pin|unpin|new|try"
    )
    listing = verbs.add_parser("list", help="the models in the model folders")
    verifying = verbs.add_parser("verify", help="permissions, digests, loading, golden inputs")
    verifying.add_argument("models", nargs="*", metavar="MODEL", help="names or folders (default: all installed)")
    verifying.add_argument("--artifacts", type=Path, metavar="DIR", help="folder of the model files, when not MODEL's")
    for verb in (listing, verifying):
        verb.add_argument("--json", action="store_true", help="JSON lines (docs/models.schema.json)")
        verb.add_argument("--folder", type=Path, action="append", help="look here instead of the configured folders")
    for name, text in CHANGES.items():
        changing = verbs.add_parser(name, help=text)
        changing.add_argument("model", metavar="MODEL")
        if name in ("activate", "pin"):
            many = None if name == "activate" else "?"
            changing.add_argument("version", nargs=many, default="", metavar="VERSION", help="or 'factory'")
    modelsadd.add_parsers(verbs)
    add_prepare(verbs)
    modelstry.add_parser(verbs)
    for verb in verbs.choices.values():
        add_config_again(verb)
    modelsnew.add_parser(verbs)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when a model is not in order, or when there is none to verify."""
    if args.verb == "new":
        return modelsnew.run(args)
    if args.verb in modelsadd.VERBS:
        return modelsadd.VERBS[args.verb](args)
    config, updates = _configs(args.config)
    if args.verb in CHANGES:
        return change(updates, args.verb, args.model, getattr(args, "version", ""))
    roots = args.folder or searched(config)
    if args.verb == "try":
        return modelstry.run(args, roots)
    if args.verb == "prepare":
        return run_prepare(args, _asked(args.models, roots, None if args.folder else updates), config)
    if args.verb == "list":
        rows = list(_rows(roots, None if args.folder else updates))
        more = () if args.folder else ("use",)
        _show(rows, args.json, ("name", "version", *more, "modality", "runtime", "size_bytes", "sha256", "state"))
    else:
        found = [*_asked(args.models, roots, None if args.folder else updates)]
        rows = [row for one, origin in _told(found) for row in _verify(one, config, args.artifacts, origin)]
        _show(rows, args.json, ("name", "version", "file", "runtime", "goldens", "state"))
    if not rows:
        print(f"no models in {', '.join(map(str, roots))}", file=sys.stderr)
        return 1 if args.verb == "verify" else 0
    return 1 if any(row["state"] != "ok" and row.get("use") != "bad" for row in rows) else 0


def _configs(path: Path) -> tuple[ModelsConfig, UpdatesConfig]:
    """The configured ones, or the defaults where no agent is installed."""
    config = config_of(path)
    return (config.models, config.updates) if config else (ModelsConfig(), UpdatesConfig())


def _rows(roots: Iterable[Path], updates: UpdatesConfig | None) -> Iterator[dict[str, Any]]:
    """What the folders hold, then the depot's versions, then what went wrong here."""
    state = Stock(updates).state() if updates else State()
    for found in installed(roots):
        name = found.manifest.name if found.manifest else found.folder.name
        yield _listed(found) | ({"use": use(state.model(name), None)} if updates else {})
    for found, _, words in held(updates) if updates else ():
        yield _listed(found) | {"use": words}
    yield from bad(updates) if updates else ()


def _asked(
    names: list[str], roots: Iterable[Path], updates: UpdatesConfig | None
) -> Iterator[tuple[Found, Origin]]:
    """The models called `names`, in folders and in the depot; all of them when no name is given."""
    kept = list(held(updates, tuple(names))) if updates else []
    there = {found.manifest.name for found, _, _ in kept if found.manifest}
    for found in [_found(name, roots) for name in names] or installed(roots):
        if found.manifest is not None or str(found.folder) not in there:
            yield found, OPERATOR
    yield from ((found, origin) for found, origin, _ in kept)


def _found(name: str, roots: Iterable[Path]) -> Found:
    try:
        manifest = find(name, roots)
    except LimpetError as exc:
        return Found(Path(name), None, str(exc))
    return Found(manifest.folder, manifest)


def _told(found: list[tuple[Found, Origin]]) -> Iterator[tuple[Found, Origin]]:
    """The same, with progress on a terminal."""
    for number, one in enumerate(found, 1):
        fleeting(f"{number}/{len(found)} {one[0].folder.name}")
        yield one
    fleeting()


def _listed(found: Found) -> dict[str, Any]:
    """One row; digests are those of the manifest, `verify` checks them."""
    if found.manifest is None:
        return {"name": found.folder.name, "state": found.error}
    manifest = found.manifest
    try:
        artifact = candidates(manifest)[0]
        size_bytes = (manifest.folder / artifact.file).stat().st_size
    except LimpetError as exc:
        return _named(manifest) | {"state": str(exc)}
    except OSError as exc:
        return _named(manifest) | {"state": f"{artifact.file} cannot be read: {exc.strerror}: install the model again"}
    more = {"runtime": artifact.runs_on, "size_bytes": size_bytes, "sha256": artifact.sha256, "state": "ok"}
    return _named(manifest) | {"modality": manifest.modality, **more, "folder": str(manifest.folder)}


def _verify(found: Found, config: ModelsConfig, artifact_root: Path | None, origin: Origin) -> list[dict[str, Any]]:
    """A row per artifact: all are hashed, those for this machine are loaded and run on the golden inputs."""
    if found.manifest is None:
        return [{"name": found.folder.name, "state": found.error}]
    manifest = found.manifest
    return [_verify_one(manifest, artifact, config, artifact_root, origin) for artifact in manifest.artifacts]


def _verify_one(
    manifest: Manifest, artifact: Artifact, config: ModelsConfig, root: Path | None, origin: Origin
) -> dict[str, Any]:
    row = _named(manifest) | {"file": artifact.file, "sha256": artifact.sha256}
    limit_bytes = int(config.artifact_limit_mb * 1e6)
    try:
        here = artifact in candidates(manifest, present=artifact.requires)
        if not here and origin is not OPERATOR and not (manifest.folder / artifact.file).exists():
            return row | {"runtime": f"not fetched ({artifact.arch})", "state": "ok"}
        with verified(manifest, artifact, root, limit_bytes, origin):
            pass
        if not here:
            return row | {"runtime": f"not here ({artifact.arch})", "state": "ok"}
        runner = open_model(manifest, artifact_root=root, limit_bytes=limit_bytes, only=artifact, origin=origin)
    except LimpetError as exc:
        return row | {"state": str(exc)}
    try:
        checks = selftest(manifest, runner, views)
    except LimpetError as exc:
        return row | {"state": str(exc)}
    finally:
        runner.close()
    failed = [f"{check.input}: {check.reason}" for check in checks if not check.ok]
    row |= {"runtime": f"{runner.info.runtime} {runner.info.version}", "used": list(runner.info.used)}
    return row | {"goldens": f"{len(checks) - len(failed)}/{len(checks)}", "state": "; ".join(failed) or "ok"}


def _named(manifest: Manifest) -> dict[str, Any]:
    told = {"name": manifest.name, "version": manifest.version}
    return told | ({"demonstration": manifest.demonstration} if manifest.demonstration else {})


def _show(rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...]) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    texts = [[_cell(column, _worded(column, row)) for column in columns] for row in rows]
    for line in aligned([columns, *texts]) if texts else ():
        print(line)


def _worded(column: str, row: dict[str, Any]) -> object:
    """The value of a column; what is only a demonstration says so where everything else says "ok"."""
    if column == "state" and row.get("demonstration"):
        return f"{row['state']}, a demonstration: {row['demonstration']}"
    return row.get(column, "")


def _cell(column: str, value: object) -> str:
    return str(value)[:12] if column == "sha256" else shown(str(value))
