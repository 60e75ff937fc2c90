"""What installed packages say that they offer: read from their metadata, without importing anything of them.

An entry point of group `limpet.steps` is called KIND.NAME, e.g. "pre.negative"; of `limpet.decoders` and
`limpet.sources` NAME. It names the class that is the step, or the source's settings.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, MetadataPathFinder
from pathlib import Path
from typing import Final

from agent.plugins.trust import foreign
from agent.settings.plugins import PluginsConfig
from pipelines import STEPS

GROUPS: Final = ("limpet.steps", "limpet.decoders", "limpet.sources")
_NAME: Final = r"[a-z][a-z0-9_]{0,31}"
_OURS: Final = frozenset({"agent", "pipelines"})


@dataclass(frozen=True, slots=True)
class Offer:
    """One step, decoder or source of a package."""

    package: str
    kind: str
    """gate, window, pre, decoder, detector, post, follow, or source."""
    name: str
    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed package that offers something. With a `problem` none of it may be used."""

    name: str
    version: str
    folder: Path
    """What it was installed into."""
    offers: tuple[Offer, ...]
    files: frozenset[Path]
    """Those in `folder`; programs that lie elsewhere are left out."""
    problem: str = ""


def canonical(name: str) -> str:
    """A package's name as all its spellings compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(config: PluginsConfig) -> Iterator[Plugin]:
    """Every package here that offers something, allowed or not."""
    seen: set[str] = set()
    for found in Distribution.discover(path=_places(config)):
        if any(point.group in GROUPS for point in found.entry_points) and canonical(found.name) not in seen:
            seen.add(canonical(found.name))
            yield _read(found)


def find(name: str, config: PluginsConfig) -> Plugin | None:
    """The package of that name, None when it is not installed."""
    context = MetadataPathFinder.Context(name=name, path=_places(config))
    found = next(iter(MetadataPathFinder.find_distributions(context)), None)
    return None if found is None else _read(found)


def _places(config: PluginsConfig) -> list[str]:
    """The agent's own environment first: that is where an import looks first, too."""
    return [*sys.path, str(config.folder)]


def _read(found: Distribution) -> Plugin:
    name, there = canonical(found.name), Path(str(found.locate_file("")))
    base = there.resolve()  # a link on the way there must not hide the files from the look at who may write them
    points = [point for point in found.entry_points if point.group in GROUPS]
    located = (Path(str(file.locate())) for file in found.files or ())
    files = frozenset(base / file.relative_to(there) for file in located if file.is_relative_to(there))
    offers, problems = [], []
    for point in points:
        offer = _offer(name, point)
        if isinstance(offer, str):
            problems.append(offer)
        else:
            offers.append(offer)
    if not files:
        problems.append("it has no list of its files (RECORD): install it with pip, not in editable mode")
    elif why := foreign(base, files):
        problems.append(f"it cannot be trusted: {why}")
    return Plugin(name, found.version, base, tuple(sorted(offers, key=str)), files, "; ".join(problems))


def _offer(package: str, point: EntryPoint) -> Offer | str:
    """What an entry point offers, or what is wrong with it."""
    kind, _, name = point.name.rpartition(".") if point.group == "limpet.steps" else ("", "", point.name)
    kind = {"limpet.decoders": "decoder", "limpet.sources": "source"}.get(point.group, kind)
    if kind not in (*STEPS, "source") or (kind == "decoder") != (point.group == "limpet.decoders"):
        kinds = ", ".join(sorted(set(STEPS) - {"decoder"}))
        return f"entry point '{point.name}' of {point.group}: it must be called KIND.NAME, KIND one of {kinds}"
    if not re.fullmatch(_NAME, name):
        return f"entry point '{point.name}': a name is lower-case letters, digits and '_', at most 32"
    top = point.module.partition(".")[0]
    if top in _OURS or top in sys.stdlib_module_names:
        return f"entry point '{point.name}': module {point.module} is not the package's own: rename it"
    return Offer(package, kind, name, point.module, point.attr)
