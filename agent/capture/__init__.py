"""Sources: cameras, microphones, sensors, commands, recordings.

`open_source` opens what the configuration names, `file_samples` reads one file for `infer` and `replay`. Whoever
reads a source loops `read` -> inbox, and on CaptureError closes, waits (`agent.backoff`) and opens again with
`first_seq` one above the last number seen. A kind's module is imported when a configuration uses it.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, cast

from agent.capture.source import EndOfStream, Source, Stamp
from agent.clock import Clock
from agent.errors import CaptureError
from agent.inbox import Policy
from agent.records import Array, Modality, Sample
from agent.settings.capture import (
    ExecConfig,
    LinesConfig,
    LoadConfig,
    MicrophoneConfig,
    ReplayConfig,
    SerialConfig,
    SourceConfig,
    SysfsConfig,
    UrlConfig,
    V4l2Config,
)
from pipelines.mask import paint

__all__ = ["EndOfStream", "Source", "file_samples", "file_source", "inbox_limits", "modality_of", "open_source"]

_AUDIO_INBOX_S = 2.0
_CHUNK_S = 0.1
_PATIENT = {False: 16, True: 4}
"""Samples that wait behind a source that waits; fewer pictures, because each takes megabytes."""
_WITHOUT_SOUND = (V4l2Config, SysfsConfig, LoadConfig, LinesConfig, SerialConfig)
_WITH_PICTURES = (V4l2Config, UrlConfig, ExecConfig, ReplayConfig)
_OUTPUTS: dict[str, Modality] = {"frames": "image", "y4m": "image", "pcm": "audio", "lines": "series"}
_SUFFIXES: dict[str, Modality] = {
    ".wav": "audio", ".csv": "series", ".tsv": "series", ".txt": "series", ".log": "series", ".json": "series",
    ".jsonl": "series", ".ndjson": "series", ".npy": "tensor",
}  # fmt: skip
_OPENERS: dict[type[SourceConfig], str] = {
    V4l2Config: "agent.capture.camera:V4l2Source",
    UrlConfig: "agent.capture.stream:open_url",
    ExecConfig: "agent.capture.stream:open_exec",
    MicrophoneConfig: "agent.capture.audio:Microphone",
    SysfsConfig: "agent.capture.sensor:SysfsSource",
    LoadConfig: "agent.capture.sensor:LoadSource",
    LinesConfig: "agent.capture.linefile:open_lines",
    SerialConfig: "agent.capture.sensor:open_serial",
    ReplayConfig: "agent.capture.replay:Replay",
}


class Plugged(Protocol):
    """The settings of a plugin's source."""

    @property
    def modality(self) -> Modality: ...
    def open(self, stamp: Stamp) -> Source:
        """Open it, within its own deadlines. Every sample is made by `stamp`. Raises CaptureError."""
        ...


def open_source(name: str, config: SourceConfig, clock: Clock, first_seq: int = 0) -> Source:
    """Open the source `name`. Raises CaptureError, within the deadlines of `config`, when that is not possible."""
    stamp = Stamp(name, clock, first_seq, replay=isinstance(config, ReplayConfig), mask=_mask_of(config))
    opener = _OPENERS.get(type(config))
    if opener is None:
        plugged: Source = cast("Plugged", config).open(stamp)
        return plugged
    module, _, attribute = opener.partition(":")
    opened: Source = getattr(importlib.import_module(module), attribute)(config, stamp)
    return opened


def file_source(
    path: Path, modality: Modality | Literal["auto"], clock: Clock, settings: ReplayConfig | None = None
) -> Source:
    """One file as a finite source: in order, dropping nothing, as fast as it is read; EndOfStream behind the last.

    `settings` overrides rates, chunk length, columns and the like; its path, modality and loop are ignored.
    Raises CaptureError that says what to do for anything that is no whole recording of `modality`.
    """
    from agent.capture.replay import Replay

    config = replace(settings or ReplayConfig(path=path), path=path, modality=modality, speed="max", loop=False)
    return Replay(config, Stamp(path.name, clock, replay=True, mask=_mask_of(config)), strict=True)


def _mask_of(config: SourceConfig) -> Callable[[Array], Array] | None:
    mask = config.mask if isinstance(config, _WITH_PICTURES) else getattr(config, "mask", None)
    return None if mask is None else partial(paint, polygons=mask.polygons, fill=mask.fill)


def file_samples(
    path: Path, modality: Modality | Literal["auto"], clock: Clock, settings: ReplayConfig | None = None
) -> Iterator[Sample]:
    """Every sample of one file, in order; see `file_source`. Raises CaptureError when it cannot be read to its end."""
    with file_source(path, modality, clock, settings) as source:
        while True:
            try:
                sample = source.read(1.0)
            except EndOfStream:
                return
            if sample is None:
                raise CaptureError(f"{path}: nothing came for a second: is it a finite recording?")
            yield sample


def inbox_limits(config: SourceConfig) -> tuple[int, Policy]:
    """Capacity (samples) and policy of an inbox behind this source.

    Cameras: the newest frame wins. Sound: 2 s, then the oldest go. Rows and everything replayed at "max" wait.
    """
    modality = modality_of(config)
    if modality == "series" or (isinstance(config, ReplayConfig) and config.speed == "max"):
        return _PATIENT[modality == "image"], "block"
    if modality == "audio" and not isinstance(config, _WITHOUT_SOUND):
        return max(2, round(_AUDIO_INBOX_S / getattr(config, "chunk_s", _CHUNK_S))), "drop_oldest"
    return 1, "drop_oldest"


def modality_of(config: SourceConfig) -> Modality:
    """What the source will deliver; for a recording with modality "auto" as its name suggests."""
    match config:
        case V4l2Config():
            return "image"
        case UrlConfig():
            return config.modality
        case MicrophoneConfig():
            return "audio"
        case ExecConfig():
            return _OUTPUTS[config.output]
        case ReplayConfig():
            return _SUFFIXES.get(config.path.suffix.lower(), "image") if config.modality == "auto" else config.modality
        case _ if type(config) not in _OPENERS:
            return cast("Plugged", config).modality
        case _:
            return "series"
