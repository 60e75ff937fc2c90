"""What to look for: the steps that a pipeline is made of.

A step is a frozen dataclass: its fields are its configuration, checked once by `agent.strict`, and its `__call__` is
its behaviour. Steps are pure: numpy in, numpy out, no I/O, no clock. A step that remembers something gets its state
as an argument and returns the next one; `initial()` makes the first. `STEPS` lists them by kind and name; a step's
module is imported when a pipeline names it, never before.
"""

import importlib
import typing
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from agent.errors import ConfigError
from agent.records import Finding, Sample, Tensors, View
from agent.strict import build


class Gate(Protocol):
    """Decides whether a view is worth a model: `(state, view) -> (state, passes)`."""

    def initial(self) -> Any: ...
    def __call__(self, state: Any, view: View, /) -> tuple[Any, bool]: ...


class Window(Protocol):
    """Turns a stream of audio chunks or series rows into views: `(state, sample) -> (state, views)`.

    A sample with `gap` set starts a new window: no view may span a gap unless the step says how it fills it.
    """

    def initial(self) -> Any: ...
    def __call__(self, state: Any, sample: Sample, /) -> tuple[Any, tuple[View, ...]]: ...


class Pre(Protocol):
    """Brings a view closer to what a model takes. Never writes into its input."""

    def __call__(self, view: View, /) -> View: ...


class Decoder(Protocol):
    """Turns a model's outputs (dequantised float32, by port name in manifest order) into findings."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]: ...


class Detector(Protocol):
    """Finds things without a model file: `(state, view) -> (state, findings)`."""

    def initial(self) -> Any: ...
    def __call__(self, state: Any, view: View, /) -> tuple[Any, tuple[Finding, ...]]: ...


class Post(Protocol):
    """Drops or rewrites findings."""

    def __call__(self, findings: tuple[Finding, ...], /) -> tuple[Finding, ...]: ...


@runtime_checkable
class Follow(Protocol):
    """Follows what is found from view to view: `(state, findings, view) -> (state, findings)`.

    It sees every view that reached the decoder, also those without findings. It may be given any view after any other:
    `gap` is set where something was lost, and times jump where a gate held views back. A step with something open at
    the end of a recording tells it by a method `ends(state) -> findings`.
    """

    def initial(self) -> Any: ...
    def __call__(
        self, state: Any, findings: tuple[Finding, ...], view: View, /
    ) -> tuple[Any, tuple[Finding, ...]]: ...


STEPS: dict[str, dict[str, str]] = {
    "gate": {
        "change": "pipelines.gates:Change",
        "interval": "pipelines.gates:Interval",
        "level": "pipelines.audio:Level",
        "motion": "pipelines.gates:Motion",
        "value_change": "pipelines.series:ValueChange",
        "value_level": "pipelines.series:ValueLevel",
    },
    "window": {
        "frames": "pipelines.audio:Frames",
        "log_mel_frames": "pipelines.audio_stream:LogMelFrames",
        "micro_frames": "pipelines.micro_frontend:MicroFrames",
        "rows": "pipelines.series:RowWindow",
        "running_rows": "pipelines.moments:RunningRows",
        "seconds": "pipelines.series:SecondWindow",
    },
    "pre": {
        "cells": "pipelines.image:Cells",
        "centre_crop": "pipelines.image:CentreCrop",
        "colour": "pipelines.image:Colour",
        "contrast": "pipelines.pixels:Contrast",
        "crop": "pipelines.image:Crop",
        "diff": "pipelines.spectra:Diff",
        "features": "pipelines.spectra:Features",
        "flatten": "pipelines.spectra:Flatten",
        "layout": "pipelines.pixels:Layout",
        "letterbox": "pipelines.image:Letterbox",
        "log_mel": "pipelines.audio_features:LogMel",
        "mask": "pipelines.mask:Mask",
        "mfcc": "pipelines.audio_features:Mfcc",
        "normalise": "pipelines.pixels:Normalise",
        "resize": "pipelines.image:Resize",
        "select": "pipelines.spectra:Select",
        "spectrum": "pipelines.spectra:Spectrum",
        "standardise": "pipelines.spectra:Standardise",
        "waveform": "pipelines.audio_features:Waveform",
    },
    "decoder": {
        "box_anchors": "pipelines.detect_anchors:BoxAnchors",
        "box_grid": "pipelines.detect_grid:BoxGrid",
        "box_table": "pipelines.detect:BoxTable",
        "boxes": "pipelines.detect:Boxes",
        "classify": "pipelines.classify:Classify",
        "digits": "pipelines.classify:Digits",
        "heatmaps": "pipelines.pose:Heatmaps",
        "keypoints": "pipelines.pose:Keypoints",
        "keyword": "pipelines.audio:Keyword",
        "reconstruction": "pipelines.anomaly:Reconstruction",
        "segments": "pipelines.segment:Segments",
        "sounds": "pipelines.sound_events:Sounds",
    },
    "detector": {
        "streaming_zscore": "pipelines.anomaly:StreamingZScore",
    },
    "post": {
        "keep_labels": "pipelines.findings:KeepLabels",
        "label_by_value": "pipelines.findings:LabelByValue",
        "min_score": "pipelines.findings:MinScore",
        "top": "pipelines.findings:Top",
    },
    "follow": {
        "lines": "pipelines.zones:Lines",
        "smooth": "pipelines.sound_events:Smooth",
        "spans": "pipelines.voice:Spans",
        "tracks": "pipelines.track:Tracks",
        "words": "pipelines.wakeword:Words",
        "zones": "pipelines.zones:Zones",
    },
}
"""kind -> name in TOML -> "module:Class"."""

BESIDE = {"post": "follow"}
"""Lists in TOML whose steps may be of a second kind."""

Loader = Callable[[], type[Any]]
"""Imports the class of a step. Raises ConfigError."""


class Plugged:
    """What other packages add: empty until `agent.plugins.adopt` fills it, from what the configuration allows."""

    def __init__(self) -> None:
        self.steps: Mapping[str, Mapping[str, Loader]] = {}
        """kind -> name in TOML -> how to get the class; no name of `STEPS` is in it."""
        self.troubles: tuple[str, ...] = ()
        """Why packages that are allowed are not in it."""
        self.packages: Mapping[str, str] = {}
        """Name -> version of those that are."""


PLUGGED = Plugged()


def make_step(kind: str, table: Mapping[str, Any], where: str) -> Any:
    """Make the step that `table` describes: key `step` names it, the others configure it. Raises ConfigError."""
    name = table.get("step")
    kinds = (kind, *([BESIDE[kind]] if kind in BESIDE else []))
    known: dict[str, str | Loader] = {}
    for one in kinds:
        known |= {**PLUGGED.steps.get(one, {}), **STEPS[one]}
    if not isinstance(name, str) or name not in known:
        allowed, also = ", ".join(sorted(known)), "".join(f" ({trouble})" for trouble in PLUGGED.troubles)
        raise ConfigError(f"{where}: key 'step': {name!r} is no {kind} step: it must be one of {allowed}{also}")
    cls = _class_of(known[name])
    return build(cls, {k: v for k, v in table.items() if k != "step"}, f"{where} step '{name}'")


def _class_of(step: str | Loader) -> type[Any]:
    if not isinstance(step, str):
        return step()
    module, _, attribute = step.partition(":")
    return typing.cast("type[Any]", getattr(importlib.import_module(module), attribute))
