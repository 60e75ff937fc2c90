"""`limpet models add`: a public model of the catalogue, fetched, proved and ready for a pipeline."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.app.shelf import ADDED_HERE, FACTORY_MODELS, searched
from agent.catalogue import Entry, Wanted, add, load_entry, names, proved, state_of, sweep
from agent.catalogue.recipe import pipeline_text, write_pipeline
from agent.cli import modelscatalogue
from agent.cli.modelscatalogue import catalogue_of, config_of, megabytes
from agent.cli.options import Commands, again
from agent.cli.terminal import fleeting, shown
from agent.config import Config
from agent.errors import ConfigError, LimpetError, UpdateError
from agent.loading import place_of
from agent.manifest import load_manifest
from agent.registry import candidates, holds_model
from agent.settings.runtime import ModelsConfig

_INPUTS = {"image": "picture.jpg", "audio": "sound.wav", "series": "readings.csv", "tensor": "array.npy"}
"""What somebody has at hand for a first try."""


def add_parsers(verbs: Commands) -> None:
    """Describe both verbs."""
    adding = verbs.add_parser("add", help="fetch a public model of the catalogue, prove it, show how to use it")
    adding.add_argument("name", metavar="NAME", help="as `limpet models catalogue` shows it")
    adding.add_argument("--into", type=Path, metavar="DIR", help="folder of models (default: [models] added)")
    adding.add_argument("--mirror", default="", metavar="URL|DIR", help="fetch from there: a server, a folder, a stick")
    adding.add_argument("--ca", type=Path, metavar="FILE", help="certificates of a mirror that is not publicly known")
    adding.add_argument("--accept-licence", default="", metavar="ID", help="for a licence that limits what you may do")
    adding.add_argument("--pipeline", default="", metavar="SOURCE", help="write the pipeline too, fed by this source")
    adding.add_argument("--replace", action="store_true", help="put it in the place of what lies there")
    listing = verbs.add_parser("catalogue", help="the public models that can be added")
    listing.add_argument("--json", action="store_true", help="JSON lines")
    for verb in (adding, listing):
        verb.add_argument("--catalogue", type=Path, metavar="DIR", help="another catalogue; only one that you trust")


def run(args: argparse.Namespace) -> int:
    """Fetch, prove, show. Raises ConfigError, ModelError, UpdateError."""
    config = config_of(args.config)
    entry = _entry(catalogue_of(args.catalogue), args.name)
    models = config.models if config else ModelsConfig()
    root = args.into or (ADDED_HERE if config is None and FACTORY_MODELS.is_dir() else models.added)
    text = _pipeline(entry, root, models, args.pipeline)
    path = _pipeline_path(config, entry, args.pipeline)
    print("\n".join(_about(entry, root)))
    if state_of(entry, root) == "whole":
        sweep(entry, root)
        print(f"{entry.name} {entry.model.version} is there already, as the catalogue has it: {root / entry.name}")
    else:
        _accept(entry, args.accept_licence)
        _refuse_too_large(entry, models)
        _bring(entry, root, models, args)
        print(_prepared(root / entry.name, models, args.config) + _shadowed(entry, root, models), end="")
        print(f"try it: limpet models try{again(args.config)} {_tried_as(entry, root, models)}")
    if path is None:
        where = f"{entry.name}.toml in your folder of pipelines, with the name of a source for SOURCE"
        print(f"\nUse it by a pipeline such as this ({where}):\n\n{text}" if text else "", end="")
    else:
        write_pipeline(text, path)
        print(f"wrote {path}; now: limpet check{again(args.config)}, then restart the agent")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"add": run, "catalogue": modelscatalogue.run}


def _about(entry: Entry, root: Path) -> list[str]:
    licence = entry.table.licence
    lines = [f"{entry.name} {entry.model.version}: {shown(entry.model.description or entry.table.task)}"]
    lines += [f"  licence  {licence.id}: {licence.text}", f"  by       {shown(licence.attribution)}"]
    lines += [f"  note     {shown(licence.note)}"] if licence.note else []
    lines += [f"  file     {file.origin}, {megabytes(file.size_bytes)}" for file in entry.table.file]
    return [*lines, f"  into     {root / entry.name}"]


def _accept(entry: Entry, accepted: str) -> None:
    """Raises ConfigError unless the licence is permissive, named on the command line, or typed."""
    wanted = entry.table.licence.id
    if entry.permissive or accepted == wanted:
        return
    if not accepted and sys.stdin.isatty() and sys.stdout.isatty():
        accepted = input(f"{wanted} limits what you may do with it. Read it, then type its name to accept it: ").strip()
    if accepted != wanted:
        remedy = f"read it, then say --accept-licence {wanted}"
        raise ConfigError(f"{entry.name}: its licence {wanted} is not accepted: {remedy}")


def _refuse_too_large(entry: Entry, models: ModelsConfig) -> None:
    """Before a byte is fetched that the agent would not load."""
    largest_mb = max(file.size_bytes for file in entry.table.file) / 1e6
    if largest_mb > models.artifact_limit_mb:
        words = f"{entry.name} has a file of {largest_mb:.1f} MB, at most {models.artifact_limit_mb:g} are allowed"
        raise ConfigError(f"{words}: raise [models] artifact_limit_mb if this machine can run it")


def _bring(entry: Entry, root: Path, models: ModelsConfig, args: argparse.Namespace) -> None:
    from agent.catalogue.carrier import opened  # the network's packages, for this alone

    prove = partial(proved, limit_bytes=int(models.artifact_limit_mb * 1e6))
    with opened(args.mirror, args.ca) as carrier:
        try:
            added = add(entry, root, carrier, prove, _progress, replace=args.replace)
        except UpdateError as exc:
            if exc.reason in ("DOWNLOAD_FAILED", "TIMED_OUT"):
                raise UpdateError(f"{exc}\n{_without_network(entry, args)}", exc.reason) from exc
            raise
        finally:
            fleeting()
    print(f"every sha256 is right; self-test on this machine: {shown(added.proof)}")
    print(f"added {added.folder}")


def _prepared(folder: Path, models: ModelsConfig, config: Path) -> str:
    """Have a large model's weights packed once and for all; a line about it. What fails here costs memory, no more."""
    from agent.prepared import prepare

    try:
        manifest = load_manifest(folder)
        done = prepare(manifest, candidates(manifest)[0], place_of(models))
    except LimpetError as exc:
        command = f"limpet models prepare{again(config)} {folder}"
        return f"not prepared, so it is loaded plainly: {exc}\n  try again: {command}\n"
    words = {"made": f"prepared: {megabytes(done.size_bytes)} are mapped instead of copied", "small": ""}
    said = words.get(done.state, f"not prepared, it would not help here: {done.reason}")
    return f"{said}\n" if said else ""


def _shadowed(entry: Entry, root: Path, models: ModelsConfig) -> str:
    """A word when a pipeline that says this name would get another model."""
    first = next((folder for folder in searched(models) if holds_model(folder / entry.name)), root)
    if os.path.realpath(first) == os.path.realpath(root):
        return ""
    return f"careful: a pipeline that names {entry.name} gets the one in {first}, which is looked into before\n"


def _tried_as(entry: Entry, root: Path, models: ModelsConfig) -> str:
    """MODEL and INPUT of `limpet models try`."""
    folder = shlex.quote(str(root / entry.name))
    model = folder if _shadowed(entry, root, models) else _called(entry, root, models)
    return f"{model} {_INPUTS[entry.model.modality]}"


def _without_network(entry: Entry, args: argparse.Namespace) -> str:
    """What to carry to a device that cannot fetch; the command is the one that was typed, with a stick."""
    named = (("--catalogue", args.catalogue), ("--into", args.into))
    said = again(args.config) + "".join(f" {option} {shlex.quote(str(path))}" for option, path in named if path)
    urls = "\n".join(f"  {file.pinned.url()}" for file in entry.table.file)
    return (
        f"Without a network: fetch elsewhere, with any browser, into one folder of a stick\n{urls}\n"
        f"and here: limpet models add {entry.name}{said} --mirror FOLDER (what has come so far is kept)"
    )


def _progress(wanted: Wanted, done: int) -> None:
    fleeting(f"{wanted.path}  {megabytes(done)} of {megabytes(wanted.size_bytes)}")


def _pipeline(entry: Entry, root: Path, models: ModelsConfig, source: str) -> str:
    return pipeline_text(entry, _called(entry, root, models), source)


def _called(entry: Entry, root: Path, models: ModelsConfig) -> str:
    """The model is called by its name where the agent looks for it, else by its path."""
    looked_in = {os.path.realpath(folder) for folder in (models.added, ADDED_HERE, *searched(models))}
    known = os.path.realpath(root) in looked_in
    return entry.name if known else str((root / entry.name).absolute())


def _pipeline_path(config: Config | None, entry: Entry, source: str) -> Path | None:
    if not source:
        return None
    if not entry.pipeline:
        raise ConfigError(f"--pipeline: the catalogue has no pipeline for {entry.name}: write one, see docs/steps.md")
    if config is None:
        raise ConfigError("--pipeline needs a configuration to write for: name it with --config limpet.toml")
    folder = next((path for path in config.paths.pipelines if path.is_dir()), None)
    if folder is None:
        named = ", ".join(map(str, config.paths.pipelines))
        raise ConfigError(f"[paths] pipelines: there is no folder {named}: make it")
    path = folder / f"{entry.name}.toml"
    if os.path.lexists(path):
        raise ConfigError(f"{path} is there already: leave --pipeline out, or move it away")
    return path


def _entry(catalogue: Path, name: str) -> Entry:
    known = names(catalogue)
    if name not in known:
        there = ", ".join(known) or "nothing"
        raise ConfigError(f"{name!r} is not in the catalogue {catalogue}: there is {there}")
    return load_entry(catalogue / name)
