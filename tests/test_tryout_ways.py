"""`limpet models try --compare`: the ways in which models want a picture, and which of them is the present one."""

import dataclasses

import cv2
import numpy as np
import pytest

from agent.manifest import load_manifest
from agent.tryout import variants
from tests import trying
from tests.realdata import MANIFESTS
from tests.recordings import write_tone
from tests.skeleton_models import write_fixed
from tests.trying import tried

here, strict = pytest.fixture(trying.here), pytest.fixture(trying.strict)


def brightness(folder):
    """A classifier that calls a picture bright or dark by the mean of its numbers, taken for 0..1."""
    import onnx
    from onnx import TensorProto, helper

    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    number = lambda name, value: helper.make_tensor(name, TensorProto.FLOAT, [], [value])  # noqa: E731
    one = [number("one", 1.0), number("zero", 0.0), helper.make_tensor("shape", TensorProto.INT64, [2], [1, 1])]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1),
        helper.make_node("Clip", ["mean", "zero", "one"], ["m"]),
        helper.make_node("Reshape", ["m", "shape"], ["bright"]), helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["bright", "dark"], ["y"], axis=1),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "brightness", [takes], [gives], one)
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "b.onnx")
    return folder / "b.onnx"


def test_one_picture_is_compared_in_all_the_ways_models_want(here, capsys):
    """A line for each of 16, the surest first, the manifest's own marked; a sheet of as many drawings."""
    cv2.imwrite("grey.png", np.full((64, 64, 3), 77, np.uint8))
    status, out, _ = tried(capsys, brightness(here / "b"), "grey.png", "--compare")
    lines = [line for line in out.splitlines() if line.startswith("  ")]
    assert (status, len(lines)) == (0, 16)
    (now,) = [line for line in lines if "(as it is now)" in line]
    assert "stretched, rgb, 0..1" in now
    assert "1 0.698, 0 0.302" in now
    scores = [float(line.rsplit(" ", 3)[-3].rstrip(",")) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert cv2.imread("grey.limpet.png").shape[1] > 1000


def test_what_takes_no_picture_is_not_compared(here, capsys):
    """And it says so."""
    write_tone(here / "bell.wav", 1.0)
    path = write_fixed(here / "bells", {"scores": np.array([[0.1, 0.9]])}, shape=(1, 16000))
    status, _, err = tried(capsys, path, "bell.wav", "--compare")
    assert (status, "--compare is for models that take a picture" in err) == (2, True)


def test_ports_of_whole_numbers_vary_in_colour_and_fit_alone():
    """Their range stands in scale and zero point; the steps of other inputs and other kinds stay."""
    ways = dict(variants(load_manifest(MANIFESTS / "traffic")))
    pairs = [(fit, colour) for fit in ("letterbox", "stretched") for colour in ("bgr", "rgb")]
    assert sorted(ways) == [f"{fit}, {colour}, as it is" for fit, colour in pairs]
    steps = ways["letterbox, bgr, as it is"].pre
    assert [step["step"] for step in steps] == ["letterbox", "colour"]
    fastest = dict(variants(load_manifest(MANIFESTS / "fastestdet")))
    assert fastest["stretched, rgb, -1..1"].pre[1:] == (
        {"step": "colour", "to": "rgb"}, {"step": "normalise", "mean": [127.5], "std": [127.5]})  # fmt: skip
    assert not list(variants(load_manifest(MANIFESTS / "silero-vad")))


def test_the_present_way_is_known_however_it_is_written():
    """Keys left at their defaults, 255 for 255.0, pictures that are BGR anyway: none makes it another way."""
    fastest = load_manifest(MANIFESTS / "fastestdet")
    assert {"step": "normalise", "divide_by": 255} in fastest.pre
    assert [words for words, way in variants(fastest) if way is fastest] == ["stretched, bgr, 0..1"]
    written = dataclasses.replace(fastest, pre=(
        {**fastest.pre[0], "step": "letterbox", "align": "top_left"}, {"step": "colour", "to": "bgr"},
        {"step": "normalise", "divide_by": 255.0, "mean": [0.0], "std": [1.0]}))  # fmt: skip
    assert [words for words, way in variants(written) if way is written] == ["letterbox, bgr, 0..1"]


def test_a_way_of_its_own_stands_beside_the_usual_ones():
    """Mean 127 and deviation 128 are nobody else's."""
    face = load_manifest(MANIFESTS / "face-rfb320")
    ways = variants(face)
    assert [words for words, way in ways if way is face] == ["its own [[pre]]"]
    assert len(ways) == 17


def test_the_present_way_is_marked(strict, capsys):
    """One row, in every case."""
    model = strict / "model" / "model.toml"
    for old, new in (("", ""), ("divide_by = 255.0", "divide_by = 200.0")):
        model.write_text(model.read_text().replace(old, new) if old else model.read_text())
        assert tried(capsys, "model", "street.png", "--compare")[1].count("(as it is now)") == 1
