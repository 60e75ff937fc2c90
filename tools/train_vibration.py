"""Build models/vibration: an int8 autoencoder of machine vibration, from machines simulated here.

    python tools/train_vibration.py [FOLDER]      ten seconds on one core; needs tools/locks/train.txt

It learns the spectra of healthy machines; what it cannot give back is an anomaly. Training, threshold and figures come
from different machines: 48 to learn from, 12 to set the threshold (the error that one healthy view in a thousand
exceeds), 12 to measure, none of them seen twice. Everything follows from the seeds, so that a rebuild on another
machine differs by rounding only: the figures in model.toml hold within 0.01 of AUC and 0.03 of detection.
The features come from the agent's own steps.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import machines  # noqa: E402
import manifests  # noqa: E402
from dense import Floats, Scale, onnx_int8, scales, train_autoencoder  # noqa: E402
from judging import Figures, Quantised, measure  # noqa: E402

from agent.records import View  # noqa: E402
from pipelines import make_step  # noqa: E402

LENGTH, HOP, BANDS = 512, 256, 32
SIZES = (BANDS, 32, 4, 32, BANDS)
SPECTRUM = {
    "step": "spectrum", "kind": "power", "window": "hann", "detrend": "mean",
    "first": 1, "bins": LENGTH // 2, "bands": BANDS, "log": True, "floor": 1e-7,
}  # fmt: skip
ENDS = Scale(16 / 255, 128)
"""Input and output reach 8 standard deviations to either side."""
TRAINING, VALIDATION, TEST, SICK, DEMO = range(1, 6)
"""Seeds of machines that never meet."""
HEALTHY_S, SICK_S = 200.0, 60.0
FALSE_ALARMS = 0.001
MEMORY_MB = 0.2
NAB = "bad: all 118 views are anomalous, because none looks like a fan; it knows machines of one kind and nothing else"
DEMO_S, DEMO_ONSET_S, DEMO_END_S = 20.0, 6.0, 13.0
DEMO_TEXT = """\
# demo.csv: a simulated fan. Its outer race is damaged between the two times; before and after it is healthy.
rate_hz = {rate_hz}
unit = "m/s2"
damaged_s = [{begin_s}, {end_s}]

# What these two rules tell, exactly once each, and when: seconds of the recording in which the deciding view begins.
[[rule]]
kind = "appears"
label = "anomaly"
n = 3
m = 4
told_s = [6.0, 8.0]

[[rule]]
kind = "clears"
label = "anomaly"
n = 3
m = 4
told_s = [13.0, 15.5]
"""


def main(folder: Path) -> None:
    """Train, quantise, measure, write."""
    raw = _healthy(TRAINING, 48)
    mean, std = np.round(raw.mean(axis=0), 4), np.round(raw.std(axis=0), 4)
    print(f"learning from {len(raw)} views of 48 healthy machines")
    known = np.clip((raw - mean) / std, -8, 8)
    net = train_autoencoder(known, SIZES, seed=0)
    model = onnx_int8(net, scales(net, known, ENDS), "vibration", "autoencoder of machine vibration spectra")
    judge = Quantised(model, BANDS, ENDS)
    figures = _measured(lambda spectra: judge.errors((spectra - mean) / std))
    _goldens(folder / "golden", lambda spectra: judge.raw((spectra - mean) / std))
    (folder / "vibration.onnx").write_bytes(model)
    (folder / "model.toml").write_text(_manifest(model, mean, std, figures))
    _demo(folder)
    print(f"{folder}: {len(model)} bytes, {figures}")


def views(signal: Floats) -> Floats:
    """Log spectra [n, BANDS] of a signal, through the agent's own step."""
    step = make_step("pre", SPECTRUM, "train_vibration")
    starts = range(0, len(signal) - LENGTH + 1, HOP)
    return np.array([step(View(signal[i : i + LENGTH, None], rate_hz=machines.RATE_HZ)).data[:, 0] for i in starts])


def _healthy(seed: int, count: int) -> Floats:
    chances = [np.random.default_rng([seed, i]) for i in range(count)]
    return np.concatenate([views(machines.run(machines.draw(rng), HEALTHY_S, rng)) for rng in chances])


def _sick(fault: str) -> Floats:
    """Views of twelve machines with a fault of severity 0.4 to 1.2; of a step only the views that hold it."""
    found = []
    for i in range(12):
        rng = np.random.default_rng([SICK, i, machines.FAULTS.index(fault)])
        machine, severity = machines.draw(rng), rng.uniform(0.4, 1.2)
        onset_s = 20.2 if fault == "step" else -1.0
        seen = views(machines.run(machine, SICK_S, rng, fault, severity, onset_s))
        at = int(onset_s * machines.RATE_HZ) // HOP
        found.append(seen[at - 1 : at + 1] if fault == "step" else seen)
    return np.concatenate(found)


def _measured(errors: Callable[[Floats], Floats]) -> Figures:
    threshold = round(float(np.quantile(errors(_healthy(VALIDATION, 12)), 1 - FALSE_ALARMS)), 3)
    return measure(threshold, errors(_healthy(TEST, 12)), {fault: errors(_sick(fault)) for fault in machines.FAULTS})


def _manifest(model: bytes, mean: Floats, std: Floats, figures: Figures) -> str:
    standardise = {"step": "standardise", "mean": [float(x) for x in mean], "std": [float(x) for x in std]}
    chain = (SPECTRUM, {"step": "flatten"}, standardise)
    return (HERE / "vibration.toml.in").read_text().format(
        sha256=hashlib.sha256(model).hexdigest(), length=LENGTH, hop=HOP, bands=BANDS, scale=ENDS.scale, zero=ENDS.zero,
        pre="\n".join(manifests.table("pre", step) for step in chain),
        goldens=manifests.goldens("healthy", machines.FAULTS), threshold=figures.threshold, views=figures.healthy,
        false_alarms=f"{figures.false_alarms:.4f}", auc=manifests.inline(figures.auc),
        detected=manifests.inline(figures.detected), memory_mb=MEMORY_MB, nab=NAB,
    )  # fmt: skip


def _goldens(folder: Path, raw: Callable[[Floats], npt.NDArray[np.uint8]]) -> None:
    """One view of a healthy machine and one of each fault, each of a machine of its own."""
    for i, fault in enumerate(("", *machines.FAULTS)):
        rng = np.random.default_rng([DEMO, i])
        onset_s = 0.4 if fault == "step" else -1.0
        signal = machines.run(machines.draw(rng), LENGTH / machines.RATE_HZ, rng, fault, 1.2, onset_s)
        manifests.write_golden(folder, fault or "healthy", "accel", signal, raw(views(signal)))


def _demo(folder: Path) -> None:
    """A recording for `make run`: a healthy fan, a while with a stone in its bearing, healthy again."""
    rng = np.random.default_rng([DEMO, 100])
    machine = machines.draw(rng)
    state = rng.bit_generator.state
    healthy = machines.run(machine, DEMO_S, rng)
    rng.bit_generator.state = state
    sick = machines.run(machine, DEMO_S, rng, "outer_race", 1.2, DEMO_ONSET_S)
    t = np.arange(len(healthy)) / machines.RATE_HZ
    signal = np.where((t >= DEMO_ONSET_S) & (t < DEMO_END_S), sick, healthy)
    rows = "".join(f"{a:.3f},{x:.2f}\n" for a, x in zip(t, signal, strict=True))
    (folder / "demo.csv").write_text("t,accel\n" + rows)
    text = DEMO_TEXT.format(rate_hz=machines.RATE_HZ, begin_s=DEMO_ONSET_S, end_s=DEMO_END_S)
    (folder / "demo.toml").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "models" / "vibration")
