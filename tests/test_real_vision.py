"""Real pictures and public models through the agent's own steps give the recorded answers."""

import numpy as np
import pytest

from pipelines.image import decode_image, image_view
from tests.realdata import ROOT, case, inference, needed

pytestmark = needed


def _view(file):
    return image_view(decode_image((ROOT / file).read_bytes(), file))


def test_persons_are_told_from_empty_scenes():
    """Four pictures, two with a person: the right side of one half, and the recorded score."""
    recorded, infer = case("o01-vww-int8"), inference("vww")
    assert len(recorded["expected"]) == 4
    for file, expected in recorded["expected"].items():
        scores = {f.label: f.score for f in infer(_view(file)).findings}
        assert (scores["person"] > 0.5) == expected["person"], file
        assert scores["person"] == pytest.approx(expected["p_ref"], abs=expected["p_tol"]), file


@pytest.mark.parametrize(
    ("name", "model"), [("o02-mobilenetv1-uint8", "mobilenet-tflite"), ("o02b-mobilenetv1-qdq-onnx", "mobilenet-onnx")]
)
def test_pictures_get_their_class(name, model):
    """Four pictures, each runtime: the class that a person names, with the recorded score."""
    recorded, infer = case(name), inference(model)
    assert len(recorded["expected"]) == 4
    for file, expected in recorded["expected"].items():
        best = infer(_view(file)).findings[0]
        assert int(best.label) in expected["top1_in"], file
        assert best.score == pytest.approx(expected["score_ref"], abs=expected["score_tol"]), file


def test_both_runtimes_agree_on_the_same_quantised_network():
    """Raw outputs of the TFLite file and of its ONNX conversion differ by no more than the recorded steps."""
    recorded = case("o02b-mobilenetv1-qdq-onnx")
    tflite, onnx = inference("mobilenet-tflite"), inference("mobilenet-onnx")
    for file, expected in recorded["expected"].items():
        view = _view(file)
        pair = [next(iter(infer(view).outputs.values())).astype(int) for infer in (tflite, onnx)]
        assert np.abs(pair[0] - pair[1]).max() <= expected["tflite_parity_max_abs_u8"], file


def test_handwritten_digits_are_read_by_the_lstm():
    """Five pictures of 28 x 28 pixels, five digits."""
    recorded, infer = case("o15-mnist-lstm-int8"), inference("mnist-lstm")
    read = {file: infer(_view(file)).findings[0].value for file in recorded["expected"]}
    assert read == {file: str(digit) for file, digit in recorded["expected"].items()}
    assert len(read) == 5
