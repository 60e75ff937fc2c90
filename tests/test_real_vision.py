"""Real pictures and public models through the agent's own steps give the recorded answers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from agent.inference import Inference, open_model
from agent.manifest import load_manifest
from pipelines.image import decode_image, image_view

ROOT = Path(os.environ.get("LIMPET_REALDATA") or Path(__file__).resolve().parents[1] / ".." / "shared" / "realdata")
MANIFESTS = Path(__file__).resolve().parent / "manifests"


def _case(name):
    index = ROOT / "index.json"
    if not index.exists():
        pytest.skip(f"no real data at {ROOT}: set LIMPET_REALDATA")
    return next(case for case in json.loads(index.read_text())["cases"] if case["id"] == name)


def _inference(name):
    manifest = load_manifest(MANIFESTS / name)
    return Inference(manifest, open_model(manifest, artifact_root=ROOT))


def _view(file):
    return image_view(decode_image((ROOT / file).read_bytes(), file))


def test_persons_are_told_from_empty_scenes():
    """Four pictures, two with a person: the right side of one half, and the recorded score."""
    case, infer = _case("o01-vww-int8"), _inference("vww")
    assert len(case["expected"]) == 4
    for file, expected in case["expected"].items():
        scores = {f.label: f.score for f in infer(_view(file)).findings}
        assert (scores["person"] > 0.5) == expected["person"], file
        assert scores["person"] == pytest.approx(expected["p_ref"], abs=expected["p_tol"]), file


@pytest.mark.parametrize(
    ("name", "model"), [("o02-mobilenetv1-uint8", "mobilenet-tflite"), ("o02b-mobilenetv1-qdq-onnx", "mobilenet-onnx")]
)
def test_pictures_get_their_class(name, model):
    """Four pictures, each runtime: the class that a person names, with the recorded score."""
    case, infer = _case(name), _inference(model)
    assert len(case["expected"]) == 4
    for file, expected in case["expected"].items():
        best = infer(_view(file)).findings[0]
        assert int(best.label) in expected["top1_in"], file
        assert best.score == pytest.approx(expected["score_ref"], abs=expected["score_tol"]), file


def test_both_runtimes_agree_on_the_same_quantised_network():
    """Raw outputs of the TFLite file and of its ONNX conversion differ by no more than the recorded steps."""
    case = _case("o02b-mobilenetv1-qdq-onnx")
    tflite, onnx = _inference("mobilenet-tflite"), _inference("mobilenet-onnx")
    for file, expected in case["expected"].items():
        view = _view(file)
        pair = [next(iter(infer(view).outputs.values())).astype(int) for infer in (tflite, onnx)]
        assert np.abs(pair[0] - pair[1]).max() <= expected["tflite_parity_max_abs_u8"], file


def test_handwritten_digits_are_read_by_the_lstm():
    """Five pictures of 28 x 28 pixels, five digits."""
    case, infer = _case("o15-mnist-lstm-int8"), _inference("mnist-lstm")
    read = {file: infer(_view(file)).findings[0].value for file in case["expected"]}
    assert read == {file: str(digit) for file, digit in case["expected"].items()}
    assert len(read) == 5
