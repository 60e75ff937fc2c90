"""The views of `limpet models try`: which of an input's are run, and the pictures that come of them.

Owns the choice: pictures spread evenly over a film, a few from a camera once its exposure has settled, all of a sound
or a table. A model that remembers is shown every picture up to the last one drawn.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from agent.capture import EndOfStream, file_samples, modality_of, open_source
from agent.clock import SystemClock
from agent.drawing.picture import drawn
from agent.drawing.plot import Curve, plotted
from agent.errors import ConfigError, ModelError
from agent.pipeline import whole
from agent.records import Array, Sample, View
from agent.settings.capture import SourceConfig
from agent.tryout import Seen, Tryout
from agent.views import settings_for, views_of

MOST_FRAMES = 64
_MOST_COUNTED = 100_000
_SETTLE_FRAMES = 5
_APART_S = 0.5


def pictures(tryout: Tryout, source: Path | SourceConfig, frames: int) -> Iterator[tuple[Seen, Array]]:
    """Up to `frames` views and their pictures with what was found, one by one. Raises CaptureError, ModelError."""
    chosen = _of_a_file(source, tryout, frames) if isinstance(source, Path) else _live(source, tryout, frames)
    for view, wanted, caption in chosen:
        if wanted or tryout.remembers:
            seen = tryout.look(view)
            if wanted:
                yield seen, drawn(seen.view.data, seen.inferred.findings, tryout.scene(seen, caption))


def first_picture(tryout: Tryout, source: Path | SourceConfig) -> View:
    """The first view of an input. Raises CaptureError, ModelError when there is none."""
    chosen = _of_a_file(source, tryout, 1) if isinstance(source, Path) else _live(source, tryout, 1)
    for view, _, _ in chosen:
        return view
    raise ModelError(f"{tryout.manifest}: the input holds no picture: choose another")


def _of_a_file(path: Path, tryout: Tryout, frames: int) -> Iterator[tuple[View, bool, str]]:
    """Views of a picture, a folder of pictures or a film, whether they are drawn, and what is written on them."""
    count = sum(1 for _ in islice(_samples(tryout, path), _MOST_COUNTED))
    drawn_ones = set(np.linspace(0, count - 1, min(frames, count)).round().astype(int).tolist()) if count else set()
    for i, sample in enumerate(_samples(tryout, path)):
        if i >= count:
            return
        yield whole(sample), i in drawn_ones, f"#{i}  {sample.t_s:.2f} s" if count > 1 else ""


def _samples(tryout: Tryout, path: Path) -> Iterator[Sample]:
    return file_samples(path, tryout.manifest.modality, SystemClock(), settings_for(tryout.manifest, path))


def _live(config: SourceConfig, tryout: Tryout, frames: int) -> Iterator[tuple[View, bool, str]]:
    """Views of a camera, some of them half a second apart."""
    start_s, due_s, made = None, 0.0, 0
    for i, sample in enumerate(_read(config, tryout)):
        if i < _SETTLE_FRAMES:
            continue
        start_s = sample.t_mono_s if start_s is None else start_s
        wanted = sample.t_mono_s - start_s >= due_s
        yield whole(sample), wanted, f"#{sample.seq}  {sample.t_mono_s - start_s:.2f} s"
        if wanted:
            made, due_s = made + 1, sample.t_mono_s - start_s + _APART_S
        if made == frames:
            return


def _read(config: SourceConfig, tryout: Tryout) -> Iterator[Sample]:
    """What a source delivers. Raises CaptureError when it cannot be opened or falls silent."""
    wanted, given = tryout.manifest.modality, modality_of(config)
    if wanted != given:
        raise ConfigError(f"{tryout.manifest} takes {wanted}, the source delivers {given}: choose another")
    with open_source("try", config, SystemClock()) as opened:
        while True:
            try:
                sample = opened.read(1.0)
            except EndOfStream:
                return
            if sample is not None:
                yield sample


def plot(tryout: Tryout, source: Path | SourceConfig, seconds: float) -> Array | None:
    """A whole file, or `seconds` of a live source, as a plot with what was found; None where there is nothing to see.

    Raises CaptureError, ModelError.
    """
    heard: list[Sample] = []
    samples = _samples(tryout, source) if isinstance(source, Path) else _for(_read(source, tryout), seconds)
    for view in views_of(tryout.manifest, _kept(samples, heard)):
        tryout.look(view)
    tryout.finish()
    if not tryout.count or tryout.manifest.modality == "tensor":
        return None
    title = f"{tryout.manifest} on {source.name if isinstance(source, Path) else 'a live source'}"
    return plotted(title, _curves(heard), [finding for _, finding in tryout.found], tryout.manifest.labels)


def _for(samples: Iterable[Sample], seconds: float) -> Iterator[Sample]:
    start_s = None
    for sample in samples:
        start_s = sample.t_mono_s if start_s is None else start_s
        yield sample
        if sample.t_mono_s - start_s >= seconds:
            return


def _kept(samples: Iterable[Sample], heard: list[Sample]) -> Iterator[Sample]:
    for sample in samples:
        heard.append(sample)
        yield sample


def _curves(heard: list[Sample]) -> list[Curve]:
    """A sound as one curve, rows as one per channel."""
    first = heard[0]
    if first.modality == "audio":
        values = np.concatenate([sample.data for sample in heard]).astype(np.float64) / 32768
        return [Curve("sound", first.t_s + np.arange(len(values)) / first.rate_hz, values)]
    times, rows = np.array([sample.t_s for sample in heard]), np.stack([sample.data for sample in heard])
    names = [f"{c.name} [{c.unit}]" if c.unit != "1" else c.name for c in first.channels]
    return [Curve(name, times, rows[:, i]) for i, name in enumerate(names)]
