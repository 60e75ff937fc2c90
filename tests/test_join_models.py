"""Several graphs in a row become one model that gives, step by step, what the files give one after the other."""

import itertools
import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.views import views
from tests.recordings import write_wav
from tools import join_models

RATE, HOP, SAMPLES = 16_000, 1280, 1760
MELS, WIDTH, LOOK, LOOK_BACK = 32, 96, 76, 16

CHAIN = f"""
name = "hey-limpet"
version = "1.0.0"
samples = {SAMPLES}
hop_samples = {HOP}
sample_scale = "int16"
debounce_s = 0.5
[[stage]]
file = "mel.onnx"
gain = 0.1
shift = 2.0
[[stage]]
file = "embedding.onnx"
rows = {LOOK}
[[head]]
file = "hey.onnx"
rows = {LOOK_BACK}
labels = ["hey limpet"]
[[head]]
file = "two.onnx"
rows = 5
labels = ["stop", "go"]
"""


def _graph(path, nodes, takes, gives, constants, opset):
    def port(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [port("input", takes)], [port("out", gives)], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _write(folder):
    """Four graphs with the ports of a well-known family of wake words, each with an opset of its own."""
    rng = np.random.default_rng(7)
    node = helper.make_node
    kernel = (rng.normal(0, 1e-4, (MELS, 1, 640))).astype(np.float32)
    _graph(
        folder / "mel.onnx",
        [
            node("Unsqueeze", ["input", "one"], ["wide"]),
            node("Conv", ["wide", "w"], ["bands"], strides=[160]),
            node("Abs", ["bands"], ["power"]),
            node("Transpose", ["power"], ["rows"], perm=[0, 2, 1]),
            node("Unsqueeze", ["rows", "one"], ["out"]),
        ],
        ["batch", "samples"], [1, 1, "frames", MELS], {"w": kernel, "one": np.array([1], np.int64)}, 13,
    )  # fmt: skip
    weights = rng.normal(0, 0.05, (LOOK * MELS, WIDTH)).astype(np.float32)
    _graph(
        folder / "embedding.onnx",
        [
            node("Reshape", ["input", "flat"], ["row"]),
            node("MatMul", ["row", "w"], ["sums"]),
            node("Tanh", ["sums"], ["soft"]),
            node("Reshape", ["soft", "four"], ["out"]),
        ],
        ["n", LOOK, MELS, 1], ["n", 1, 1, WIDTH],
        {"w": weights, "flat": np.array([-1, LOOK * MELS]), "four": np.array([-1, 1, 1, WIDTH])}, 17,
    )  # fmt: skip
    for name, rows, size in (("hey", LOOK_BACK, 1), ("two", 5, 2)):
        head = rng.normal(0, 0.1, (rows * WIDTH, size)).astype(np.float32)
        nodes = [
            node("Reshape", ["input", "flat"], ["row"]),
            node("MatMul", ["row", "w"], ["sums"]),
            node("Sigmoid", ["sums"], ["out"]),
        ]
        _graph(folder / f"{name}.onnx", nodes, [1, rows, WIDTH], [1, size],
               {"w": head, "flat": np.array([1, rows * WIDTH])}, 11)  # fmt: skip
    (folder / "chain.toml").write_text(CHAIN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The four files, and the model that was joined from them in `made`."""
    folder = tmp_path_factory.mktemp("chain")
    _write(folder)
    assert join_models.main([str(folder / "chain.toml"), str(folder / "made")]) == 0
    for path in (folder / "made", folder / "made" / "model.onnx"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def _one_after_the_other(folder, signal):
    """The scores of every hop: the four files called in a row over plain lists of all that came before."""
    ask = {name: onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("mel", "embedding", "hey", "two")}
    signal = np.concatenate((np.zeros(SAMPLES - HOP), signal)).astype(np.float32)
    mels, features, scores = np.zeros((LOOK, MELS)), np.zeros((LOOK_BACK, WIDTH)), []
    for at in range(0, len(signal) - SAMPLES + 1, HOP):
        (mel,) = ask["mel"].run(None, {"input": signal[None, at : at + SAMPLES]})
        mels = np.concatenate((mels, mel.reshape(-1, MELS) * 0.1 + 2.0))
        (row,) = ask["embedding"].run(None, {"input": mels[-LOOK:].reshape(1, LOOK, MELS, 1).astype(np.float32)})
        features = np.concatenate((features, row.reshape(-1, WIDTH)))
        taken = {"hey": features[-LOOK_BACK:], "two": features[-5:]}
        given = [ask[n].run(None, {"input": rows[None].astype(np.float32)})[0].ravel() for n, rows in taken.items()]
        scores.append(np.concatenate(given))
    return np.array(scores)


@pytest.fixture(scope="module")
def signal():
    return np.random.default_rng(1).normal(0, 3000, 6 * RATE).clip(-32768, 32767).astype(np.int16)


def _opened(folder):
    manifest = load_manifest(folder / "made")
    return Inference(manifest, open_model(manifest))


def test_the_joined_model_gives_the_scores_of_the_files_in_a_row(folder, signal):
    """From the first hop on, every score of every head, over six seconds."""
    write_wav(folder / "noise.wav", signal, RATE)
    infer = _opened(folder)
    scores = [infer(view).outputs["scores"].ravel() for view in views(infer.manifest, folder / "noise.wav")]
    expected = _one_after_the_other(folder, signal)
    assert len(scores) == len(expected) == 6 * RATE // HOP
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert expected.std(axis=0).min() > 0.02  # the scores do move


def test_the_manifest_says_how_the_stream_is_cut_and_when_it_is_believed(folder):
    """Labels of all heads, hop and context in whole samples, and a time to settle that fills every state."""
    manifest = load_manifest(folder / "made")
    assert manifest.labels == ("hey limpet", "stop", "go")
    assert {pair.input for pair in manifest.states} == {"rows1", "features"}
    assert {port.name: port.shape for port in manifest.inputs} == {
        "samples": (SAMPLES,), "rows1": (LOOK - 8, MELS), "features": (LOOK_BACK - 1, WIDTH),
    }  # fmt: skip
    window, words = manifest.window, manifest.post[0]
    assert [window[key] * RATE for key in ("length_s", "hop_s", "lead_s")] == [SAMPLES, HOP, SAMPLES - HOP]
    assert words["settle_s"] == pytest.approx((9 + 15) * HOP / RATE)


def test_words_come_out_once(folder, signal):
    """Loud and quiet seconds: findings only from the decoder's threshold on, one per word, none before it settled."""
    write_wav(folder / "noise.wav", signal, RATE)
    infer = _opened(folder)
    seen = [infer(view).findings for view in views(infer.manifest, folder / "noise.wav")]
    told = [(finding.label, finding.interval[1]) for findings in seen for finding in findings]
    expected = _one_after_the_other(folder, signal)
    assert all(t >= 24 * HOP / RATE for _, t in told)
    for column, label in enumerate(("hey limpet", "stop", "go")):
        sure = expected[:, column] >= 0.5
        times = [t for name, t in told if name == label]
        assert bool(times) == bool(sure[23:].any())
        assert all(sure[round(t * RATE / HOP) - 1] for t in times)
        assert all(b - a >= 0.5 - 1e-9 for a, b in itertools.pairwise(times))


def test_joining_twice_gives_the_same_bytes(folder):
    """A digest of the joined file can be published."""
    assert join_models.main([str(folder / "chain.toml"), str(folder / "again")]) == 0
    assert (folder / "again" / "model.onnx").read_bytes() == (folder / "made" / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (f"rows = {LOOK}\n", "rows = 75\n", "it would be given 2400 values"),
        ('labels = ["stop", "go"]', 'labels = ["stop"]', "2 scores for 1 labels"),
        (f"hop_samples = {HOP}", "hop_samples = 1761", "'hop_samples': 1761 is more than samples = 1760"),
        ("mel.onnx", "chain.toml", "cannot be read as ONNX"),
        ("mel.onnx", "none.onnx", r"none.onnx: this cannot be read as ONNX"),
        ("gain = 0.1", "gian = 0.1", "did you mean 'gain'"),
        (f"samples = {SAMPLES}", "samples = 500", "hop_samples"),
    ],
)
def test_what_does_not_fit_is_refused(folder, tmp_path, capsys, old, new, words):
    """One message that names the file, and nothing is written."""
    for path in folder.glob("*.onnx"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chain.toml").write_text(CHAIN.replace(old, new, 1))
    assert join_models.main([str(tmp_path / "chain.toml"), str(tmp_path / "out")]) == 1
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
