"""`limpet plugin`: which packages offer steps, decoders and sources, what they offer, and whether they keep to it."""

import argparse
import dataclasses
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.cli.options import DEFAULT_CONFIG, Commands, add_config_again
from agent.cli.plugindocs import rendered
from agent.config import make_config, read_tables
from agent.errors import ConfigError
from agent.plugins.adopting import allowed
from agent.plugins.found import Offer, Plugin, canonical, find, installed
from agent.plugins.loading import load
from agent.promises import Promise, check
from agent.settings.plugins import PluginsConfig


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("plugin", help="packages that add steps, decoders and sources")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="packages that are installed here, and which are allowed; imports nothing")
    add_config_again(listing)
    show = verbs.add_parser("show", help="the keys of what a package offers, as docs/steps.md has those of the agent")
    add_config_again(show)
    show.add_argument("name", metavar="NAME", help="the package")
    about = "Import a package and try every promise of what it offers. Run it as yourself, not as root: the code runs."
    checking = verbs.add_parser("check", help="try every promise of a package", description=about)
    add_config_again(checking)
    checking.add_argument("name", metavar="NAME|PATH", help="the package, or a folder that it was installed into")
    checking.add_argument("--only", metavar="OFFER", help='one thing it offers, e.g. "pre.negative"')
    checking.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a key of it, as TOML")
    parser.set_defaults(config=DEFAULT_CONFIG)


def run(args: argparse.Namespace) -> int:
    """1 when a promise is broken or a package cannot be used. Raises ConfigError."""
    config = _settings(args.config)
    if args.verb == "list":
        return _list(config)
    plugin = _wanted(args.name, config)
    if args.verb == "show":
        print("\n".join(rendered(offer, load(plugin, offer)) for offer in plugin.offers))
        return 0
    return _check(plugin, args.only, _keys(args.set))


def _settings(path: Path) -> PluginsConfig:
    """[plugins] of the configuration; where there is none, nothing is allowed."""
    return make_config(read_tables(path), path).plugins if path != DEFAULT_CONFIG or path.exists() else PluginsConfig()


def _list(config: PluginsConfig) -> int:
    good, bad = allowed(config)
    for plugin in good:
        print(f"allowed      {plugin.name} {plugin.version}: {', '.join(map(str, plugin.offers))}")
    for name, why in bad.items():
        print(f"WRONG        {name}: {why}")
    known = {plugin.name for plugin in good} | set(bad)
    for plugin in installed(config):
        if plugin.name not in known:
            problem = f" ({plugin.problem})" if plugin.problem else ""
            print(f"not allowed  {plugin.name} {plugin.version}: {', '.join(map(str, plugin.offers))}{problem}")
            known.add(plugin.name)
    if not known:
        print(f"no package here offers steps, decoders or sources; looked into {config.folder} and the environment")
    return 1 if bad else 0


def _wanted(name: str, config: PluginsConfig) -> Plugin:
    """An installed package, allowed or not: whoever calls this by name wants it. Raises ConfigError."""
    folder = Path(name)
    if folder.is_dir():
        config = dataclasses.replace(config, folder=folder.resolve())
        there = [one for one in installed(config) if one.folder == folder.resolve()]
        if len(there) != 1:
            names = ", ".join(one.name for one in there) or "none"
            raise ConfigError(f"{folder}: one package with plugins is wanted there, it has {names}: "
                              "pip install --no-deps --target FOLDER PACKAGE")  # fmt: skip
        plugin: Plugin | None = there[0]
    else:
        plugin = find(canonical(name), config)
    if plugin is None or not plugin.offers:
        where = f"is no folder, and no package of that name in {config.folder} or the environment"
        raise ConfigError(f"{name}: it {where} offers a step, decoder or source: limpet plugin list shows them")
    if plugin.problem:
        raise ConfigError(f"plugin {plugin.name}: {plugin.problem}")
    if str(plugin.folder) not in sys.path:
        sys.path.append(str(plugin.folder))
    return plugin


def _keys(words: list[str]) -> dict[str, object]:
    keys: dict[str, object] = {}
    for word in words:
        try:
            keys |= tomllib.loads(word)
        except tomllib.TOMLDecodeError as exc:
            raise ConfigError(f"--set {word}: {exc}: write a key as in TOML, e.g. --set 'white = 200'") from exc
    return keys


def _check(plugin: Plugin, only: str | None, keys: dict[str, object]) -> int:
    chosen = [offer for offer in plugin.offers if only in (None, offer.name, f"{offer.kind}.{offer.name}")]
    if not chosen:
        raise ConfigError(f"--only {only}: {plugin.name} offers {', '.join(map(str, plugin.offers))}")
    broken = 0
    for offer in chosen:
        print(f"{plugin.name} {plugin.version}, {offer}")
        for promise in _promises(plugin, offer, dict(keys)):
            broken += bool(promise.problem)
            print(f"  BROKEN  {promise.text}: {promise.problem}" if promise.problem else f"  kept    {promise.text}")
    print(f"broken promises: {broken}" if broken else "every promise was kept")
    return 1 if broken else 0


def _promises(plugin: Plugin, offer: Offer, keys: dict[str, Any]) -> Iterator[Promise]:
    text = "its module can be imported, and its class fits"
    try:
        cls = load(plugin, offer)
    except ConfigError as exc:
        yield Promise(text, str(exc))
        return
    yield Promise(text)
    if offer.kind == "source":
        keys["kind"] = offer.name
    yield from check(offer.kind, cls, keys, f"plugin {plugin.name} {offer}")
