"""Puts pipelines together: takes the models from the shelf, makes the steps, says what could not be made and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from agent.app.shelf import Shelf, Trouble
from agent.config import PipelineFile
from agent.depot import Pick
from agent.errors import ConfigError, LimpetError
from agent.inference import why_not_similar
from agent.manifest import Manifest
from agent.pipeline import Pipeline, Steps, make_steps
from agent.registry import candidates
from agent.settings.core import ModelUse
from agent.trial.seat import Seat
from pipelines.chain import make_posts
from pipelines.labels import said

BY_LABEL = ("classify", "keyword", "sounds", "boxes", "box_table", "box_grid", "box_anchors", "segments")
"""Decoders whose findings carry the model's labels and no other."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """The pipelines that can run, and by name why the others cannot."""

    pipelines: tuple[Pipeline | Seat, ...]
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
    """Make one pipeline with the best version of its model that can be used; the shelf notes what cannot.

    Raises ConfigError for a wrong step, ModelError for a model of which no version can be used.
    """
    use = file.config.model
    if use is None:
        return Pipeline(file.config, make_steps(file.config, str(file.path), None), None, agent_digest=agent_digest)
    wanted, *ways_back = shelf.choices(use, file.path.parent)
    pick = wanted
    while True:
        try:
            made = make_with(file, shelf, pick, agent_digest)
            shelf.taken[use.name] = pick
            return made
        except LimpetError as exc:
            if not ways_back:
                raise
            shelf.troubles.setdefault(use.name, Trouble(wanted, str(exc)))
            pick = ways_back.pop(0)


def make_with(file: PipelineFile, shelf: Shelf, pick: Pick | None, agent_digest: str = "") -> Pipeline:
    """Make one pipeline with exactly `pick` of its model; None: that of the configured folders. Raises as above."""
    config = file.config
    assert config.model is not None
    manifest, steps = _prepared(file, config.model, shelf, pick)
    inference = shelf.inference(manifest, config.model.runtime, config.model.similar)
    return Pipeline(config, steps, inference, agent_digest=agent_digest)


def examine(files: Iterable[PipelineFile], sources: Iterable[str], shelf: Shelf) -> dict[str, str]:
    """By name why a pipeline could not be made, as far as that shows without loading a model."""
    known = tuple(sources)
    broken: dict[str, str] = {}
    for file in files:
        try:
            _require_source(file, known)
            _rehearse(file, shelf)
        except LimpetError as exc:
            broken[file.config.name] = str(exc)
    return broken


def _rehearse(file: PipelineFile, shelf: Shelf) -> None:
    use = file.config.model
    if use is None:
        make_steps(file.config, str(file.path), None)
        return
    manifest, _ = _prepared(file, use, shelf, shelf.choices(use, file.path.parent)[0])
    options = use.runtime
    candidates(manifest, options.prefer, [*options.providers, *(str(one.path) for one in options.delegates)])


def _prepared(file: PipelineFile, use: ModelUse, shelf: Shelf, pick: Pick | None) -> tuple[Manifest, Steps]:
    manifest = shelf.manifest(use, file.path.parent, pick)
    _require_labels(file, manifest)
    if use.similar and (why := why_not_similar(manifest)):
        raise ConfigError(f"{file.path}: [model] key 'similar': model {manifest} {why}: leave the key out")
    return manifest, make_steps(file.config, str(file.path), dict(manifest.window) if manifest.window else None)


def _require_source(file: PipelineFile, known: tuple[str, ...]) -> None:
    if file.config.source not in known:
        there, wanted = ", ".join(known) or "none", file.config.source
        raise ConfigError(f"{file.path}: key 'source': there is no usable [sources.{wanted}]: there are {there}")


def _require_labels(file: PipelineFile, manifest: Manifest) -> None:
    """A rule that waits for a label which nobody says would be silent for ever: "person" behind the step `tracks`."""
    renamed = any(step.get("step") == "label_by_value" for step in file.config.post)
    if renamed or not manifest.labels or (manifest.decoder or {}).get("step") not in BY_LABEL:
        return
    posts = (*make_posts(manifest.post, str(manifest)), *make_posts(file.config.post, str(file.path)))
    labels = said(posts, manifest.labels)
    few = (", ".join(map(repr, labels[:12])) or "none") + (" ..." if len(labels) > 12 else "")
    for i, rule in enumerate(file.config.rule, 1):
        for pattern in (rule.label,) if isinstance(rule.label, str) else rule.label:
            if not any(fnmatchcase(label, pattern) for label in labels):
                where = f"{file.path} [rule] #{i}: key 'label'"
                behind = " behind its steps" if labels != manifest.labels else ""
                told = f"{pattern!r} fits no label of model {manifest.name}{behind}"
                raise ConfigError(f"{where}: {told}: there are {few}")
