"""Build models/vibration: an int8 autoencoder of machine vibration, from machines simulated here.

    python tools/train_vibration.py [FOLDER]      ten seconds on one core; needs tools/locks/train.txt

It learns the spectra of healthy machines; what it cannot give back is an anomaly. Training, threshold and figures come
from different machines: 48 to learn from, 12 to set the threshold (the error that one healthy view in a thousand
exceeds), 12 to measure, none of them seen twice. Everything follows from the seeds, so that a rebuild on another
machine differs by rounding only: the figures in model.toml hold within 0.01 of AUC and 0.03 of detection.
The features come from the agent's own steps.
"""

import hashlib
import io
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import machines  # noqa: E402
from dense import Dense, Scale, onnx_int8, scales, train_autoencoder  # noqa: E402

from agent.manifest import Input  # noqa: E402
from agent.records import View  # noqa: E402
from agent.runtime.quant import dequantise, quantise  # noqa: E402
from pipelines import make_step  # noqa: E402

Floats = npt.NDArray[np.float64]

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


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on machines that nothing was learned from."""

    threshold: float
    false_alarms: float
    views: int
    auc: dict[str, float]
    detected: dict[str, float]


def main(folder: Path) -> None:
    """Train, quantise, measure, write."""
    raw = _healthy(TRAINING, 48)
    mean, std = np.round(raw.mean(axis=0), 4), np.round(raw.std(axis=0), 4)
    print(f"learning from {len(raw)} views of 48 healthy machines")
    clipped = np.clip((raw - mean) / std, -8, 8)
    net = train_autoencoder(clipped, SIZES, seed=0)
    model = onnx_int8(net, scales(net, clipped, ENDS), "vibration", "autoencoder of machine vibration spectra")
    judge = Judge(model, mean, std)
    figures = _measure(judge)
    _goldens(folder / "golden", judge)
    (folder / "vibration.onnx").write_bytes(model)
    (folder / "model.toml").write_text(_manifest(model, mean, std, figures))
    _demo(folder)
    print(f"{folder}: {len(model)} bytes, float error {_error(net, clipped):.3f}, {figures}")


class Judge:
    """The quantised model on views, as the agent runs it."""

    def __init__(self, model: bytes, mean: Floats, std: Floats) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._port = Input("x", (1, BANDS), "uint8", ENDS.scale, ENDS.zero)
        self._mean, self._std = mean, std

    def raw(self, spectra: Floats) -> npt.NDArray[np.uint8]:
        """What the graph makes of log spectra [n, BANDS], uint8 [n, BANDS]."""
        fed = quantise((spectra - self._mean) / self._std, self._port)
        return np.concatenate([self._session.run(None, {"x": row[None]})[0] for row in fed])

    def errors(self, spectra: Floats) -> Floats:
        """Reconstruction errors [n]: what the decoder `reconstruction` computes."""
        made = dequantise(self.raw(spectra), self._port)
        return np.asarray(np.mean((made - (spectra - self._mean) / self._std) ** 2, axis=1))


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


def _measure(judge: Judge) -> Figures:
    threshold = float(np.quantile(judge.errors(_healthy(VALIDATION, 12)), 1 - FALSE_ALARMS))
    normal = judge.errors(_healthy(TEST, 12))
    sick = {fault: judge.errors(_sick(fault)) for fault in machines.FAULTS}
    return Figures(
        threshold=round(threshold, 3),
        false_alarms=float((normal >= threshold).mean()),
        views=len(normal),
        auc={fault: auc(normal, errors) for fault, errors in sick.items()},
        detected={fault: float((errors >= threshold).mean()) for fault, errors in sick.items()},
    )


def auc(negative: Floats, positive: Floats) -> float:
    """Area under the ROC curve: how often a positive lies above a negative (Mann-Whitney; ties count half)."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left") + np.searchsorted(order, positive, "right")
    return float(below.mean() / 2 / len(order))


def _error(net: Dense, x: Floats) -> float:
    return float(np.mean((net.layers(x)[-1] - x) ** 2))


def _manifest(model: bytes, mean: Floats, std: Floats, figures: Figures) -> str:
    template = (HERE / "vibration.toml.in").read_text()
    goldens = "\n".join(_toml("golden", _golden(name)) for name in ("healthy", *machines.FAULTS))
    return template.format(
        sha256=hashlib.sha256(model).hexdigest(), length=LENGTH, hop=HOP, bands=BANDS, scale=ENDS.scale,
        zero=ENDS.zero, pre="\n".join(_toml("pre", step) for step in _chain(mean, std)), goldens=goldens,
        threshold=figures.threshold, views=figures.views, false_alarms=f"{figures.false_alarms:.4f}",
        auc=_table(figures.auc), detected=_table(figures.detected), memory_mb=MEMORY_MB, nab=NAB,
    )  # fmt: skip


def _chain(mean: Floats, std: Floats) -> list[dict[str, object]]:
    standardise = {"step": "standardise", "mean": [float(x) for x in mean], "std": [float(x) for x in std]}
    return [SPECTRUM, {"step": "flatten"}, standardise]


def _golden(name: str) -> dict[str, object]:
    label = "" if name == "healthy" else "anomaly"
    return {"input": f"golden/{name}.csv", "output": f"golden/{name}.npz", "label": label}


def _toml(kind: str, table: dict[str, object]) -> str:
    """One table of an array; JSON's strings, numbers and lists are TOML's."""
    return f"[[{kind}]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def _table(numbers: dict[str, float]) -> str:
    return "{ " + ", ".join(f"{key} = {value:.3f}" for key, value in numbers.items()) + " }"


def _goldens(folder: Path, judge: "Judge") -> None:
    """One view of a healthy machine and one of each fault, each of a machine of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, fault in enumerate(("", *machines.FAULTS)):
        rng = np.random.default_rng([DEMO, i])
        onset_s = 0.4 if fault == "step" else -1.0
        signal = machines.run(machines.draw(rng), LENGTH / machines.RATE_HZ, rng, fault, 1.2, onset_s)
        rows = "".join(f"{x:.2f}\n" for x in signal)
        (folder / f"{fault or 'healthy'}.csv").write_text("accel\n" + rows)
        _npz(folder / f"{fault or 'healthy'}.npz", y=judge.raw(views(signal)))


def _npz(path: Path, **arrays: npt.NDArray[np.uint8]) -> None:
    """An npz whose bytes depend on the arrays alone: numpy writes the time of day."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


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
