"""The models of this process: one runner per model and way of running it, shared by the pipelines that use it.

A name is looked for beside the pipeline file, then in the depot (what its record says is active, then the ways back),
then in the configured folders. A version of the depot that cannot be used is noted in `troubles` and the next one runs.
A runner is closed when nobody uses it any more, by `sweep`, so that no lane waits for memory to be given back; and
when [models] resident_mb is needed for another one (`agent.app.residency`).
"""

import os
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.app.residency import Residency, Resident
from agent.cache import ResultCache
from agent.clock import Clock
from agent.depot import Pick
from agent.errors import ModelError
from agent.inference import Inference
from agent.loading import open_model, place_of
from agent.manifest import Manifest
from agent.pipeline import config_digest
from agent.registry import OPERATOR, Origin, candidates, find, holds_model
from agent.settings.core import ModelUse
from agent.settings.runtime import CacheConfig, ModelsConfig, RuntimeOptions
from agent.stock import Stock

FACTORY_MODELS = Path(__file__).resolve().parent.parent.parent / "models"
"""The models that come with a checkout; an installation names its folder in [models] folders."""
ADDED_HERE = FACTORY_MODELS.parent / ".models"
"""Where `limpet models add` puts models in a checkout."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A version of the depot that should run and cannot."""

    pick: Pick | None
    """None: the factory's."""
    text: str


@dataclass(slots=True)
class _Shared:
    runner: Resident
    users: int = 0


def searched(models: ModelsConfig) -> tuple[Path, ...]:
    """The folders in which a model's name is looked for, in order."""
    here = (folder for folder in (models.added, FACTORY_MODELS, ADDED_HERE) if folder.is_dir())
    return tuple(dict.fromkeys((*models.folders, *here)))


class Shelf:
    """Finds, loads and shares models. Safe to call from several threads."""

    def __init__(self, models: ModelsConfig, cache: CacheConfig, clock: Clock, stock: Stock | None = None) -> None:
        """`stock`: the depot, where there is one."""
        self._folders = searched(models)
        self._limit_bytes = int(models.artifact_limit_mb * 1e6)
        self._slots = threading.BoundedSemaphore(models.slots)
        self._place = place_of(models)
        self.residency = Residency(int(models.resident_mb * 1e6))
        self._loading: dict[tuple[Path, str], threading.Lock] = {}
        self._stock = stock
        self._lock = threading.Lock()
        self._runners: dict[tuple[Path, str], _Shared] = {}
        self._origins: dict[Path, Origin] = {}
        self.cache = ResultCache(cache, clock.mono_s)
        self.taken: dict[str, Pick | None] = {}
        """Model name -> the version that was made last; None: that of the configured folders."""
        self.troubles: dict[str, Trouble] = {}
        """Model name -> what should run and cannot, as of the last time it was made."""

    def from_depot(self, use: ModelUse, beside: Path) -> bool:
        """Whether the depot is asked for this model: it is called by name, and none lies beside the pipeline file."""
        return self._stock is not None and Path(use.name).name == use.name and not holds_model(beside / use.name)

    def choices(self, use: ModelUse, beside: Path) -> tuple[Pick | None, ...]:
        """The versions to take, best first; None is that of the configured folders, which always comes in last."""
        if self._stock is None or not self.from_depot(use, beside):
            return (None,)
        model = self._stock.state().model(use.name)
        if use.version is None:
            return model.ways_back
        fitting = (pick for pick in (model.active, model.good, model.pinned) if pick and pick.version == use.version)
        return (*dict.fromkeys(fitting), None)

    def manifest(self, use: ModelUse, beside: Path, pick: Pick | None = None) -> Manifest:
        """The model that a pipeline file in folder `beside` names, as `pick` of the depot or else from the folders.

        Raises ModelError.
        """
        if pick is not None and self._stock is not None:
            held = self._stock.hold(use.name, pick)
            with self._lock:
                self._origins[_real(held.manifest.folder)] = held.origin
            return held.manifest
        near = beside / use.name
        manifest = find(near if holds_model(near) else use.name, self._folders)
        if use.version is not None and manifest.version != use.version:
            there = f"{manifest.folder} has {manifest.version}"
            raise ModelError(f"model {use.name}: version {use.version} is wanted, {there}: install it or ask for that")
        return manifest

    def inference(self, manifest: Manifest, options: RuntimeOptions, similar: bool | None = None) -> Inference:
        """One stream's use of the model, loaded at its first use. Raises ModelError.

        `similar`: whether near-duplicate pictures may be answered alike; None: as the configuration says.
        """
        key = (_real(manifest.folder), config_digest(options))
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:  # two copies of a model would be one too many
            with self._lock:
                shared, origin = self._runners.get(key), self._origins.get(key[0], OPERATOR)
                if shared is not None:
                    shared.users += 1  # from here on: `sweep` may come at any moment
            if shared is None:
                shared = _Shared(self._load(manifest, options, origin), 1)
                with self._lock:
                    self._runners[key] = shared
        near = self.cache.config.similar
        near = near if similar is None else replace(near, enabled=similar)
        try:
            return Inference(manifest, shared.runner, self.cache, similar=near)
        except ModelError:
            with self._lock:
                shared.users -= 1
            raise

    def give_back(self, inference: Inference) -> None:
        """A stream uses the model no more. Quick: the memory goes at the next `sweep`."""
        with self._lock:
            for shared in self._runners.values():
                if shared.runner is inference.runner:
                    shared.users -= 1

    def sweep(self) -> None:
        """Close every model that nobody uses."""
        with self._lock:
            idle = [key for key, shared in self._runners.items() if shared.users <= 0]
            gone = [self._runners.pop(key) for key in idle]
        for shared in gone:
            shared.runner.close()

    def close(self) -> None:
        """Give every model's memory back."""
        with self._lock:
            gone = list(self._runners.values())
            self._runners.clear()
        for shared in gone:
            shared.runner.close()

    def _load(self, manifest: Manifest, options: RuntimeOptions, origin: Origin) -> Resident:
        load = partial(
            open_model, manifest, options, limit_bytes=self._limit_bytes, slots=self._slots, origin=origin,
            prepared=self._place,
        )  # fmt: skip
        return self.residency.lend(str(manifest), _size_bytes(manifest, options), load)


def _size_bytes(manifest: Manifest, options: RuntimeOptions) -> int:
    """Of the model file that is taken first; 0 where there is none, which loading tells. Raises ModelError."""
    present = [*options.providers, *(str(delegate.path) for delegate in options.delegates)]
    artifact = candidates(manifest, options.prefer, present)[0]
    try:
        return (manifest.folder / artifact.file).stat().st_size
    except OSError:
        return 0


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))
