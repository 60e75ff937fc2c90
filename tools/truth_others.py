"""The sounds, series and conformance files of the real data: how each case is put to the agent, and when it is right.

Tolerances are those of the data's index. No step, key or line of the agent knows which case it answers.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent.errors import ModelError
from agent.loading import open_model
from agent.records import Array
from tests.realdata import ROOT
from tests.test_real_runtime import described, pinned, tensor
from tests.test_real_series import count, detected
from tools.truth_rows import Case, Model, Row


def words(case: Case) -> Iterator[Row]:
    """o04."""
    model = Model("kws-ref")
    for file in case["inputs"]:
        for second, seen in enumerate(model.look(file)):
            want = case["expected"].get(f"{file}@{second}s")
            if want is not None:
                best = seen.findings[0]
                good = best.label == want["word_spoken"] or not want["required"]
                yield model.row(f"{file}@{second}s", want["word_spoken"], f"{best.label} {best.score:.3f}", good)


def features(case: Case) -> Iterator[Row]:
    """o05."""
    model = Model("micro-speech")
    for file, want in case["expected"].items():
        (seen,) = model.look(file)
        raw = seen.outputs["labels_softmax"].ravel().astype(int)
        away = int(np.abs(raw - want["int8_out_ref"]).max())
        good = seen.findings[0].label == want["label"] and away <= want["tol"]
        yield model.row(file, f"{want['label']} +-{want['tol']} of 255", f"{seen.findings[0].label}, {away} away", good)


def wake_word(case: Case) -> Iterator[Row]:
    """o06: heard in [start, end + 0.5 s]; false outside of [start, end + 1 s] of every word."""
    model, (file,) = Model("wakeword"), case["inputs"]
    times = [f.interval[1] for seen in model.look(file) for f in seen.findings if f.interval]
    spoken = case["expected"]["true_windows_s"]
    hits = sum(any(a <= t <= b + 0.5 for t in times) for a, b in spoken)
    false = sum(not any(a <= t <= b + 1.0 for a, b in spoken) for t in times)
    good = hits >= case["expected"]["tp"] and false <= case["expected"]["fp"]
    yield model.row(file, f">= {case['expected']['tp']} of {len(spoken)}, 0 false", f"{hits}, {false} false", good)


def voice(case: Case) -> Iterator[Row]:
    """o07: intervals with their edges, and the share of views with speech."""
    model = Model("silero-vad")
    for file, want in case["expected"].items():
        heard = model.look(file)
        share = float(np.mean([seen.outputs["output"].item() >= 0.5 for seen in heard]))
        told = [f.interval for seen in heard for f in seen.findings if f.interval]
        reference = want["segments_ref_s"]
        edges = zip(np.ravel(told), np.ravel(reference), strict=False)
        away = max((abs(a - b) for a, b in edges), default=0.0)
        same = len(told) == len(reference) and away <= want["edge_tol_s"]
        good = same and abs(share - want["speech_fraction_ref"]) <= want["fraction_tol"]
        expected = f"{len(reference)} utterances, {want['speech_fraction_ref']:.3f} +-{want['fraction_tol']}"
        yield model.row(file, expected, f"{len(told)}, edges {away:.3f} s off, {share:.3f}", good)


def int16_models(case: Case) -> Iterator[Row]:
    """o16: number for number."""
    folder, exact = ROOT / "conformance" / "seanet_int16", 0
    paths = sorted(folder.glob("*.tflite"))
    with tempfile.TemporaryDirectory() as made:
        for path in paths:
            runner = open_model(described(Path(made), path), artifact_root=folder)
            fed = {}
            for i, port in enumerate(runner.inputs):
                (file,) = folder.glob(f"{path.stem}_input{i}_*.csv")
                fed[port.name] = np.loadtxt(file, delimiter=",").astype(port.dtype).reshape(port.shape)
            (answer,) = runner.run(fed).values()
            (golden,) = folder.glob(f"{path.stem}_golden_*.csv")
            exact += answer.ravel().tolist() == np.loadtxt(golden, delimiter=",").ravel().tolist()
            runner.close()
    want = case["expected"]["exact_matches"]
    yield Row(f"{len(paths)} models", f"{want} exact", f"{exact} exact", exact == want == len(paths))


def onnx_vectors(case: Case) -> Iterator[Row]:
    """o17: rtol 1e-3, atol 1e-4."""
    paths, good = sorted((ROOT / "conformance" / "onnx").glob("*/model.onnx")), 0
    with tempfile.TemporaryDirectory() as made:
        for path in paths:
            data = path.parent / "test_data_set_0"
            fed, wanted = (
                [tensor(data / f"{kind}_{n}.pb") for n in range(len(list(data.glob(f"{kind}_*.pb"))))]
                for kind in ("input", "output")
            )
            runner = open_model(pinned(Path(made), path, fed, wanted), artifact_root=path.parent)
            answers = runner.run({p.name: a for p, a in zip(runner.inputs, fed, strict=True)}).values()
            good += all(_close(a, b) for a, b in zip(answers, wanted, strict=True))
            runner.close()
    want = case["expected"]["models"]
    yield Row(f"{len(paths)} models", f"{want} within 1e-3, 1e-4", f"{good}", good == want == len(paths))


def _close(answer: Array, wanted: Array) -> bool:
    return bool(np.allclose(answer, wanted, rtol=1e-3, atol=1e-4, equal_nan=True))


def series(case: Case) -> Iterator[Row]:
    """o18: the agent's own statistic against the index's baseline."""
    for file, want in case["expected"].items():
        if file == "pass_rule":
            continue
        base, name = case["measured"][file], Path(file).stem
        hit, false = count(detected(name), name, want)
        good = hit >= base["baseline_windows_hit"] and false <= base["false_points_outside"]
        expected = f">= {base['baseline_windows_hit']} of {base['of']} windows, <= {base['false_points_outside']} false"
        yield Row(Path(file).name, expected, f"{hit}, {false} false", good)


def refused(case: Case) -> Iterator[Row]:
    """o19: an error of the agent's own, and the model beside it still answers the same."""
    beside, features_file = Model("micro-speech"), "inputs/yes_features_int8.npy"
    before = beside.look(features_file)[0].findings
    for file in case["model"]:
        try:
            with tempfile.TemporaryDirectory() as folder:
                open_model(described(Path(folder), ROOT / file), artifact_root=(ROOT / file).parent)
            got, good = "loaded", False
        except ModelError as exc:
            got, good = f"refused: {str(exc).partition(': ')[2][:70]}", True
        good = good and beside.look(features_file)[0].findings == before
        yield Row(Path(file).name, "an error, and all else runs on", got, good)
