"""Puts pipelines together: finds and loads each model once, makes the steps, says what could not be made and why."""

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from agent.cache import ResultCache
from agent.clock import Clock
from agent.config import PipelineFile
from agent.errors import ConfigError, LimpetError, ModelError
from agent.inference import Inference, open_model
from agent.manifest import Manifest
from agent.pipeline import Pipeline, config_digest, make_steps
from agent.registry import find, holds_model
from agent.runtime import Runner
from agent.settings.core import ModelUse
from agent.settings.runtime import CacheConfig, ModelsConfig, RuntimeOptions

FACTORY_MODELS = Path(__file__).resolve().parent.parent / "models"
"""The models that come with a checkout; an installation names its folder in [models] folders."""


BY_LABEL = ("classify", "keyword")
"""Decoders whose findings carry the model's labels and no other."""


class Shelf:
    """The models of this process: one runner per model and way of running it, shared by the pipelines that use it."""

    def __init__(self, models: ModelsConfig, cache: CacheConfig, clock: Clock) -> None:
        self._folders = (*models.folders, *([FACTORY_MODELS] if FACTORY_MODELS.is_dir() else []))
        self._limit_bytes = int(models.artifact_limit_mb * 1e6)
        self._slots = threading.BoundedSemaphore(models.slots)
        self._runners: dict[tuple[Path, str], Runner] = {}
        self.cache = ResultCache(cache, clock.mono_s)

    def manifest(self, use: ModelUse, beside: Path) -> Manifest:
        """The model that a pipeline file in folder `beside` names. Raises ModelError."""
        near = beside / use.name
        manifest = find(near if holds_model(near) else use.name, self._folders)
        if use.version is not None and manifest.version != use.version:
            there = f"{manifest.folder} has {manifest.version}"
            raise ModelError(f"model {use.name}: version {use.version} is wanted, {there}: install it or ask for that")
        return manifest

    def inference(self, manifest: Manifest, options: RuntimeOptions) -> Inference:
        """One stream's use of the model, loaded at its first use. Raises ModelError."""
        key = (Path(os.path.realpath(manifest.folder)), config_digest(options))
        if key not in self._runners:
            self._runners[key] = open_model(manifest, options, limit_bytes=self._limit_bytes, slots=self._slots)
        return Inference(manifest, self._runners[key], self.cache)

    def close(self) -> None:
        """Give every model's memory back."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()


@dataclass(frozen=True, slots=True)
class Assembled:
    """The pipelines that can run, and by name why the others cannot."""

    pipelines: tuple[Pipeline, ...]
    broken: Mapping[str, str] = field(default_factory=dict)


def assemble(
    files: Iterable[PipelineFile], sources: Iterable[str], shelf: Shelf, agent_digest: str = ""
) -> Assembled:
    """Make every pipeline whose file, source and model are in order; a bad one does not stop the good ones."""
    known = tuple(sources)
    pipelines: list[Pipeline] = []
    broken: dict[str, str] = {}
    for file in files:
        try:
            _require_source(file, known)
            pipelines.append(make_pipeline(file, shelf, agent_digest))
        except LimpetError as exc:
            broken[file.config.name] = str(exc)
    return Assembled(tuple(pipelines), broken)


def make_pipeline(file: PipelineFile, shelf: Shelf, agent_digest: str = "") -> Pipeline:
    """Make one pipeline. Raises ConfigError for a wrong step, ModelError for a model that cannot be used."""
    config = file.config
    if config.model is None:
        return Pipeline(config, make_steps(config, str(file.path), None), None, agent_digest=agent_digest)
    manifest = shelf.manifest(config.model, file.path.parent)
    _require_labels(file, manifest)
    steps = make_steps(config, str(file.path), dict(manifest.window) if manifest.window else None)
    return Pipeline(config, steps, shelf.inference(manifest, config.model.runtime), agent_digest=agent_digest)


def _require_source(file: PipelineFile, known: tuple[str, ...]) -> None:
    if file.config.source not in known:
        there, wanted = ", ".join(known) or "none", file.config.source
        raise ConfigError(f"{file.path}: key 'source': there is no usable [sources.{wanted}]: there are {there}")


def _require_labels(file: PipelineFile, manifest: Manifest) -> None:
    """A rule that waits for a label which the model never says would be silent for ever."""
    renamed = any(step.get("step") == "label_by_value" for step in file.config.post)
    if renamed or not manifest.labels or (manifest.decoder or {}).get("step") not in BY_LABEL:
        return
    for i, rule in enumerate(file.config.rule, 1):
        for pattern in (rule.label,) if isinstance(rule.label, str) else rule.label:
            if not any(fnmatchcase(label, pattern) for label in manifest.labels):
                few = ", ".join(map(repr, manifest.labels[:12])) + (" ..." if len(manifest.labels) > 12 else "")
                where = f"{file.path} [rule] #{i}: key 'label'"
                raise ConfigError(f"{where}: {pattern!r} fits no label of model {manifest.name}: there are {few}")
