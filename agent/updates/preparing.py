"""The updater's part in prepared files (docs/memory.md): made before a version is tried, gone when the version goes.

Nothing here can make an update fail: without prepared files a model is loaded plainly, and says so. What a new release
of the agent, with another runtime, finds stale is made again by the next run of the updater.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent.config import read_tables
from agent.depot import Pick, present, read_state
from agent.errors import LimpetError
from agent.loading import place_of
from agent.manifest import load_manifest
from agent.prepared import forget, prepare
from agent.registry import candidates
from agent.runtime.prepared import Place
from agent.settings.runtime import ModelsConfig
from agent.settings.updates import UpdatesConfig
from agent.stock import Stock
from agent.strict import build

log = logging.getLogger(__name__)

WAIT_S: Final = 600.0
"""For a person who prepares a model by hand at the same time, seconds."""


class Preparer:
    """Prepares the versions of one depot."""

    def __init__(self, path: Path, updates: UpdatesConfig) -> None:
        """`path`: limpet.toml, whose [models] say where prepared files lie. Raises ConfigError."""
        models = build(ModelsConfig, read_tables(path).get("models", {}), f"{path} [models]")
        place = place_of(models)
        self._place = Place(path.resolve().parent / place.folder, place.from_bytes, place.limit_bytes)
        self._stock, self._folder = Stock(updates), updates.folder
        self._limit_bytes, self._memory_bytes = int(updates.size_mb * 1e6), int(updates.probe_memory_mb * 1e6)

    def version(self, name: str, pick: Pick) -> None:
        """Prepare one version, if that gains anything."""
        try:
            held = self._stock.hold(name, pick)
            if held.origin.unseal is not None:
                return
            done = prepare(
                held.manifest, candidates(held.manifest)[0], self._place, limit_bytes=self._limit_bytes,
                memory_bytes=self._memory_bytes, wait_s=WAIT_S,
            )  # fmt: skip
        except LimpetError as exc:
            log.warning("update model=%s %s prepared=no reason=%s", name, pick.version, exc)
            return
        if done.state in ("made", "refused"):
            log.info("update model=%s %s prepared=%s %s", name, pick.version, done.state, done.reason)

    def kept(self) -> None:
        """Prepare every version that the record keeps and that has no prepared files for this runtime and processor."""
        state = read_state(self._folder)
        for name in self._names():
            for pick in state.model(name).kept:
                self.version(name, pick)

    def digests(self) -> set[str]:
        """SHA-256 of every model file that lies in the depot."""
        found: set[str] = set()
        for name in self._names():
            for folder, _, _ in present(self._folder, name):
                found |= _digests(folder)
        return found

    def forget(self, gone: Iterable[str]) -> None:
        """Remove what was prepared for model files with these digests."""
        for sha256 in gone:
            try:
                forget(self._place.folder, sha256, WAIT_S)
            except LimpetError as exc:
                log.warning("update prepared=left reason=%s", exc)

    def _names(self) -> list[str]:
        return [path.name for path in sorted((self._folder / "models").glob("*"))]


def _digests(folder: Path) -> set[str]:
    try:
        return {artifact.sha256 for artifact in load_manifest(folder).artifacts}
    except LimpetError:
        return set()
