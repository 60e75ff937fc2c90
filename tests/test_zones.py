"""Polygons, privacy masks, zones and lines: what lies inside, and what nobody gets to see."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.pipeline import make_steps
from agent.records import Finding, View
from agent.rules import initial, step
from agent.settings.core import PipelineConfig
from agent.settings.rules import Crosses, Every
from agent.strict import build
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


def post(name, **keys):
    return make_step("post", {"step": name, **keys}, "a test")


def follow(made, views):
    """What is told at each (time, findings) of a picture of 200 x 100."""
    state, told = made.initial(), []
    for t_s, findings in views:
        state, found = made(state, tuple(findings), View(np.empty(0), t0_s=t_s, t1_s=t_s, size=(200, 100)))
        told.append((t_s, found))
    return told


def at(x, y, label="person#1"):
    """Somebody whose feet stand at (x, y)."""
    return Finding(label, 0.9, (x - 5.0, y - 40.0, x + 5.0, float(y)), value=1.0, unit="s")


DOOR = {"name": "door", "polygon": [[0.0, 0.5], [0.5, 0.5], [0.5, 1.0], [0.0, 1.0]]}
HALL = {"name": "hall", "polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]}


def test_a_zone_says_who_stands_in_it_and_for_how_long():
    """By the feet: the head over the door does not count. The finding itself stays, and its age with it."""
    views = [(i / 2, [at(20 + 20 * i, 90), at(50, 49, "person#2")]) for i in range(6)]
    told = follow(post("zones", zone=[DOOR]), views)
    assert [f.label for f in told[0][1]] == ["person#1", "person#2", "door/person#1"]
    ages = [f.value for _, found in told for f in found if f.label == "door/person#1"]
    assert ages == [0.0, 0.5, 1.0, 1.5]
    assert told[0][1][0] == at(20, 90)
    assert told[5][1] == (at(120, 90), at(50, 49, "person#2"))


def test_the_feet_may_stand_on_the_lower_edge():
    """Somebody cut off by the picture still stands in the zone that reaches its edge."""
    ((_, found),) = follow(post("zones", zone=[DOOR]), [(0.0, [at(20, 100)])])
    assert [f.label for f in found] == ["person#1", "door/person#1"]


def test_who_trembles_at_the_edge_has_not_left():
    """Out for less than `forget_s`: the same stay. Out for longer: a new one."""
    views = [(i / 10, [at(98 if i % 3 else 102, 90)]) for i in range(20)] + [(4.0, [at(20, 90)])]
    told = follow(post("zones", zone=[DOOR]), views)
    assert told[19][1][-1].value == pytest.approx(1.8)
    assert told[20][1][-1].value == 0.0


def test_only_what_stands_in_a_zone_may_be_kept():
    """`only` drops boxes elsewhere, and nothing that has no box; zones may overlap; the centre may count instead."""
    findings = [at(20, 90), at(150, 90, "person#2"), Finding("loud", 0.5)]
    ((_, found),) = follow(post("zones", zone=[DOOR], only=True), [(0.0, findings)])
    assert [f.label for f in found] == ["person#1", "loud", "door/person#1"]
    ((_, found),) = follow(post("zones", zone=[DOOR, HALL], stand="centre"), [(0.0, findings[:1])])
    assert [f.label for f in found] == ["person#1", "door/person#1", "hall/person#1"]


def test_a_rule_tells_who_stays_too_long():
    """`crosses` over the time in a zone: one event per person, when the time is reached."""
    views = [(i / 2, [at(20, 90), at(20 + 20 * i, 80, "person#2")]) for i in range(20)]
    told = follow(post("zones", zone=[DOOR]), views)
    rule = Crosses(kind="crosses", label="door/person#*", threshold=5.0)
    state, events = initial(rule), []
    for t_s, found in told:
        state, decisions = step(rule, state, found, t_s)
        events += [(t_s, decision.body["label"]) for decision in decisions]
    assert events == [(5.0, "door/person#1")]


GATE = {"name": "gate", "start": [0.5, 1.0], "end": [0.5, 0.0]}


def crossings(told):
    return [(t_s, f.label, f.value) for t_s, found in told for f in found if ":" in f.label]


def test_a_line_is_crossed_once_each_way():
    """In and out, told in the one view that shows it, with the count so far; everything else passes."""
    way = [40, 80, 120, 160, 120, 80, 120]
    views = [(float(i), [at(x, 60), Finding("loud", 0.5)]) for i, x in enumerate(way)]
    told = follow(post("lines", line=[GATE]), views)
    assert crossings(told) == [
        (2.0, "gate:in/person#1", 1.0), (5.0, "gate:out/person#1", 1.0), (6.0, "gate:in/person#1", 2.0),
    ]  # fmt: skip
    assert all(found[:2] == (at(x, 60), Finding("loud", 0.5)) for (_, found), x in zip(told, way, strict=True))


def test_who_trembles_on_a_line_crosses_it_once():
    """Within `margin` of the line nothing is decided."""
    way = [80, 96, *[99, 101] * 10, 104, 120]
    views = [(i / 10, [at(x, 60)]) for i, x in enumerate(way)]
    once = crossings(follow(post("lines", line=[GATE], margin=0.03), views))
    assert [label for _, label, _ in once] == ["gate:in/person#1"]
    assert len(crossings(follow(post("lines", line=[GATE], margin=0.0), views))) > 10


def test_each_crossing_counts_for_its_own_thing():
    """Two walk in, one beyond the line's end, one without a number: two events, summed up by a rule."""
    short = {"name": "gate", "start": [0.5, 0.8], "end": [0.5, 0.3]}
    views = [
        (float(i), [at(70 + 30 * i, 60), at(130 - 30 * i, 50, "dog#2"), at(70 + 30 * i, 99, "cat#3"), at(x, 60, "cow")])
        for i, x in enumerate((80, 120, 160))
    ]
    told = follow(post("lines", line=[short]), views)
    assert {(label, n) for _, label, n in crossings(told)} == {("gate:in/person#1", 1.0), ("gate:out/dog#2", 1.0)}
    rule = Every(kind="every", label="gate:*", together=True, period_s=10)
    state = initial(rule)
    for t_s, found in [*told, (12.0, ())]:
        state, decisions = step(rule, state, found, t_s)
    assert decisions[0].body["seen"][0]["findings"] == 2


def test_what_a_line_has_forgotten_begins_anew():
    """A number that was away for longer than `forget_s` did not cross while nobody looked."""
    assert crossings(follow(post("lines", line=[GATE]), [(0.0, [at(40, 60)]), (60.0, [at(160, 60)])])) == []


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("zones", {"zone": [DOOR, DOOR]}, "names .* must differ"),
        ("zones", {"zone": [{**DOOR, "polygon": [[0, 0], [9, 9], [9, 0]]}]}, "from 0 to 1"),
        ("zones", {"zone": [{**DOOR, "name": "a/b"}]}, "letters, digits"),
        ("lines", {"line": [{**GATE, "end": GATE["start"]}]}, "two different ends"),
        ("lines", {"line": []}, "1 to 64"),
    ],
)
def test_places_that_are_none_are_refused(name, keys, words):
    """When the step is made."""
    with pytest.raises(ConfigError, match=words):
        post(name, **keys)


def test_memory_is_bounded():
    """Ten thousand numbers in a second leave a bounded state."""
    zones, lines = post("zones", zone=[HALL]), post("lines", line=[GATE])
    zone_state, line_state = zones.initial(), lines.initial()
    for i in range(10):
        found = tuple(at(50, 50, f"person#{1000 * i + n}") for n in range(1000))
        view = View(np.empty(0), t0_s=i / 10, size=(200, 100))
        zone_state, _ = zones(zone_state, found, view)
        line_state, _ = lines(line_state, found, view)
    assert len(zone_state) == len(line_state.walks) == 1024


VISION = (Path(__file__).resolve().parent.parent / "docs" / "vision.md").read_text()
EXAMPLES = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", VISION, re.DOTALL)]


def test_the_examples_of_the_page_are_right():
    """Each decoder and the whole pipeline of docs/vision.md can be made."""
    decoders = [table["decoder"] for table in EXAMPLES if "decoder" in table]
    assert [type(make_step("decoder", table, "page")).__name__ for table in decoders] == ["BoxTable", "BoxAnchors"]
    (pipeline,) = [build(PipelineConfig, table, "page") for table in EXAMPLES if "schema" in table]
    assert [type(made).__name__ for made in make_steps(pipeline, "page", None).post] == [
        "KeepLabels", "Tracks", "Zones", "Lines",
    ]  # fmt: skip
    assert [rule.kind for rule in pipeline.rule] == ["appears", "clears", "crosses", "counts", "every"]
