"""Polygons, privacy masks, zones and lines: what lies inside, and what nobody gets to see."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from pipelines import make_step
from pipelines.geometry import area, cover, crosses, inside, side
from pipelines.image import image_view
from pipelines.mask import paint

SQUARE = ((10.0, 10.0), (30.0, 10.0), (30.0, 30.0), (10.0, 30.0))
NOTCHED = ((0.0, 0.0), (40.0, 0.0), (40.0, 40.0), (20.0, 10.0), (0.0, 40.0))
"""A square with a wedge cut out of its lower side."""

corner = st.tuples(st.integers(0, 40), st.integers(0, 30)).map(lambda p: (float(p[0]), float(p[1])))


def mask(**keys):
    return make_step("pre", {"step": "mask", **keys}, "a test")


def test_concave_polygons_are_concave():
    """The wedge is outside, what is beside it inside."""
    x, y = np.array([20.0, 5.0, 35.0, 20.0, 50.0]), np.array([30.0, 20.0, 20.0, 5.0, 5.0])
    assert inside(NOTCHED, x, y).tolist() == [False, True, True, True, False]


@given(st.lists(corner, min_size=3, max_size=8).map(tuple), corner)
def test_polygons_that_share_an_edge_never_share_a_point(polygon, other):
    """Cut along a diagonal, each point lies in one half exactly when it lies in the whole (even-odd)."""
    x, y = np.meshgrid(np.arange(41) + 0.37, np.arange(31) + 0.61)
    one, two = (*polygon[:2], other), (other, *polygon[1:], polygon[0])
    assert ((inside(one, x, y) ^ inside(two, x, y)) == inside(polygon, x, y)).all()


@given(st.lists(corner, min_size=3, max_size=8).map(tuple).filter(area))
def test_a_mask_leaves_no_seam(polygon):
    """Every pixel whose middle lies inside is covered, every corner too, and nothing outside the bounding box."""
    made = cover(polygon, 41, 31)
    x, y = np.meshgrid(np.arange(41) + 0.5, np.arange(31) + 0.5)
    assert made[inside(polygon, x, y)].all()
    assert all(made[min(int(cy), 30), min(int(cx), 40)] for cx, cy in polygon)
    xs, ys = [p[0] for p in polygon], [p[1] for p in polygon]
    outside = (x < min(xs) - 1) | (x > max(xs) + 1) | (y < min(ys) - 1) | (y > max(ys) + 1)
    assert not made[outside].any()


def test_two_masks_side_by_side_hide_what_lies_between():
    """A slanted seam: no pixel of the joined area stays visible."""
    image = np.full((60, 60, 3), 200, np.uint8)
    left, right = [[0, 0], [33, 0], [21, 60], [0, 60]], [[33, 0], [60, 0], [60, 60], [21, 60]]
    made = mask(polygons=[left, right], fill=7)(image_view(image)).data
    assert (made == 7).all()
    assert (image == 200).all()


def test_masks_of_polygons_and_boxes_paint_grey_and_colour():
    """In pixels or fractions, cell by cell, nothing beside them."""
    for shape in ((40, 40), (40, 40, 3)):
        image = np.full(shape, 200, np.uint8)
        painted = mask(polygons=[[list(p) for p in SQUARE]], boxes=[[0, 0, 5, 5]])(image_view(image)).data
        assert (painted[11:29, 11:29] == 0).all()
        assert (painted[:5, :5] == 0).all()
        assert (painted[32:] == 200).all()
        assert (painted[:, 32:] == 200).all()
    corners = [[x / 40, y / 40] for x, y in SQUARE]
    assert (mask(polygons=[corners], unit="fraction")(image_view(image)).data[10:30, 10:30] == 0).all()


def test_a_burned_in_mask_holds_at_any_resolution():
    """In fractions of the picture: the same places, whatever the camera delivers; read-only pictures are copied."""
    for width, height in ((1280, 720), (64, 48)):
        image = np.full((height, width, 3), 90, np.uint8)
        image.flags.writeable = False
        made = paint(image, (((0.5, 0.0), (1.0, 0.0), (1.0, 0.5), (0.5, 0.5)),), 0)
        assert (made[: height // 2, width // 2 :] == 0).all()
        assert (made[height // 2 + 1 :, : width // 2] == 90).all()
        assert (image == 90).all()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "give 'boxes' or 'polygons': this mask covers nothing"),
        ({"polygons": [[[0, 0], [1, 1]]]}, "3 to 64"),
        ({"polygons": [[[0, 0], [5, 5], [9, 9]]]}, "has no area: it would cover nothing"),
        ({"polygons": [[[0, 0], [2, 0], [2, 2]]], "unit": "fraction"}, "corners .* from 0 to 1"),
        ({"boxes": [[5, 5, 1, 1]]}, "left < right"),
    ],
)
def test_masks_that_would_cover_nothing_are_refused(keys, words):
    """When they are made, not when somebody walks in."""
    with pytest.raises(ConfigError, match=words):
        mask(**keys)


def test_a_mask_beyond_the_picture_is_refused():
    """A camera that delivers smaller pictures than the mask was drawn on must not be looked at."""
    with pytest.raises(ConfigError, match="outside a picture of 20x20 pixels: correct it"):
        mask(polygons=[[list(p) for p in SQUARE]])(image_view(np.zeros((20, 20, 3), np.uint8)))


def test_lines_are_crossed_one_way_or_the_other():
    """A line drawn upwards: from left to right is 1, back is -1, past its end and along it is nothing."""
    line = ((50.0, 100.0), (50.0, 0.0))
    assert side(line, (60, 50)) > 0 > side(line, (40, 50))
    assert crosses(line, (40, 50), (60, 50)) == 1
    assert crosses(line, (60, 50), (40, 20)) == -1
    assert crosses(line, (40, 150), (60, 150)) == 0
    assert crosses(line, (40, 10), (45, 90)) == 0


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 99)), min_size=2, max_size=20))
def test_crossings_add_up_to_where_one_ends(way):
    """However one wanders, stops on the line or turns back: in minus out is where one ends less where one began."""
    line = ((50.0, 100.0), (50.0, 0.0))
    total = sum(crosses(line, a, b) for a, b in pairwise(way))
    assert total == (way[-1][0] >= 50) - (way[0][0] >= 50)
