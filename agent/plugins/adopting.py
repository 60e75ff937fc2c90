"""Which of the packages that [plugins] allows may be used, and why the others may not. Imports nothing of them."""

import sys
from collections.abc import Mapping
from functools import partial

from agent.plugins import Adopted
from agent.plugins.found import Plugin, canonical, find
from agent.plugins.loading import load
from agent.settings import capture
from agent.settings.plugins import PluginsConfig
from pipelines import BESIDE, STEPS, Loader


def adopted(config: PluginsConfig) -> tuple[Adopted, dict[str, str]]:
    """What the allowed packages add, and by name why some do not."""
    good, bad = allowed(config)
    if good and str(config.folder) not in sys.path:
        sys.path.append(str(config.folder))  # last: it stands in for nothing that the agent has
    steps: dict[str, dict[str, Loader]] = {}
    for plugin in good:
        for offer in plugin.offers:
            steps.setdefault(offer.kind, {})[offer.name] = partial(load, plugin, offer)
    sources = steps.pop("source", {})
    return Adopted(steps, sources, {plugin.name: plugin.version for plugin in good}), bad


def allowed(config: PluginsConfig) -> tuple[tuple[Plugin, ...], dict[str, str]]:
    """The allowed packages that may be used, and by name why the others may not."""
    good: list[Plugin] = []
    bad: dict[str, str] = {}
    taken = {(_family(kind), name): "the agent" for kind, table in STEPS.items() for name in table}
    taken |= {("source", kind): "the agent" for kind in capture.kinds()}
    for name in dict.fromkeys(map(canonical, config.allow)):
        plugin = find(name, config)
        if plugin is None:
            where = f"[plugins] folder ({config.folder})"
            bad[name] = f"[plugins] allow: '{name}' is not installed: put it into {where}, or take it out"
        elif plugin.problem:
            bad[name] = plugin.problem
        elif not plugin.offers:
            bad[name] = f"[plugins] allow: '{name}' offers no step, decoder or source: take it out"
        elif clash := _clash(plugin, taken):
            bad[name] = clash
        else:
            good.append(plugin)
            taken |= {(_family(offer.kind), offer.name): plugin.name for offer in plugin.offers}
    return tuple(good), bad


def _family(kind: str) -> str:
    """Kinds that share one list of names in TOML count as one."""
    return next((first for first, second in BESIDE.items() if second == kind), kind)


def _clash(plugin: Plugin, taken: Mapping[tuple[str, str], str]) -> str:
    mine: set[tuple[str, str]] = set()
    for offer in plugin.offers:
        key = (_family(offer.kind), offer.name)
        owner = plugin.name if key in mine else taken.get(key)
        if owner is not None:
            return f"the name of its {offer} is taken by {owner}: nothing of it is used until it is renamed"
        mine.add(key)
    return ""
