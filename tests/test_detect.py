"""Decoders of boxes: every family of heads, written out by its own formula, gives back the boxes it was made from."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError, ModelError
from agent.manifest import Port
from agent.records import View
from agent.runtime.quant import dequantise
from pipelines import boxes as boxes_module
from pipelines import make_step
from pipelines.boxes import areas, corners, iou, suppressed, to_source
from pipelines.image import image_view
from pipelines.outputs import decoded

LABELS = ("cat", "dog", "owl")
SIDE = 160
"""Width and height of the picture that the models of these tests see."""
TRUTH = (("dog", 0.9, (20.0, 30.0, 60.0, 110.0)), ("owl", 0.8, (100.0, 40.0, 150.0, 70.0)))
VIEW = image_view(np.zeros((SIDE, SIDE, 3), np.uint8))


def decoder(step, **keys):
    return make_step("decoder", {"step": step, **keys}, "a test")


def told(findings):
    return [(f.label, round(f.score, 3), tuple(round(x, 2) for x in f.box)) for f in findings]


def centred(box):
    x1, y1, x2, y2 = box
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def logit(p):
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


boxes_of = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=30
).map(lambda rows: np.array([(x, y, x + w, y + h) for x, y, w, h in rows], float))


@given(boxes_of, boxes_of)
def test_overlap_is_a_share_that_is_the_same_both_ways(one, other):
    """Between 0 and 1, symmetric, 1 with itself, and equal to counting unit squares."""
    made = iou(one, other)
    assert ((made >= 0) & (made <= 1)).all()
    assert np.allclose(made, iou(other, one).T)
    assert np.allclose(np.diag(iou(one, one)), 1)
    canvas = np.zeros((2, 100, 100), bool)
    for i, (x1, y1, x2, y2) in enumerate((one[0].astype(int), other[0].astype(int))):
        canvas[i, y1:y2, x1:x2] = True
    assert made[0, 0] == pytest.approx((canvas[0] & canvas[1]).sum() / (canvas[0] | canvas[1]).sum())


def naive(boxes, limit):
    kept = []
    for i in range(len(boxes)):
        if all(iou(boxes[i : i + 1], boxes[j : j + 1])[0, 0] <= limit for j in kept):
            kept.append(i)
    return kept


@given(boxes_of, st.floats(0.05, 0.95))
def test_suppression_keeps_what_the_definition_keeps(boxes, limit):
    """Greedy, best first, as the two-loop definition; with a limit its first ones."""
    assert suppressed(boxes, limit, 100) == naive(boxes, limit)
    assert suppressed(boxes, limit, 3) == naive(boxes, limit)[:3]


@given(boxes_of, st.data())
def test_boxes_suppress_only_their_own_class(boxes, data):
    """The union of what stays of each class alone."""
    classes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(boxes), max_size=len(boxes))))
    alone = [np.flatnonzero(classes == c)[naive(boxes[classes == c], 0.4)] for c in np.unique(classes)]
    assert suppressed(boxes, 0.4, 100, classes) == sorted(np.concatenate(alone).tolist())


@given(boxes_of, st.data())
def test_few_boxes_and_many_are_suppressed_alike(boxes, data):
    """Both short ways give what the long way gives, with classes and without, and with a limit."""
    classes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(boxes), max_size=len(boxes))))
    short = [suppressed(boxes, 0.3, most, kinds) for kinds in (None, classes) for most in (2, 100)]
    with pytest.MonkeyPatch.context() as patch:
        for shorter in ("_HANDFUL", "_FEW"):
            patch.setattr(boxes_module, shorter, 0)
            assert [suppressed(boxes, 0.3, most, kinds) for kinds in (None, classes) for most in (2, 100)] == short


@pytest.mark.parametrize("order", ["xyxy", "yxyx", "xywh", "yxhw"])
def test_four_numbers_in_any_order_become_the_same_box(order):
    """Corners or centre and size, x or y first."""
    x1, y1, x2, y2 = box = (10.0, 20.0, 50.0, 100.0)
    numbers = box if order in ("xyxy", "yxyx") else tuple(centred(box))
    numbers = numbers if order[0] == "x" else (numbers[1], numbers[0], numbers[3], numbers[2])
    assert corners(np.array([numbers]), order).tolist() == [[x1, y1, x2, y2]]


def test_sides_of_negative_length_become_points():
    """No box has a negative area, whatever a model says."""
    made = np.concatenate([corners(np.array([[5.0, 5, 2, 9]]), "xyxy"), corners(np.array([[5.0, 5, -2, 4]]), "xywh")])
    assert areas(made).tolist() == [0, 0]
    assert iou(made, made).tolist() == [[0, 0], [0, 0]]


@settings(max_examples=40)
@given(st.integers(50, 900), st.integers(50, 900), st.booleans())
def test_boxes_go_back_through_crop_and_letterbox(width, height, top_left):
    """A box drawn in source pixels, moved as the picture is, comes back to within rounding of the resize."""
    view = image_view(np.zeros((height, width, 3), np.uint8))
    keys = {"width_px": SIDE, "height_px": SIDE, "interpolation": "nearest"}
    keys["align"] = "top_left" if top_left else "centre"
    seen = make_step("pre", {"step": "crop", "box": [0.1, 0.1, 0.9, 0.9], "unit": "fraction"}, "a test")(view)
    seen = make_step("pre", {"step": "letterbox", **keys}, "a test")(seen)
    source = np.array([[0.2 * width, 0.3 * height, 0.6 * width, 0.8 * height]])
    scale, offset = np.array(seen.scale * 2), np.array(seen.offset * 2)
    assert to_source((source - offset) / scale, seen) == pytest.approx(source)
    assert to_source(np.array([[-9e9, -9e9, 9e9, 9e9]]), seen).tolist() == [[0, 0, width, height]]


def post_process(rows, room=6):
    """The four outputs of TFLite_Detection_PostProcess for rows of (label, score, box)."""
    boxes, classes, scores = np.zeros((1, room, 4), "f4"), np.zeros((1, room), "f4"), np.zeros((1, room), "f4")
    for i, (label, score, (x1, y1, x2, y2)) in enumerate(rows):
        boxes[0, i] = np.array([y1, x1, y2, x2]) / SIDE
        classes[0, i], scores[0, i] = LABELS.index(label), score
    return {"boxes": boxes, "classes": classes, "scores": scores, "count": np.array([len(rows)], "f4")}


def test_the_post_process_operator_is_read():
    """Boxes as fractions, y first, in four ports; those beyond the count do not exist."""
    outputs = post_process(TRUTH)
    assert told(decoder("boxes")(outputs, VIEW, LABELS)) == list(TRUTH)
    outputs["scores"][0, 4] = 0.99
    assert len(decoder("boxes")(outputs, VIEW, LABELS)) == 3
    assert told(decoder("boxes", count="count")(outputs, VIEW, LABELS)) == list(TRUTH)


def test_a_background_class_has_no_label():
    """Class 0 is dropped and class 1 has the first label."""
    outputs = post_process([("cat", 0.95, (0, 0, 9, 9)), *TRUTH])
    found = decoder("boxes", background="first")(outputs, VIEW, ("dog", "owl"))
    assert told(found) == list(TRUTH)


def test_a_table_that_ends_with_suppression_is_read():
    """One row per box: x1, y1, x2, y2, score, class, in pixels."""
    rows = np.array([[[*box, score, LABELS.index(label)] for label, score, box in TRUTH]], "f4")
    read = decoder("boxes", columns=["box", "score", "class"], order="xyxy", unit="px")
    assert told(read({"output0": rows}, VIEW, LABELS)) == list(TRUTH)
    batched = np.concatenate([np.zeros((1, 2, 1), "f4"), rows], axis=2)
    read = decoder("boxes", columns=["batch", "box", "score", "class"], order="xyxy", unit="px")
    assert told(read({"output0": batched}, VIEW, LABELS)) == list(TRUTH)


def candidates(objects, count=40, logits=False):
    """A table [count, 4 + objects + 3], centre and size in pixels; the truth twice, the second a little worse."""
    table = np.zeros((count, 4 + objects + len(LABELS)), "f4")
    for i, (label, score, box) in enumerate([*TRUTH, *[(n, s - 0.1, np.add(b, 2.0)) for n, s, b in TRUTH]]):
        row = table[3 + 7 * i]
        row[:4], row[4 + objects + LABELS.index(label)] = centred(box), score
        if objects:
            row[4], row[5:] = 0.95, row[5:] / 0.95
    if logits:
        table[:, 4:] = logit(table[:, 4:].clip(1e-4, 1 - 1e-4))
    return table


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("fraction", [False, True])
@pytest.mark.parametrize("objects", [0, 1])
@pytest.mark.parametrize("logits", [False, True])
def test_tables_of_candidates_are_read(turned, fraction, objects, logits):
    """As rows or columns, in pixels or fractions, with or without objectness, activated or not: the same two boxes."""
    table = candidates(objects, logits=logits)
    if fraction:
        table[:, :4] /= SIDE
    keys = {"columns": "box_object_classes"} if objects else {}
    keys |= {"activation": "sigmoid", "object_activation": "sigmoid"} if logits else {}
    read = decoder("box_table", unit="fraction" if fraction else "px", **keys)
    found = read({"output0": (table.T if turned else table)[None]}, VIEW, LABELS)
    assert [label for label, _, _ in told(found)] == ["dog", "owl"]
    assert [f.score for f in found] == pytest.approx([0.9, 0.8], abs=1e-3)
    assert np.array([f.box for f in found]) == pytest.approx(np.array([box for _, _, box in TRUTH]), abs=0.01)


def test_boxes_and_scores_may_have_ports_of_their_own():
    """With softmax over classes and the last class for nothing, as DETR does."""
    table = candidates(0)
    logits = np.concatenate([np.log(table[:, 4:].clip(1e-6)), np.log(1 - table[:, 4:].max(1, keepdims=True))], axis=1)
    read = decoder("box_table", boxes="boxes", scores="logits", activation="softmax", background="last")
    found = read({"logits": logits[None], "boxes": table[None, :, :4]}, VIEW, LABELS)
    assert [(f.label, round(f.score, 2)) for f in found] == [("dog", 0.9), ("owl", 0.8)]


def grid(stride, anchors, width):
    """An empty head [anchors, rows, columns, width] of very negative logits, and where a box's centre falls in it."""
    n = SIDE // stride
    return np.full((anchors, n, n, width), -9.0, "f4")


def lay(head, stride, numbers, anchor=0):
    """Write the numbers of each true box into the cell that holds its centre."""
    for label, score, box in TRUTH:
        cx, cy, w, h = centred(box)
        row, column = int(cy // stride), int(cx // stride)
        place = (cx / stride - column, cy / stride - row, w, h)
        head[anchor, row, column] = numbers(place, score, LABELS.index(label))
    return head


def one_hot(score, label):
    made = np.full(len(LABELS), -9.0)
    made[label] = logit(score)
    return made


ANCHORS = [[30, 40], [60, 60]]


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


def fastest(place, score, label):
    x, y, w, h = place
    return [9.0, math.atanh(x), math.atanh(y), logit(w / SIDE), logit(h / SIDE), *one_hot(score, label)]


def sides_of(x, y, w, h):
    """Distances from the middle of a cell to the sides of a box whose centre lies at (x, y) in it, all in cells."""
    return np.array([w / 2 + 0.5 - x, h / 2 + 0.5 - y, w / 2 - 0.5 + x, h / 2 - 0.5 + y])


def fcos(place, score, label):
    return [*np.log(sides_of(*place[:2], place[2] / 16, place[3] / 16)), *one_hot(score, label)]


V5 = {"anchors": [ANCHORS], "size_of": "anchor", "move": "sigmoid_2", "grow": "sigmoid_2_squared"}
FASTEST = {"columns": "object_box_classes", "move": "tanh", "grow": "sigmoid", "size_of": "picture"}
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
    keys = GRIDS["fastest"][3] | {"object_power": 0.6, "class_power": 0.4}
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
SSD = [{"stride": 8, "sizes_px": [[20, 30], [40, 30]]}, {"stride": 16, "sizes_px": [[60, 60]]}]


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


def test_eight_bit_tables_are_read_through_their_scale():
    """A per-tensor int8 table, dequantised as every port is, gives the boxes to within its steps."""
    table = candidates(0)
    table[:, :4] /= SIDE
    port = Port("table", (1, *table.shape), "int8", 1 / 255, -128)
    raw = np.rint(table / port.scale + port.zero_point).clip(-128, 127).astype(np.int8)[None]
    found = decoder("box_table", unit="fraction")({"table": dequantise(raw, port)}, VIEW, LABELS)
    assert np.array([f.box for f in found]) == pytest.approx(np.array([b for _, _, b in TRUTH]), abs=1.5 * SIDE / 255)


def test_a_wild_picture_costs_bounded_time():
    """25,200 candidates above the threshold, none overlapping another enough: as many boxes as allowed, in time."""
    rng = np.random.default_rng(1)
    table = np.hstack([rng.uniform(0, SIDE, (25_200, 2)), np.full((25_200, 2), 3.0), rng.random((25_200, 3))])
    start = time.perf_counter()
    found = decoder("box_table", threshold=0.0, max_findings=100)({"t": table.astype("f4")[None]}, VIEW, LABELS)
    assert len(found) == 100
    assert time.perf_counter() - start < 2.0


def test_cells_are_pieces_of_one_picture():
    """A detector that ran on two halves: boxes in source pixels, an object on the seam told once."""
    view = View(np.zeros((2, SIDE, SIDE, 3), np.uint8), size=(300, 160), cells=((0, 0, 160, 160), (140, 0, 300, 160)))
    left = [("dog", 0.9, (142.0, 10.0, 158.0, 50.0))]
    right = [("dog", 0.8, (2.0, 10.0, 18.0, 50.0)), ("cat", 0.7, (80, 80, 120, 120))]
    each = [post_process(left), post_process(right)]
    stacked = {name: np.stack([one[name] for one in each]) for name in each[0]}
    found = decoder("boxes", nms_iou=0.5)(stacked, view, LABELS)
    assert told(found) == [("dog", 0.9, (142, 10, 158, 50)), ("cat", 0.7, (220, 80, 260, 120))]


def test_nothing_found_is_no_finding():
    """All scores below the threshold, in every decoder."""
    assert decoder("boxes")(post_process([]), VIEW, LABELS) == ()
    assert decoder("box_table")({"t": np.zeros((1, 7, 40), "f4")}, VIEW, LABELS) == ()
    assert decoder("box_grid", move="none")({"t": grid(16, 1, 8)}, VIEW, LABELS) == ()
    outputs = {"boxes": np.zeros((1, 900, 4)), "scores": np.zeros((1, 900, 3))}
    assert decoder("box_anchors", level=SSD)(outputs, VIEW, LABELS) == ()


RAW = {
    "boxes": ({"columns": ["box", "score", "class"], "order": "xyxy"}, {"t": np.array([[0.1, 0.2, 0.3, 0.4, 0.9, 1]])}),
    "box_table": ({"unit": "fraction"}, {"t": candidates(0)[None] / ([SIDE] * 4 + [1] * 3)}),
    "box_grid": (GRIDS["fastest"][3], {"t": lay(grid(16, 1, 8), 16, fastest)[None]}),
    "box_anchors": ({"level": SSD}, {"boxes": np.zeros((1, 900, 4)), "scores": np.full((1, 900, 3), 0.9)}),
}


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE, 3), (1, 3, SIDE, SIDE), (1, SIDE, SIDE), (SIDE, SIDE, 3)])
@pytest.mark.parametrize("step", RAW)
def test_raw_tensors_are_decoded_in_pixels_of_the_models_picture(step, shape):
    """Golden arrays have no source: whatever the layout of the input, boxes are told in its own pixels."""
    keys, outputs = RAW[step]
    found = decoder(step, **keys)(outputs, View(np.zeros(shape, np.uint8)), LABELS)
    assert len(found) > 0
    assert found == decoder(step, **keys)(outputs, View(VIEW.data), LABELS)


def test_numbers_that_are_not_finite_are_refused():
    """A score or a box that is infinite is an error that names the decoder, never a finding."""
    table = candidates(0)
    table[3, 5] = np.inf
    with pytest.raises(ModelError, match="'box_table': a score is not finite"):
        decoder("box_table")({"t": table[None]}, VIEW, LABELS)
    table[3, 5], table[3, 0] = 0.9, np.inf
    with pytest.raises(ModelError, match="'box_table': a box is not finite"):
        decoder("box_table")({"t": table[None]}, View(np.zeros((SIDE, SIDE, 3), np.uint8)), LABELS)


DECODERS = [
    ("boxes", {}), ("boxes", {"count": "count"}), ("boxes", {"columns": ["box", "score", "class"]}),
    ("box_table", {"boxes": "boxes"}), ("box_table", {"boxes": "boxes", "scores": "scores"}),
    ("box_table", {"columns": "object_box_classes", "activation": "softmax", "background": "last"}),
    ("box_grid", {"heads": ["boxes"]}), ("box_grid", {"heads": ["boxes"], "strides": [8, 16]}), ("box_grid", {}),
    ("box_grid", {"heads": ["boxes"], "score_heads": ["scores"], "box": "sides", "bins": 2}),
    ("box_grid", {"heads": ["boxes"], "object_heads": ["count"], "anchors": [ANCHORS], "size_of": "anchor"}),
    ("box_anchors", {"level": SSD}), ("segments", {}), ("segments", {"form": "scores", "output": "scores"}),
    ("segments", {"form": "scores_first", "regions": 2}), ("keypoints", {}), ("keypoints", {"scores": "scores"}),
    ("heatmaps", {}), ("heatmaps", {"offsets": "scores"}), ("classify", {}),
]  # fmt: skip
sizes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 7, 8, 20]), max_size=4)
numbers = st.sampled_from([0.0, 0.7, 1.0, -5.0, 300.0, 1e30, float("nan"), float("inf")])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(DECODERS), st.lists(st.tuples(sizes, numbers), min_size=4, max_size=4), st.data())
def test_outputs_of_any_shape_and_number_give_findings_or_a_model_error(made, ports, data):
    """Whatever a graph puts out, a lane counts a refusal and lives: no other exception, and no NaN in a finding."""
    step, keys = made
    names = ("boxes", "classes", "scores", "count")
    outputs = {n: np.full(shape, number, np.float32) for n, (shape, number) in zip(names, ports, strict=True)}
    labels = data.draw(st.sampled_from([(), LABELS[:1], LABELS]))
    try:
        found = decoded(decoder(step, **keys), outputs, VIEW, labels)
    except ModelError:
        return
    assert all(np.isfinite([f.score, *(f.box or ())]).all() for f in found)
    assert len(found) <= 400


def test_labels_that_do_not_fit_are_refused():
    """A class without a label, a table of another width, a head of another width: each says what to correct."""
    with pytest.raises(ModelError, match="class 2 has no label, there are 2: correct the labels"):
        decoder("boxes")(post_process(TRUTH), VIEW, LABELS[:2])
    with pytest.raises(ModelError, match="has no side of 6 numbers: correct the labels"):
        decoder("box_table")({"t": candidates(0)[None]}, VIEW, LABELS[:2])
    with pytest.raises(ModelError, match="has no 1 x 7 numbers per cell: correct labels"):
        decoder("box_grid")({"t": grid(16, 1, 8)}, VIEW, LABELS[:2])
    with pytest.raises(ModelError, match="shows no grid: give 'strides'"):
        decoder("box_grid")({"t": np.zeros((1, 100, 8))}, VIEW, LABELS)
    with pytest.raises(ModelError, match=r"100 candidates do not fill grids .* which have 400: correct 'strides'"):
        decoder("box_grid", strides=[8])({"t": np.zeros((1, 100, 8))}, VIEW, LABELS)


@pytest.mark.parametrize(
    ("step", "keys", "words"),
    [
        ("boxes", {"columns": ["box", "score"]}, "columns must name box, score and class once each"),
        ("box_grid", {"size_of": "anchor"}, "size_of = 'anchor' needs 'anchors'"),
        ("box_grid", {"bins": 8}, "bins > 1 needs box = 'sides'"),
        ("box_grid", {"heads": ["a", "b"], "score_heads": ["c"]}, "'score_heads' has 1 entries, 'heads' asks for 2"),
        ("box_grid", {"heads": ["a", "b"], "strides": [8]}, "'strides' has 1 entries, 'heads' asks for 2"),
        ("box_grid", {"heads": ["a"], "strides": [8, 16], "anchors": [ANCHORS]}, "'anchors' has 1 .* asks for 2"),
        ("box_anchors", {}, "key 'level' is missing"),
        ("box_table", {"threshold": 2}, "0 to 1"),
    ],
)
def test_keys_that_cannot_work_are_refused_when_the_step_is_made(step, keys, words):
    """Before a picture is seen."""
    with pytest.raises(ConfigError, match=words):
        decoder(step, **keys)
