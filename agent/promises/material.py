"""Made-up samples, views, findings and outputs to try steps on: no recording is needed, and every try is the same."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from agent.records import Array, Channel, Finding, Modality, Sample, View

RATE_HZ = 16_000.0
CHUNK_SAMPLES = 1600
ROWS_HZ = 100.0


def samples(modality: Modality, count: int) -> Iterator[Sample]:
    """A stream of `count` samples with a gap in its midst; the arrays are read-only, as from a source."""
    rng = np.random.default_rng(7)
    seq = 0
    for i in range(count):
        gap = i == count // 2
        seq += 1 + 3 * gap
        data, step_s = _data(modality, i, rng)
        data.flags.writeable = False
        t_s = seq * step_s
        rate_hz = {"audio": RATE_HZ, "series": ROWS_HZ}.get(modality, 0.0)
        channels = (Channel("a"), Channel("b", "Cel")) if modality == "series" else ()
        yield Sample("made-up", seq, t_s, t_s, 1e9 + t_s, modality, data, "synced", rate_hz, channels, gap)


def views(modality: Modality, count: int) -> Iterator[View]:
    """The same as views: a picture, a twentieth of a second of sound, 64 rows."""
    rng = np.random.default_rng(11)
    for i in range(count):
        data = _view_data(modality, i, rng)
        data.flags.writeable = False
        size = (data.shape[1], data.shape[0]) if modality == "image" else (0, 0)
        rate_hz = {"audio": RATE_HZ, "series": ROWS_HZ}.get(modality, 0.0)
        channels = (Channel("a"), Channel("b", "Cel")) if modality == "series" else ()
        yield View(data, float(i), i + 1.0, rate_hz, size, channels=channels, gap=i == count // 2)


def findings(count: int) -> Iterator[tuple[tuple[Finding, ...], View]]:
    """What a decoder may say of each view of a stream: nothing, one thing, several, with and without boxes."""
    rng = np.random.default_rng(13)
    for i, view in enumerate(views("image", count)):
        seen = [_finding(rng, view, n) for n in range(int(rng.integers(0, 4)))]
        yield tuple(seen), replace(view, t0_s=i * 0.1, t1_s=i * 0.1)


def _data(modality: Modality, i: int, rng: np.random.Generator) -> tuple[Array, float]:
    if modality == "image":
        return _picture(i, rng), 0.1
    if modality == "audio":
        return _sound(CHUNK_SAMPLES, rng), CHUNK_SAMPLES / RATE_HZ
    if modality == "series":
        row = np.array([np.sin(i / 10), 20 + rng.normal()])
        return (np.array([np.nan, row[1]]) if i % 37 == 5 else row), 1 / ROWS_HZ
    return rng.normal(size=(1, 8)).astype(np.float32), 0.1


def _view_data(modality: Modality, i: int, rng: np.random.Generator) -> Array:
    if modality == "image":
        return _picture(i, rng)
    if modality == "audio":
        return _sound(CHUNK_SAMPLES // 2, rng)
    if modality == "series":
        return np.stack([np.sin(np.arange(64) / 10 + i), rng.normal(20, 1, 64)], axis=1)
    return rng.normal(size=(1, 8)).astype(np.float32)


def _picture(i: int, rng: np.random.Generator) -> Array:
    """48 x 64, BGR: a bright square that moves over noise."""
    made = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
    left = i * 3 % 48
    made[16:32, left : left + 16] = 230
    return made


def _sound(length: int, rng: np.random.Generator) -> Array:
    tone = np.sin(np.arange(length) * 2 * np.pi * 440 / RATE_HZ) * 8000
    return np.asarray(tone + rng.normal(0, 300, length)).astype(np.int16)


def _finding(rng: np.random.Generator, view: View, n: int) -> Finding:
    label, score = ("person", "cat", "thing")[n], float(rng.uniform(0, 1))
    if rng.uniform() < 0.3:
        return Finding(label, score, value=float(rng.normal()))
    left, top = rng.uniform(0, view.size[0] / 2), rng.uniform(0, view.size[1] / 2)
    return Finding(label, score, (float(left), float(top), float(left + 8), float(top + 8)))
