"""Prepared files of public models: the same answers bit for bit, or none and a reason. Gains are not asked here."""

import pytest

from agent.prepared import making, prepare
from agent.runtime.prepared import Place
from tests import prepared_files
from tests.realdata import ROOT, needed
from tests.test_real_runtime import described

pytestmark = needed
SAME = (
    "movenet_single_pose_lightning_ptq.tflite", "mobilenet_v1_0.5_160_quant.tflite", "silero_vad.onnx",
    "FastestDet.onnx", "vww_96_int8.tflite",
)  # fmt: skip
REASONS = {
    "traffic_model.tflite": "TFLite_Detection_PostProcess",
    "trained_lstm_int8.tflite": "LiteRT's CreateModelFromFile failed",
    "str_ww_ref_model.tflite": "failed with status",
}
"""Operators with outputs of unknown shape, or with state inside: the compiled model cannot, the interpreter can."""
any_pace = pytest.fixture(prepared_files.any_pace, autouse=True)


@pytest.fixture(autouse=True)
def all_are_worth_it(monkeypatch):
    """These models are small."""
    monkeypatch.setattr(making, "GAIN", -1000.0)


def prepared(tmp_path, name):
    """What became of preparing a public model."""
    path = ROOT / "models" / name
    (tmp_path / "model").mkdir()
    manifest = described(tmp_path / "model", path)
    return prepare(manifest, manifest.artifacts[0], Place(tmp_path / "prepared", 1000), root=path.parent)


@pytest.mark.parametrize("name", SAME)
def test_public_models_answer_the_same(tmp_path, name):
    """Pose, classification, voice with state, boxes."""
    done = prepared(tmp_path, name)
    assert (done.state, done.reason) == ("made", "")


@pytest.mark.parametrize("name", REASONS)
def test_what_the_compiled_model_cannot_run_stays_plain(tmp_path, name):
    """The reason names what it is."""
    done = prepared(tmp_path, name)
    assert done.state == "refused" and REASONS[name] in done.reason
