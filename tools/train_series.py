"""Build models/series: an int8 autoencoder of slow sensor series, from series simulated here.

    python tools/train_series.py [FOLDER]      three minutes on one core; needs tools/locks/train.txt

It learns what healthy series do in eight rows, measured against what they did before; what it cannot give back is an
anomaly. So that it neither copies a single odd reading nor takes a mere level for one, half of the views are moved to
other levels while it learns, and some of their readings are spoilt: it shall give back the whole ones. Training,
threshold and figures come from different series. Everything follows from the seeds, so that a rebuild on another
machine differs by rounding only: the figures in model.toml hold within 0.01 of AUC and 0.03 of detection. The views
come from the agent's own window step.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import manifests  # noqa: E402
import readings  # noqa: E402
from dense import Floats, Scale, onnx_int8, scales, train_autoencoder  # noqa: E402
from judging import Figures, Quantised, measure  # noqa: E402

from agent.records import Sample  # noqa: E402
from pipelines import make_step  # noqa: E402

LENGTH = 8
SIZES = (LENGTH, 32, 3, 32, LENGTH)
SEED = 0
ENDS = Scale(8 / 255, 128)
"""Input and output reach 4 standard deviations to either side: no output can follow an outlier beyond."""
REACH = 4.0
MOVED_SHARE = 0.5
"""Of the views, to any level within reach."""
SPOILT_SHARE, SPOILT_BY = 0.12, 4.0
"""Of the readings, by a normal number of so many standard deviations."""
TRAINING, VALIDATION, TEST, SICK, GOLDEN = range(1, 6)
"""Seeds of series that never meet."""
SERIES, ROWS = 150, 3000
SICK_SERIES, SICK_ROWS, ONSET = 200, 700, 600
EVENT_VIEWS = 4
FALSE_ALARMS = 0.0003
"""Share of healthy views beyond the threshold."""
MEMORY_MB = 0.2
GOLDEN_ROWS = 50 + 40 * LENGTH
"""Rows that the window learns from first, and forty views."""


def main(folder: Path) -> None:
    """Train, quantise, measure, write."""
    known = np.clip(_healthy(TRAINING), -REACH, REACH)
    print(f"learning from {len(known)} views of {SERIES} healthy series")
    net = train_autoencoder(known, SIZES, seed=SEED, disturb=disturbed)
    model = onnx_int8(net, scales(net, known, ENDS), "series", "autoencoder of standardised sensor series")
    judge = Quantised(model, LENGTH, ENDS)
    figures = _measured(judge)
    _goldens(folder / "golden", judge)
    (folder / "series.onnx").write_bytes(model)
    (folder / "model.toml").write_text(_manifest(model, figures))
    print(f"{folder}: {len(model)} bytes, {figures}")


def disturbed(rng: np.random.Generator, seen: Floats) -> tuple[Floats, Floats]:
    """Views [n, LENGTH], half of them moved to another level: with some readings spoilt, and whole."""
    moved = rng.random(len(seen)) < MOVED_SHARE
    level = np.where(moved, rng.uniform(-REACH, REACH, len(seen)), 0.0)
    whole = np.clip(seen + level[:, None], -REACH, REACH)
    spoilt = rng.random(seen.shape) < SPOILT_SHARE
    fed = np.where(spoilt, whole + rng.normal(0, SPOILT_BY, seen.shape), whole)
    return np.clip(fed, -REACH, REACH), whole


def views(series: Floats) -> Floats:
    """Views [n, LENGTH] of a series, through the agent's own window."""
    step = make_step("window", {"step": "running_rows", "length": LENGTH}, "train_series")
    state, made = step.initial(), []
    for i, x in enumerate(series):
        state, more = step(state, Sample("simulated", i, float(i), float(i), 0.0, "series", np.array([x])))
        made += [view.data[:, 0] for view in more]
    return np.array(made)


def _healthy(seed: int) -> Floats:
    chances = (np.random.default_rng([seed, i]) for i in range(SERIES))
    return np.concatenate([views(readings.draw(rng, ROWS)) for rng in chances])


def _sick(judge: Quantised, kind: str) -> Floats:
    """Scores of anomalies of a kind, of any size and anywhere in a view."""
    scores = []
    for i in range(SICK_SERIES):
        rng = np.random.default_rng([SICK, i, readings.ANOMALIES.index(kind)])
        at = ONSET + int(rng.integers(LENGTH))
        series = readings.spoil(rng, readings.draw(rng, SICK_ROWS), kind, at, rng.uniform(5, 12))
        first = (at - 50) // LENGTH
        scores.append(judge.errors(views(series)[first : first + EVENT_VIEWS]).max())
    return np.array(scores)


def _measured(judge: Quantised) -> Figures:
    threshold = round(float(np.quantile(judge.errors(_healthy(VALIDATION)), 1 - FALSE_ALARMS)), 3)
    errors = judge.errors(_healthy(TEST))
    healthy = errors[: len(errors) // EVENT_VIEWS * EVENT_VIEWS].reshape(-1, EVENT_VIEWS).max(axis=1)
    return measure(threshold, healthy, {kind: _sick(judge, kind) for kind in readings.ANOMALIES})


def _manifest(model: bytes, figures: Figures) -> str:
    return (HERE / "series.toml.in").read_text().format(
        sha256=hashlib.sha256(model).hexdigest(), length=LENGTH, scale=ENDS.scale, zero=ENDS.zero,
        goldens=manifests.goldens("healthy", readings.ANOMALIES), threshold=figures.threshold,
        healthy=figures.healthy, false_alarms=f"{figures.false_alarms:.4f}", auc=manifests.inline(figures.auc),
        detected=manifests.inline(figures.detected), memory_mb=MEMORY_MB, event=EVENT_VIEWS,
    )  # fmt: skip


def _goldens(folder: Path, judge: Quantised) -> None:
    """A healthy series, and one of each kind of anomaly that begins in its last view; a level of 20, a spread of 2."""
    for i, kind in enumerate(("", *readings.ANOMALIES)):
        rng = np.random.default_rng([GOLDEN, i])
        series = readings.draw(rng, GOLDEN_ROWS)
        if kind:
            series = readings.spoil(rng, np.pad(series, (0, readings.ANOMALY_ROWS)), kind, GOLDEN_ROWS - 5, 10.0)
        told = np.round(20 + 2 * series[:GOLDEN_ROWS], 2)
        manifests.write_golden(folder, kind or "healthy", "temperature", told, judge.raw(views(told)[-1:]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "models" / "series")
