"""Steps, decoders and sources of other packages, as far as [plugins] allows them by name.

A plugin is code with the agent's rights, so: nothing is imported that is not allowed, and what is allowed is imported
when a configuration names it, never before. Its files must belong to root, to this user or to the owner of the agent's
code. A name that is taken, by the agent or by a plugin allowed before it, is refused; so is another API. Whatever is
refused leaves out those who name it, with the reason; everything else runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.settings import capture
from agent.settings.plugins import PluginsConfig
from pipelines import PLUGGED, Loader


@dataclass(frozen=True, slots=True)
class Adopted:
    """What allowed packages add."""

    steps: Mapping[str, Mapping[str, Loader]]
    """kind -> name -> how to get the class."""
    sources: Mapping[str, Loader]
    packages: Mapping[str, str]
    """Name -> version."""


def adopt(config: PluginsConfig) -> dict[str, str]:
    """From now on let configurations of this process name what the allowed packages offer, and nothing else of others.

    Returns by name why packages are not used. Imports nothing.
    """
    if config.allow:
        from agent.plugins.adopting import adopted  # reading metadata takes longer to import than much of a start

        found, bad = adopted(config)
    else:
        found, bad = Adopted({}, {}, {}), {}
    PLUGGED.steps, PLUGGED.packages, capture.PLUGGED.kinds = found.steps, found.packages, found.sources
    PLUGGED.troubles = tuple(f"plugin {name}: {why}" for name, why in bad.items())
    return bad


def used() -> Mapping[str, str]:
    """The packages that were adopted, and their versions."""
    return PLUGGED.packages
