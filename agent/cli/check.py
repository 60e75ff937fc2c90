"""`limpet check`: is everything in order, without starting anything?"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.app.assembly import assemble
from agent.app.shelf import Shelf
from agent.cli.options import Commands, add_config
from agent.cli.writable import judged, places
from agent.clock import SystemClock
from agent.commands import Holders
from agent.config import Config, PipelineFile, load_config, load_pipelines, load_sources
from agent.envelope.setup import batch_zip
from agent.errors import ConfigError, LimpetError
from agent.mqtt.protect import context, password
from agent.papers import Papers, ages
from agent.plugins.adopting import allowed
from agent.plugins.found import installed
from agent.plugins.loading import load
from agent.reconfigure.start import standing
from agent.settings.plugins import PluginsConfig
from agent.settings.uplink import UplinkConfig
from agent.stock import Stock


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at; `problem` is empty when it is in order."""

    what: str
    problem: str = ""
    note: str = ""
    """What is to be known though nothing is wrong."""


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("check", help="check configuration, pipelines, models and keys")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per thing looked at")


def run(args: argparse.Namespace) -> int:
    """Print what is in order and what is not; 2 when anything is not."""
    wrong = 0
    for checked in look(args.config):
        wrong += bool(checked.problem)
        if args.json:
            told = {"what": checked.what, "ok": not checked.problem, "problem": checked.problem}
            print(json.dumps(told | ({"note": checked.note} if checked.note else {})))
        else:
            print("\n".join([f"{'WRONG' if checked.problem else 'ok':<7} {checked.what}", *_below(checked)]))
    return 2 if wrong else 0


def look(path: Path) -> Iterator[Checked]:
    """Look at everything that the agent would use. Raises ConfigError when limpet.toml itself is wrong."""
    config = load_config(path)
    yield Checked(f"configuration {path}")
    yield from _plugins(config.plugins)
    sources, bad_sources = load_sources(config, path)
    files, bad_files = load_pipelines(config.paths.pipelines)
    named = {file.config.source for file in files}
    yield from (Checked(f"source {name}" + ("" if name in named else ": no pipeline names it")) for name in sources)
    yield from _problems("source", bad_sources)
    yield from _pipelines(config, files, tuple(sources))
    yield from _problems("pipeline", bad_files)
    yield from _identity(config)
    yield from _problems("from afar:", standing(path)[2])
    yield from _folders(config, path)
    if config.commands.enabled:
        yield _try("keys of commands", lambda: _command_keys(config))
    yield _try("compression", lambda: batch_zip(config.envelope))
    yield _try("uplink's files", lambda: _uplink_files(config.uplink))


def _plugins(config: PluginsConfig) -> Iterator[Checked]:
    """What is allowed and whether it can be used; what is installed and not allowed is said, and is no problem."""
    good, bad = allowed(config)
    for plugin in good:
        offers = ", ".join(map(str, plugin.offers))
        yield _try(f"plugin {plugin.name} {plugin.version}: {offers}", lambda p=plugin: [load(p, o) for o in p.offers])  # type: ignore[misc]
    yield from _problems("plugin", bad)
    known = set(bad) | {plugin.name for plugin in good}
    for other in installed(config):
        if other.name not in known:
            yield Checked(f"plugin {other.name} {other.version}: installed and not allowed, so none of it is used")


def _pipelines(config: Config, files: tuple[PipelineFile, ...], sources: tuple[str, ...]) -> Iterator[Checked]:
    shelf = Shelf(config.models, config.cache, SystemClock(), Stock(config.updates))
    try:
        made = assemble(files, sources, shelf)
        for pipeline in made.pipelines:
            model = f" with {pipeline.model.name} {pipeline.model.version}" if pipeline.model else ""
            note = f"a demonstration: {pipeline.demonstration}" if pipeline.demonstration else ""
            yield Checked(f"pipeline {pipeline.config.name}{model}", note=note)
    finally:
        shelf.close()
    yield from _problems("pipeline", made.broken)
    yield from _problems("model", {name: trouble.text for name, trouble in shelf.troubles.items()})


def _identity(config: Config) -> Iterator[Checked]:
    """Keys, readers and certificates, with their ages."""
    try:
        papers = Papers(config, SystemClock(), lambda _name, _text: None)
    except LimpetError as exc:
        yield Checked("identity", str(exc))
        return
    yield _try("keys", papers.sealer)
    yield _try("trust anchors", papers.check_anchors)
    for name, certificate in papers.status().items():
        yield Checked(f"{name} certificate {ages(certificate)}", certificate["trouble"])


def _folders(config: Config, path: Path) -> Iterator[Checked]:
    """Where the agent, as its own user, must be able to write."""
    for place in places(config, path):
        yield Checked(f"{place.what} in {place.path}", *judged(place))


def _command_keys(config: Config) -> None:
    """Local keys and the delivered lists, as the agent reads them. Raises ConfigError when nobody could ask."""
    holders = Holders(config.commands.key, config.updates.folder, config.device.site, config.device.name)
    holders.refresh()
    if holders.trouble:
        raise ConfigError(holders.trouble)
    if not holders.count:
        raise ConfigError("[commands] enabled: no key counts on this device, so every request will be refused: add one")


def _uplink_files(config: UplinkConfig) -> None:
    if config.tls:
        context(config)
    if config.password_file is not None:
        password(config.password_file)


def _problems(kind: str, problems: Mapping[str, str]) -> Iterator[Checked]:
    yield from (Checked(f"{kind} {name}", why) for name, why in problems.items())


def _try(what: str, work: Callable[[], object]) -> Checked:
    try:
        work()
    except LimpetError as exc:
        return Checked(what, str(exc))
    return Checked(what)


def _below(checked: Checked) -> Iterator[str]:
    yield from (f"        {line}" for text in (checked.problem, checked.note) for line in text.splitlines())
