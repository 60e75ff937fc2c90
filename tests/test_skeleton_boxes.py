"""What `limpet models new` guesses of detectors: public families, told by the shapes of their heads."""

import numpy as np
import pytest

from agent.skeleton import skeleton
from agent.skeleton.label_sets import COCO, COCO_90
from tests.skeleton_models import BOX_IN_640, WHERE, columns, looked, near, write_fixed


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


def test_numbers_of_coco_lie_where_tensorflow_counts_them():
    """1 is a person and 90 a toothbrush; ten numbers are unused."""
    assert (COCO_90[0], COCO_90[89], COCO_90.count("unused"), len(COCO_90), len(COCO)) == (
        "person", "toothbrush", 10, 90, 80)  # fmt: skip
    assert (COCO_90[16], COCO_90[43]) == ("cat", "bottle")
