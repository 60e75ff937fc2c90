"""A file as the views that a model would see: how `limpet infer` and golden inputs go the way of live samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent.capture import file_samples
from agent.clock import SystemClock
from agent.manifest import Manifest
from agent.pipeline import whole
from agent.records import Array, Sample, View
from pipelines import Window, make_step


def views(manifest: Manifest, path: Path) -> Iterator[View]:
    """Every view of a file that the model would see in a pipeline; a sound shorter than one window is padded.

    Raises CaptureError when the file cannot be read to its end.
    """
    samples = file_samples(path, manifest.modality, SystemClock())
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
    if last is not None and not made and last.modality == "audio":
        yield from _padded(window, state, last)


def _padded(window: Window, state: Any, last: Sample) -> Iterator[View]:
    """Silence after the end until one view is whole; at most a minute of it."""
    silence: Array = np.zeros(int(last.rate_hz or 1), last.data.dtype)
    for i in range(60):
        step_s = len(last.data) / (last.rate_hz or 1) if i == 0 else 1.0
        last = Sample(
            last.source, last.seq + 1, last.t_s + step_s, last.t_mono_s + step_s, last.t_wall_s + step_s,
            "audio", silence, last.clock, last.rate_hz, replay=last.replay,
        )  # fmt: skip
        state, ready = window(state, last)
        if ready:
            yield ready[0]
            return
