"""A file as the views that a model would see: how `limpet infer` and golden inputs go the way of live samples."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.capture import file_samples
from agent.clock import SystemClock
from agent.manifest import Manifest
from agent.pipeline import whole
from agent.records import Array, Sample, View
from agent.settings.capture import ReplayConfig
from pipelines import Window, make_step

SILENCE_S = 60
"""Longest window of a model that a short sound is padded for, seconds."""


def views(manifest: Manifest, path: Path) -> Iterator[View]:
    """Every view of a file that the model would see in a pipeline; a sound shorter than one window is padded.

    Raises CaptureError when the file cannot be read to its end.
    """
    yield from views_of(manifest, file_samples(path, manifest.modality, SystemClock(), settings_for(manifest, path)))


def settings_for(manifest: Manifest, path: Path) -> ReplayConfig:
    """How a file is read for a model: sound at the rate that its window is for."""
    rate_hz = (manifest.window or {}).get("rate_hz") if manifest.modality == "audio" else None
    return ReplayConfig(path=path, rate_hz=rate_hz) if isinstance(rate_hz, int) else ReplayConfig(path=path)


def views_of(manifest: Manifest, samples: Iterable[Sample]) -> Iterator[View]:
    """Every view that the model would see of these samples; sound shorter than one window is padded."""
    if manifest.window is None:
        yield from map(whole, samples)
        return
    window: Window = make_step("window", dict(manifest.window), f"{manifest} [window]")
    state, made, last = window.initial(), 0, None
    for sample in samples:
        last = sample
        state, ready = window(state, sample)
        made += len(ready)
        yield from ready
    if last is None or made:
        return
    for sample in silence_after(last):
        state, ready = window(state, sample)
        if ready:
            yield ready[0]
            return


def silence_after(last: Sample) -> Iterator[Sample]:
    """A minute of silence behind the end of a sound, second by second, to fill a window that it was too short for.

    Nothing for what is no sound.
    """
    if last.modality != "audio" or not last.rate_hz:
        return
    silence: Array = np.zeros(int(last.rate_hz), last.data.dtype)
    for _ in range(SILENCE_S):
        step_s = len(last.data) / last.rate_hz
        last = replace(
            last, seq=last.seq + 1, t_s=last.t_s + step_s, t_mono_s=last.t_mono_s + step_s,
            t_wall_s=last.t_wall_s + step_s, data=silence, gap=False,
        )  # fmt: skip
        yield last
