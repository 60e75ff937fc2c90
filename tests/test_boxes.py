"""Boxes: overlap, suppression, orders of their numbers, and the way back into the source."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import boxes as boxes_module
from pipelines import make_step
from pipelines.boxes import areas, corners, iou, suppressed, to_source
from pipelines.image import image_view
from tests.detection_heads import SIDE, centred

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
