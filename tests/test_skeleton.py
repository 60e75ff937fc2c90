"""What `limpet models new` guesses, kind by kind: models made in the shapes of public families are read right."""

import zipfile

import flatbuffers
import numpy as np
import pytest

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.records import View
from agent.skeleton import guessed, skeleton
from agent.skeleton.flat import root
from agent.skeleton.known import COCO, COCO_90
from agent.skeleton.onnxfile import read_onnx
from agent.skeleton.tflite import read_tflite
from pipelines.image import image_view
from tests.skeleton_models import columns, write_fixed
from tests.tiny_models import write_model

GREY = image_view(np.full((480, 640, 3), 128, np.uint8))


def looked(folder, path, view=GREY):
    """What the guessed manifest makes of a view."""
    described = folder / "described"
    described.mkdir(exist_ok=True)
    manifest = guessed(path, described)
    runner = open_model(manifest, artifact_root=path.parent)
    try:
        return manifest, Inference(manifest, runner)(view).findings
    finally:
        runner.close()


def near(finding, label, box):
    assert finding.label == label
    assert np.abs(np.subtract(finding.box, box)).max() < 2.0, finding


BOX_IN_640 = (320, 240, 100, 50)
"""Centre and size in a letterboxed picture of 640 x 640."""
WHERE = (270, 135, 370, 185)
"""The same in the source, 640 x 480, which has 80 pixels of border above."""


def test_a_yolov8_export_is_read_as_it_is(tmp_path):
    """[1, 84, 8400] in columns: box_table, a letterbox, 0..1, COCO's labels."""
    table = columns(8400, 80, {4000: (BOX_IN_640, 16)})
    path = write_fixed(tmp_path, {"output0": table.T[None]})
    manifest, (dog,) = looked(tmp_path, path)
    assert manifest.decoder["step"] == "box_table"
    assert [step["step"] for step in manifest.pre] == ["letterbox", "colour", "normalise"]
    assert manifest.labels == COCO
    near(dog, "dog", WHERE)


def test_what_an_exporter_noted_is_taken(tmp_path):
    """Ultralytics notes labels, size and task; open dimensions are pinned to the noted size."""
    table = columns(2100, 2, {7: ((160, 120, 50, 25), 1)})
    notes = {"names": "{0: 'bolt', 1: 'nut'}", "imgsz": "[320, 320]", "stride": "32", "task": "detect"}
    path = write_fixed(tmp_path, {"output0": table.T[None]}, notes=notes, declared=("batch", 3, "height", "width"))
    manifest, (nut,) = looked(tmp_path, path)
    assert manifest.inputs[0].shape == (1, 3, 320, 320)
    assert manifest.labels == ("bolt", "nut")
    near(nut, "nut", WHERE)
    assert "known: noted in the file by its exporter" in skeleton(path)


def test_boxes_in_fractions_are_seen_by_their_size(tmp_path):
    """TFLite exports write fractions: the answer to noise tells."""
    table = columns(8400, 80, {4000: (BOX_IN_640, 16)})
    table[:, :4] /= 640
    manifest, (dog,) = looked(tmp_path, write_fixed(tmp_path, {"output0": table.T[None]}))
    assert manifest.decoder["unit"] == "fraction"
    near(dog, "dog", WHERE)


@pytest.mark.parametrize(("count", "family"), [(25200, "YOLOv5"), (8400, "YOLOX"), (8400, "YOLOv6")])
def test_rows_with_an_object_score_are_yolov5_or_yolox(tmp_path, count, family):
    """Three candidates per cell are YOLOv5's; of one per cell, YOLOX feeds BGR, YOLOv6 has an object everywhere."""
    table = columns(count, 2, {9: (BOX_IN_640, 1)}, extra=1)
    if family == "YOLOv6":
        table[:, 4] = 1.0
    if family == "YOLOX":
        table[9, 1] -= 80
    path = write_fixed(tmp_path, {"out": table[None]}, notes={"names": "['cat', 'cow']"})
    manifest, (cow,) = looked(tmp_path, path)
    assert manifest.decoder["columns"] == "box_object_classes"
    assert (manifest.pre[1]["to"] == "bgr") == (family == "YOLOX")
    assert family in skeleton(path)
    near(cow, "cow", WHERE)


def test_masks_of_a_yolo_are_said_to_be_unread(tmp_path):
    """Its boxes stand in one table with 32 numbers for masks: what to export instead."""
    table = columns(8400, 112, {})
    path = write_fixed(tmp_path, {"a": table.T[None], "b": np.zeros((1, 32, 160, 160), np.float32)})
    assert "an Ultralytics model for 'segment'" in skeleton(path)
    assert "export it for detection" in skeleton(path)


def test_yolox_heads_that_are_not_decoded_are_decoded_here(tmp_path):
    """Small numbers around zero are no boxes: box_grid with strides."""
    table = np.random.default_rng(0).normal(0, 0.3, (8400, 85)).astype(np.float32)
    table[:, 4:] = 0.01
    row = 80 * 30 + 40  # the cell at (320, 240) of stride 8
    table[row] = [0, 0, np.log(100 / 8), np.log(50 / 8), 1.0, *([0.0] * 16), 0.9, *([0.0] * 63)]
    manifest, (dog,) = looked(tmp_path, write_fixed(tmp_path, {"out": table[None]}))
    assert (manifest.decoder["step"], manifest.decoder["strides"]) == ("box_grid", [8, 16, 32])
    near(dog, "dog", (270, 215, 370, 265))


def test_an_export_that_ends_with_suppression_is_read_as_rows(tmp_path):
    """[1, 300, 6]: corners, score, class."""
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = [270, 215, 370, 265, 0.9, 16]
    manifest, found = looked(tmp_path, write_fixed(tmp_path, {"output0": rows}))
    assert manifest.decoder["columns"] == ["box", "score", "class"]
    (only,) = found
    near(only, "16", WHERE)


def test_four_ports_without_the_operator_are_told_apart(tmp_path):
    """Boxes by their shape, scores by being no whole numbers."""
    random = np.random.default_rng(1)
    scores = np.sort(random.random((1, 25)).astype(np.float32) * 0.2)[:, ::-1].copy()
    scores[0, 0] = 0.91
    boxes = np.tile(np.array([0.25, 0.25, 0.5, 0.75], np.float32), (1, 25, 1))
    ports = {"a": np.full((1, 25), 3.0), "b": boxes, "c": np.array([25.0]), "d": scores}
    path = write_fixed(tmp_path, ports, shape=(1, 320, 320, 3), dtype="uint8")
    manifest, (only,) = looked(tmp_path, path)
    assert (manifest.decoder["boxes"], manifest.decoder["classes"], manifest.decoder["scores"]) == ("b", "a", "d")
    near(only, "3", (160, 120, 480, 240))


def test_boxes_and_scores_in_two_ports_are_decoded_boxes_or_anchors(tmp_path):
    """Corners are read; corrections of anchors, which only their author knows, are asked for."""
    boxes = np.tile(np.array([0.25, 0.25, 0.5, 0.75], np.float32), (1, 500, 1))
    scores = np.zeros((1, 500, 3), np.float32)
    scores[..., 0], scores[0, 3] = 1.0, [0.05, 0.05, 0.9]
    path = write_fixed(tmp_path, {"scores": scores, "boxes": boxes}, notes={"names": "['a', 'b']"})
    manifest, (only,) = looked(tmp_path, path)
    assert manifest.decoder["background"] == "first"
    near(only, "b", (160, 120, 320, 360))
    raw = np.random.default_rng(0).normal(0, 1, (1, 1500, 4))
    text = skeleton(write_fixed(tmp_path, {"scores": np.zeros((1, 1500, 3)), "boxes": raw}, name="raw"))
    assert "??? 1500 rows of 4 numbers that are no boxes: corrections of anchors" in text


def test_blazeface_is_known_by_its_896_candidates(tmp_path):
    """Its anchors are written down."""
    regressors, scores = np.zeros((1, 896, 16), np.float32), np.full((1, 896, 1), -9.0, np.float32)
    regressors[0, 0, 2:4], scores[0, 0] = 64, 9.0
    path = write_fixed(tmp_path, {"regressors": regressors, "classificators": scores}, shape=(1, 128, 128, 3))
    manifest, (face,) = looked(tmp_path, path)
    assert manifest.decoder["step"] == "box_anchors"
    assert (face.label, round(face.score, 3)) == ("face", 1.0)


def test_raw_grids_are_split_by_the_number_of_their_channels(tmp_path):
    """144 = 4 x 16 + 80 numbers per cell are YOLOv8's heads; 3 x (5 + n) wait for anchors, and say so."""
    heads = {f"h{s}": np.full((1, 144, 640 // s, 640 // s), -9.0) for s in (8, 16, 32)}
    manifest, found = looked(tmp_path, write_fixed(tmp_path, heads))
    assert (manifest.decoder["columns"], manifest.decoder["bins"], found) == ("box_classes", 16, ())
    heads = {f"h{s}": np.full((1, 21, 416 // s, 416 // s), -9.0) for s in (8, 16, 32)}
    path = write_fixed(tmp_path, heads, shape=(1, 3, 416, 416), name="v3")
    manifest, _ = looked(tmp_path, path)
    assert len(manifest.labels) == 2
    assert "??? guess: grids of 3 x (5 + 2) numbers per cell; anchors are those of COCO's models" in skeleton(path)


def test_yunet_and_scrfd_are_known_by_their_heads(tmp_path):
    """Names tell one, two candidates per cell the other."""
    ports = {}
    for s in (8, 16, 32):
        n = (320 // s) ** 2
        ports |= {f"cls_{s}": np.zeros((1, n, 1)), f"obj_{s}": np.zeros((1, n, 1)), f"bbox_{s}": np.zeros((1, n, 4)),
                  f"kps_{s}": np.zeros((1, n, 10))}  # fmt: skip
    ports["cls_8"][0, 820] = ports["obj_8"][0, 820] = 1.0
    manifest, (face,) = looked(tmp_path, write_fixed(tmp_path, ports, shape=(1, 3, 320, 320), name="yunet"))
    assert (manifest.decoder["step"], face.label, manifest.pre[1]["to"]) == ("box_grid", "face", "bgr")
    ports = {}
    for s in (8, 16, 32):
        n = 2 * (640 // s) ** 2
        ports |= {f"s{s}": np.zeros((n, 1)), f"b{s}": np.zeros((n, 4)), f"k{s}": np.zeros((n, 10))}
    ports["s16"][1640], ports["b16"][1640] = 0.9, 2.0  # the middle cell of stride 16, two cells to each side
    manifest, (face,) = looked(tmp_path, write_fixed(tmp_path, ports, name="scrfd"))
    assert manifest.decoder["per_cell"] == 2
    near(face, "face", (288, 208, 352, 272))


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


def _described_tflite(folder):
    """A TFLite model with metadata, a colour space, normalisation, and a label file attached."""
    import io

    from ai_edge_litert import schema_py_generated as lite

    path = write_model(folder, "copy", "tflite", shape=(1, 32, 48, 3))
    model = lite.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)
    entry = lite.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    blob = lite.BufferT()
    blob.data = np.frombuffer(_metadata(), np.uint8)
    model.buffers.append(blob)
    model.metadata = [entry]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("names.txt", "one\ntwo\n")
    path.write_bytes(bytes(builder.Output()) + archive.getvalue())
    return path


def _table(builder, fields):
    """A table of `fields`, number -> offset or (bytes of a scalar)."""
    builder.StartObject(max(fields) + 1)
    for number, value in fields.items():
        if isinstance(value, tuple):
            builder.PrependUint8Slot(number, value[0], 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, value, 0)
    return builder.EndObject()


def _vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder, numbers):
    builder.StartVector(4, len(numbers), 4)
    for number in reversed(numbers):
        builder.PrependFloat32(number)
    return builder.EndVector()


def _metadata():
    """ModelMetadata: what the schema of TFLite metadata calls these fields by number."""
    b = flatbuffers.Builder(256)
    image = _table(b, {0: (1,)})
    content = _table(b, {0: (2,), 1: image})
    mean, std = _floats(b, [100.0]), _floats(b, [50.0])
    unit = _table(b, {0: (1,), 1: _table(b, {0: mean, 1: std})})
    takes = _table(b, {0: b.CreateString("image"), 3: content, 4: _vector(b, [unit])})
    file = _table(b, {0: b.CreateString("names.txt"), 2: (2,)})
    gives = _table(b, {0: b.CreateString("probability"), 6: _vector(b, [file])})
    part = _table(b, {2: _vector(b, [takes]), 3: _vector(b, [gives])})
    about = _table(b, {1: b.CreateString("Tells one from two."), 5: b.CreateString("MIT"), 3: _vector(b, [part])})
    b.Finish(about, b"M001")
    return bytes(b.Output())


def test_tflite_metadata_is_read(tmp_path):
    """Colour, mean and deviation, description, licence, and the label file in the archive behind the model."""
    path = _described_tflite(tmp_path)
    graph = read_tflite(path)
    (takes,), (gives,) = graph.inputs, graph.outputs
    assert (takes.colour, takes.mean, takes.std) == ("rgb", (100.0,), (50.0,))
    assert (gives.name, gives.files, graph.files) == ("probability", ("names.txt",), {"names.txt": b"one\ntwo\n"})
    text = skeleton(path)
    assert "# known: mean and std as noted in the file\n[[pre]]" in text
    assert 'licence = "MIT"  # noted in the file' in text
    assert 'description = "Tells one from two."' in text


def test_a_damaged_file_is_a_value_error_or_reads_otherwise(tmp_path):
    """Whatever byte is wrong, the readers end, and with no other error."""
    path = _described_tflite(tmp_path)
    data, refused = path.read_bytes(), 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            read_tflite(path)
        except ValueError:
            refused += 1
    assert 0 < refused < len(data)


def test_a_damaged_onnx_file_is_a_value_error_or_reads_otherwise(tmp_path):
    """The same for protobuf, cut off anywhere and with any byte turned around."""
    path = write_model(tmp_path, "add", "onnx")
    data, refused = path.read_bytes(), 0
    for place in range(1, len(data)):
        for damaged in (data[:place], bytes([*data[:place], data[place] ^ 0xFF, *data[place + 1 :]])):
            path.write_bytes(damaged)
            try:
                read_onnx(path)
            except ValueError:
                refused += 1
    assert 0 < refused < 2 * len(data)


def test_offsets_that_lead_out_of_the_file_are_refused():
    """A vector longer than the file, and a root beyond it."""
    with pytest.raises(ValueError, match="lies outside"):
        root(memoryview(b"\xff\xff\xff\x7fTFL3"), b"TFL3").text(0)
    with pytest.raises(ValueError, match="not b'TFL3'"):
        root(memoryview(b"\0\0\0\0abcd"), b"TFL3")


def test_numbers_of_coco_lie_where_tensorflow_counts_them():
    """1 is a person and 90 a toothbrush; ten numbers are unused."""
    assert (COCO_90[0], COCO_90[89], COCO_90.count("unused"), len(COCO_90), len(COCO)) == (
        "person", "toothbrush", 10, 90, 80)  # fmt: skip
    assert (COCO_90[16], COCO_90[43]) == ("cat", "bottle")


def test_what_an_array_model_is_stays_open(tmp_path):
    """No picture, no sound: arrays are fed as they are, and the decoder is asked for."""
    path = write_fixed(tmp_path, {"y": np.zeros((1, 5, 7), np.float32)}, shape=(1, 3))
    (tmp_path / "model.toml").write_text(skeleton(path))
    manifest = load_manifest(tmp_path)
    assert (manifest.modality, manifest.decoder) == ("tensor", None)
    runner = open_model(manifest)
    assert Inference(manifest, runner)(View(np.zeros((1, 3), np.float32))).findings == ()
    runner.close()
