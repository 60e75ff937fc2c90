"""Decoders of raw heads: every family, written out by its own formula, gives back the boxes it was made from."""

import math

import numpy as np
import pytest

from agent.errors import ModelError
from tests.detection_heads import (
    ANCHORS,
    FASTEST,
    LABELS,
    SIDE,
    SSD,
    TRUTH,
    VIEW,
    centred,
    decoder,
    fastest,
    grid,
    lay,
    logit,
    one_hot,
)


def yolo_v3(place, score, label):
    x, y, w, h = place
    return [logit(x + 1e-6), logit(y + 1e-6), math.log(w / 60), math.log(h / 60), 9.0, *one_hot(score, label)]


def yolo_v5(place, score, label):
    x, y, w, h = place
    sizes = [logit(math.sqrt(w / 60) / 2), logit(math.sqrt(h / 60) / 2)]
    return [logit((x + 0.5) / 2), logit((y + 0.5) / 2), *sizes, 9.0, *one_hot(score, label)]


def yolo_x(place, score, label):
    x, y, w, h = place
    return [x, y, math.log(w / 16), math.log(h / 16), 9.0, *one_hot(score, label)]


def sides_of(x, y, w, h):
    """Distances from the middle of a cell to the sides of a box whose centre lies at (x, y) in it, all in cells."""
    return np.array([w / 2 + 0.5 - x, h / 2 + 0.5 - y, w / 2 - 0.5 + x, h / 2 - 0.5 + y])


def fcos(place, score, label):
    return [*np.log(sides_of(*place[:2], place[2] / 16, place[3] / 16)), *one_hot(score, label)]


V5 = {"anchors": [ANCHORS], "size_of": "anchor", "move": "sigmoid_2", "grow": "sigmoid_2_squared"}
GRIDS = {
    "yolo_v3": (yolo_v3, 2, 8, {"anchors": [ANCHORS], "size_of": "anchor"}),
    "yolo_v5": (yolo_v5, 2, 8, V5),
    "yolo_x": (yolo_x, 1, 8, {"move": "none"}),
    "fastest": (fastest, 1, 8, FASTEST),
    "fcos": (fcos, 1, 7, {"columns": "box_classes", "box": "sides", "reach": "exp", "point": 0.5}),
}


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "anchors_first", "table"])
@pytest.mark.parametrize("family", GRIDS)
def test_raw_grids_are_read(family, layout):
    """Each family's own formula, inverted, in four orders of axes: the same two boxes."""
    numbers, anchors, width, keys = GRIDS[family]
    head = lay(grid(16, anchors, width), 16, numbers, anchor=anchors - 1)
    match layout:
        case "channels_first":
            head = head.transpose(0, 3, 1, 2).reshape(anchors * width, 10, 10)
        case "channels_last":
            head = head.transpose(1, 2, 0, 3).reshape(10, 10, anchors * width)
        case "table":
            head, keys = head.transpose(1, 2, 0, 3).reshape(-1, width), {**keys, "strides": [16]}
    found = decoder("box_grid", **keys)({"head": head[None]}, VIEW, LABELS)
    assert [f.label for f in found] == ["dog", "owl"]
    assert [f.score for f in found] == pytest.approx([0.9, 0.8], abs=1e-3)
    assert np.array([f.box for f in found]) == pytest.approx(np.array([box for _, _, box in TRUTH]), abs=0.05)


def test_distances_may_be_distributions_over_bins():
    """NanoDet and YOLOv8: 8 numbers per side, two strides, scores in ports of their own, one table or one per grid."""
    bins, heads = 8, []
    for stride in (8, 16):
        boxes, scores = grid(stride, 1, 4 * bins), grid(stride, 1, len(LABELS))
        for label, score, box in TRUTH[stride == 16 :][:1]:
            cx, cy, w, h = centred(box) / stride
            row, column = int(cy), int(cx)
            sides = sides_of(cx - column, cy - row, w, h)
            spread = np.full((4, bins), -30.0)
            for side, low in enumerate(sides.astype(int)):
                part = sides[side] - low
                spread[side, [low, low + 1]] = np.log([1 - part + 1e-9, part + 1e-9])
            boxes[0, row, column], scores[0, row, column] = spread.ravel(), one_hot(score, LABELS.index(label))
        heads.append((boxes.reshape(1, -1, 4 * bins), scores.reshape(1, -1, len(LABELS))))
    keys = {"box": "sides", "bins": bins, "point": 0.5, "strides": [8, 16]}
    outputs = {"b0": heads[0][0], "s0": heads[0][1], "b1": heads[1][0], "s1": heads[1][1]}
    found = decoder("box_grid", score_heads=["s0", "s1"], **keys)(outputs, VIEW, LABELS)
    assert np.array([f.box for f in found]) == pytest.approx(np.array([box for _, _, box in TRUTH]), abs=0.01)
    joined = np.concatenate([np.concatenate(pair, axis=2) for pair in heads], axis=1)
    again = decoder("box_grid", columns="box_classes", **keys)({"all": joined}, VIEW, LABELS)
    assert [f.box for f in again] == [f.box for f in found]
    turned = np.concatenate([joined[..., 4 * bins :], joined[..., : 4 * bins]], axis=2)
    again = decoder("box_grid", columns="classes_box", **keys)({"all": turned}, VIEW, LABELS)
    assert [f.box for f in again] == [f.box for f in found]


def test_a_cell_may_have_several_boxes_without_anchors():
    """As in SCRFD: two per cell, distances from its corner, scores in a port of their own."""
    boxes, scores = grid(16, 2, 4), grid(16, 2, len(LABELS))
    for place, (label, score, (x1, y1, x2, y2)) in enumerate(TRUTH):
        row, column = int((y1 + y2) / 2 // 16), int((x1 + x2) / 2 // 16)
        boxes[place, row, column] = np.array([column * 16 - x1, row * 16 - y1, x2 - column * 16, y2 - row * 16]) / 16
        scores[place, row, column] = one_hot(score, LABELS.index(label))
    outputs = {n: a.transpose(1, 2, 0, 3).reshape(1, -1, a.shape[-1]) for n, a in (("b", boxes), ("s", scores))}
    read = decoder("box_grid", heads=["b"], score_heads=["s"], per_cell=2, box="sides", strides=[16])
    found = read(outputs, VIEW, LABELS)
    assert [f.label for f in found] == ["dog", "owl"]
    assert np.array([f.box for f in found]) == pytest.approx(np.array([box for _, _, box in TRUTH]), abs=0.01)


def test_centreness_weighs_by_its_power():
    """score = object ^ 0.6 * class ^ 0.4."""
    head = lay(grid(16, 1, 8), 16, lambda *a: [logit(0.5), *fastest(*a)[1:]])
    keys = FASTEST | {"object_power": 0.6, "class_power": 0.4}
    found = decoder("box_grid", **keys)({"head": head}, VIEW, LABELS)
    assert [f.score for f in found] == pytest.approx([0.5**0.6 * p**0.4 for p in (0.9, 0.8)], abs=1e-6)


def encoded(level, box, order, gains, linear):
    """Raw numbers for a box from the first anchor of the cell that holds its centre, and where they stand."""
    stride, (aw, ah), each = level["stride"], level["sizes_px"][0], len(level["sizes_px"])
    cx, cy, w, h = centred(box)
    column, row = int(cx // stride), int(cy // stride)
    ratio = np.array([w / aw, h / ah])
    move = [(cx / stride - column - 0.5) * stride / aw / gains[0], (cy / stride - row - 0.5) * stride / ah / gains[0]]
    grow = ((ratio if linear else np.log(ratio)) / gains[1]).tolist()
    numbers = [*move, *grow] if order == "xywh" else [move[1], move[0], grow[1], grow[0]]
    return (row * math.ceil(SIDE / stride) + column) * each, numbers


FACE = [{"stride": 8, "sizes_px": [[SIDE, SIDE]] * 2}, {"stride": 16, "sizes_px": [[SIDE, SIDE]] * 6}]


@pytest.mark.parametrize(
    ("levels", "order", "linear", "gains", "extra"),
    [
        (FACE, "xywh", True, (1 / SIDE, 1 / SIDE), 12),
        (SSD, "xywh", False, (0.1, 0.2), 0),
        (SSD, "yxhw", False, (0.1, 0.2), 0),
    ],
)
def test_anchors_are_moved_and_stretched(levels, order, linear, gains, extra):
    """BlazeFace (linear, landmarks behind the box) and SSD (exponential): the boxes from which they were made."""
    counts = [(SIDE // one["stride"]) ** 2 * len(one["sizes_px"]) for one in levels]
    raw, scores = np.zeros((sum(counts), 4 + extra), "f4"), np.full((sum(counts), 3), -9.0, "f4")
    for start, level, (label, score, box) in zip((0, counts[0]), levels, TRUTH, strict=True):
        place, numbers = encoded(level, box, order, gains, linear)
        raw[start + place, :4], scores[start + place] = numbers, one_hot(score, LABELS.index(label))
    keys = {"centre_gain": gains[0], "size_gain": gains[1], "grow": "linear" if linear else "exp"}
    read = decoder("box_anchors", level=levels, order=order, activation="sigmoid", **keys)
    found = read({"boxes": raw[None], "scores": scores[None]}, VIEW, LABELS)
    assert [f.label for f in found] == ["dog", "owl"]
    assert np.array([f.box for f in found]) == pytest.approx(np.array([box for _, _, box in TRUTH]), abs=0.01)


def test_anchors_fill_the_grids_of_the_public_face_detectors():
    """BlazeFace has 896, Ultra-Light-Fast at 320 x 240 has 4420: a number that does not fit is refused."""
    from pipelines.detect_anchors import AnchorLevel, anchors

    blaze = (AnchorLevel(8, ((1.0, 1.0),) * 2), AnchorLevel(16, ((1.0, 1.0),) * 6))
    assert len(anchors(blaze, (128, 128), 0.5, False)) == 896
    sizes = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
    light = tuple(AnchorLevel(s, tuple((x, x) for x in group)) for s, group in zip((8, 16, 32, 64), sizes, strict=True))
    assert len(anchors(light, (320, 240), 0.5, True)) == 4420
    read = decoder("box_anchors", level=SSD)
    with pytest.raises(ModelError, match="tells of 7 boxes, the levels make 900 anchors: correct strides and sizes"):
        read({"boxes": np.zeros((1, 7, 4)), "scores": np.zeros((1, 7, 3))}, VIEW, LABELS)
