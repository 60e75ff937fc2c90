"""What `limpet models new` guesses, kind by kind: models made in the shapes of public families are read right."""

import numpy as np
import pytest

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.records import View
from agent.skeleton import guessed, skeleton
from tests.skeleton_models import looked, near, write_fixed
from tests.tiny_models import write_model


def test_points_of_a_body_are_read_from_tables_and_maps(tmp_path):
    """[1, 1, 17, 3] as MoveNet, [1, h, w, 17] with offsets as PoseNet."""
    table = np.full((1, 1, 17, 3), 0.5, np.float32)
    manifest, found = looked(tmp_path, write_fixed(tmp_path, {"out": table}, shape=(1, 192, 192, 3), dtype="uint8"))
    assert (manifest.decoder["step"], len(found), found[1].label) == ("keypoints", 18, "nose")
    maps, offsets = np.full((1, 9, 9, 17), -9.0), np.zeros((1, 9, 9, 34))
    maps[0, 4, 4] = 9.0
    path = write_fixed(tmp_path, {"maps": maps, "offsets": offsets}, shape=(1, 257, 257, 3), name="posenet")
    manifest, found = looked(tmp_path, path)
    assert (manifest.decoder["step"], manifest.decoder["stride"]) == ("heatmaps", 32.0)
    assert found[1].box[:2] == pytest.approx((128 / 257 * 640, 128 / 257 * 480), abs=0.5)


@pytest.mark.parametrize("first", [True, False])
def test_maps_of_scores_are_segments(tmp_path, first):
    """Classes before or behind the rows and columns; logits get a softmax."""
    maps = np.zeros((1, 64, 64, 3), np.float32)
    maps[..., 0], maps[:, :32, :, 2] = 1.0, 4.0
    answer = np.moveaxis(maps, 3, 1) if first else maps
    path = write_fixed(tmp_path, {"map": answer}, shape=(1, 3, 256, 256))
    (tmp_path / "labels.txt").write_text("background\nroad\nsky\n")
    manifest, (sky,) = looked(tmp_path, path)
    assert manifest.decoder["form"] == ("scores_first" if first else "scores")
    assert (sky.label, sky.value) == ("sky", 0.5)


def test_a_coarse_grid_of_classes_is_told_as_regions(tmp_path):
    """FOMO's 12 x 12 cells of 96 x 96 pixels: each thing is a connected region."""
    grid = np.zeros((1, 12, 12, 2), np.float32)
    grid[..., 0] = 0.99
    grid[0, 2, 3], grid[0, 8, 8], grid[0, 8, 9] = [0.1, 0.9], [0.2, 0.8], [0.2, 0.8]
    grid[..., 1] = 1 - grid[..., 0]
    manifest, found = looked(tmp_path, write_fixed(tmp_path, {"out": grid}, shape=(1, 96, 96, 3)))
    assert (manifest.decoder["step"], len(found)) == ("segments", 2)
    near(found[1], "object 1", (160, 80, 640 / 3, 120))


def test_ten_classes_of_a_small_picture_are_digits_when_it_is_grey(tmp_path):
    """In colour they are CIFAR-10's."""
    scores = np.full((1, 10), 0.1, np.float32)
    grey = skeleton(write_fixed(tmp_path, {"y": scores}, shape=(1, 28, 28, 1), name="grey"))
    colour = skeleton(write_fixed(tmp_path, {"y": scores}, shape=(1, 32, 32, 3), name="colour"))
    assert 'step = "digits"' in grey
    assert '"airplane"' in colour
    assert 'step = "classify"' in colour


def test_points_of_a_hand_and_rows_of_a_machine_are_known_by_their_number(tmp_path):
    """21 x 3 numbers beside scores; 640 numbers given back."""
    hand = {"points": np.full((1, 63), 100.0), "hand": np.full((1, 1), 0.9)}
    manifest, found = looked(tmp_path, write_fixed(tmp_path, hand, shape=(1, 224, 224, 3), name="hand"))
    assert (manifest.decoder["columns"], found[0].label, len(found)) == (["x", "y", "other"], "hand", 22)
    text = skeleton(write_fixed(tmp_path, {"y": np.zeros((1, 640))}, shape=(1, 640), name="machine"))
    assert ('modality = "audio"' in text, 'step = "log_mel_frames"' in text) == (True, True)


def test_scores_that_do_not_add_up_get_a_softmax(tmp_path):
    """Logits of PyTorch's classifiers, with ImageNet's mean and deviation."""
    logits = np.zeros((1, 1000), np.float32)
    logits[0, 281] = 12.0
    path = write_fixed(tmp_path, {"logits": logits}, shape=(1, 3, 224, 224))
    manifest, found = looked(tmp_path, path)
    assert manifest.decoder["activation"] == "softmax"
    assert manifest.pre[-1]["mean"] == [0.485, 0.456, 0.406]
    assert (found[0].label, found[0].score > 0.9) == ("281", True)


def test_labels_beside_the_model_are_taken_when_their_number_fits(tmp_path):
    """As a file when its lines are the labels, inline when they are numbered; never when one is missing."""
    scores = np.full((1, 4), 0.25, np.float32)
    path = write_fixed(tmp_path, {"y": scores}, shape=(1, 3, 64, 64))
    beside = tmp_path / "labels.txt"
    beside.write_text("ape\nbee\ncat\ndog\n")
    assert 'labels_file = "labels.txt"' in skeleton(path)
    beside.write_text("0 ape\n1 bee\n2  cat\n3: dog\n")
    assert 'labels = ["ape", "bee", "cat", "dog"]' in skeleton(path)
    beside.write_text("\ufeff0 ape\n1 bee\n2 cat\n3 dog\n")
    assert 'labels = ["ape", "bee", "cat", "dog"]' in skeleton(path)
    beside.write_text("bee\ncat\ndog\n")
    assert "label_offset = 1" in skeleton(path)
    beside.write_text("ape\nbee\n")
    assert "\nlabels_file" not in skeleton(path)


@pytest.mark.parametrize(
    ("scale", "zero", "keys"),
    [
        (1 / 255, -128, {"divide_by": 255.0}), (2 / 255, 0, {"mean": [127.5], "std": [127.5]}), (1.0, -128, {}),
        (4.76 / 255, -14, {"divide_by": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
    ],
)  # fmt: skip
def test_scale_and_zero_point_tell_the_range_of_a_picture(tmp_path, scale, zero, keys):
    """What an int8 port spans is what it was quantised from."""
    from agent.skeleton.facts import Shaped
    from agent.skeleton.pictures import _by_span

    part = _by_span(Shaped("x", (1, 96, 96, 3), "int8", scale, zero))
    assert (part.sure, {k: v for k, v in part.keys.items() if k != "step"}) == ("known", keys)


def test_states_are_paired_by_shape_and_name(tmp_path):
    """h and hn are a state; two inputs of an addition are none."""
    assert '[[state]]\ninput = "h"\noutput = "hn"' in skeleton(write_model(tmp_path, "total", "onnx"))
    import onnx
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("a", "b", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["sum"])], "add", ports[:2], ports[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "add.onnx")
    assert "[[state]]" not in skeleton(tmp_path / "add.onnx")


def test_a_waveform_gets_a_window_of_its_length(tmp_path):
    """15,600 samples are 0.975 s at 16 kHz; many labels mean several sounds at once."""
    scores = np.random.default_rng(0).uniform(0.01, 0.2, (1, 521)).astype(np.float32)
    path = write_fixed(tmp_path, {"scores": scores}, shape=(1, 15600))
    folder = tmp_path / "d"
    folder.mkdir()
    manifest = guessed(path, folder)
    assert (manifest.modality, manifest.window["length_s"], manifest.decoder["step"]) == ("audio", 0.975, "sounds")
    assert len(manifest.labels) == 521


def test_an_output_that_changes_its_size_is_told(tmp_path):
    """Rows that pass a threshold in the graph: nothing can be described, and the remark says what to export."""
    import onnx
    from onnx import TensorProto, helper

    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
    gives = helper.make_tensor_value_info("y", TensorProto.INT64, [4, None])
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "restless", [takes], [gives])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "restless.onnx")
    text = " ".join(skeleton(tmp_path / "restless.onnx").replace("# ", "").split())
    assert "??? output 'y': its size depends on what is seen: export the model with a fixed number of rows" in text


def test_a_number_beside_a_sound_is_its_rate(tmp_path):
    """Some speech models ask for the sampling rate as an input."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ports = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [16000, 1]),
             helper.make_tensor_value_info("data:1", TensorProto.INT32, [1])]  # fmt: skip
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    zero = numpy_helper.from_array(np.array([[0.2, 0.2, 0.6]], np.float32), "zero")
    nodes = [helper.make_node("Cast", ["data:1"], ["rate"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["data"], ["mean"], keepdims=0),
             helper.make_node("Mul", ["rate", "mean"], ["m"]),
             helper.make_node("Mul", ["m", "none"], ["n"]), helper.make_node("Add", ["zero", "n"], ["y"])]  # fmt: skip
    none = helper.make_tensor("none", TensorProto.FLOAT, [], [0.0])
    graph = helper.make_graph(nodes, "speech", ports, [gives], [zero, none])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "s.onnx")
    (tmp_path / "d").mkdir()
    manifest = guessed(tmp_path / "s.onnx", tmp_path / "d")
    assert (manifest.inputs[1].value, manifest.window["length_s"]) == (16000, 1.0)
    assert manifest.decoder["step"] == "keyword"


def test_a_model_that_gives_its_input_back_is_an_autoencoder(tmp_path):
    """Rows and a reconstruction, with the threshold left to the publisher."""
    path = write_fixed(tmp_path, {"y": np.zeros((1, 32), np.float32)}, shape=(1, 32))
    text = skeleton(path)
    assert 'modality = "series"' in text
    assert 'step = "reconstruction"' in text
    assert "??? guess" in text


def test_an_int8_onnx_model_shows_the_scales_of_its_ports(tmp_path):
    """They stand in the operators beside the ports."""
    (tmp_path / "model.toml").write_text(skeleton(write_model(tmp_path, "add", "onnx")))
    manifest = load_manifest(tmp_path)
    ports = [(port.scale, port.zero_point) for port in (*manifest.inputs, *manifest.outputs)]
    assert ports == [(0.5, -3), (1.0, 5)]


def test_what_an_array_model_is_stays_open(tmp_path):
    """No picture, no sound: arrays are fed as they are, and the decoder is asked for."""
    path = write_fixed(tmp_path, {"y": np.zeros((1, 5, 7), np.float32)}, shape=(1, 3))
    (tmp_path / "model.toml").write_text(skeleton(path))
    manifest = load_manifest(tmp_path)
    assert (manifest.modality, manifest.decoder) == ("tensor", None)
    runner = open_model(manifest)
    assert Inference(manifest, runner)(View(np.zeros((1, 3), np.float32))).findings == ()
    runner.close()
