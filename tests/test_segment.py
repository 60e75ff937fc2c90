"""Segmentation: shares are those of the source, boxes lie in the source, maps of any size and form mean the same."""

import numpy as np
import pytest

from agent.errors import ModelError
from agent.records import View
from pipelines import make_step
from pipelines.image import image_view

LABELS = ("background", "road", "tree")


def decoder(**keys):
    return make_step("decoder", {"step": "segments", **keys}, "a test")


def picture(width=80, height=60):
    return image_view(np.zeros((height, width, 3), np.uint8))


def drawn(width=80, height=60):
    """A road over the lower half, two trees above it: the left one four times as large."""
    numbers = np.zeros((height, width), np.int64)
    numbers[height // 2 :] = 1
    numbers[height // 12 : height // 12 * 5, width // 8 : width // 8 * 3] = 2
    numbers[height // 12 : height // 12 * 3, width // 8 * 5 : width // 8 * 6] = 2
    return numbers


def told(findings):
    return [(f.label, round(f.value, 4), tuple(round(x, 6) for x in f.box)) for f in findings]


EXPECTED = [("road", 0.5, (0, 30, 80, 60)), ("tree", 0.1042, (10, 5, 60, 25))]


def test_each_class_has_its_share_and_its_box():
    """Largest first, the background left out, certain because the map only names classes."""
    found = decoder()({"map": drawn()[None].astype(np.float32)}, picture(), LABELS)
    assert told(found) == EXPECTED
    assert [(f.score, f.unit) for f in found] == [(1.0, "1"), (1.0, "1")]


def test_regions_are_told_one_by_one():
    """The two trees have boxes of their own; with one region asked for, the larger one."""
    outputs = {"map": drawn()[None]}
    assert told(decoder(regions=5)(outputs, picture(), LABELS))[1:] == [
        ("tree", round(400 / 4800, 4), (10, 5, 30, 25)), ("tree", round(100 / 4800, 4), (50, 5, 60, 15)),
    ]  # fmt: skip
    assert len(decoder(regions=1)(outputs, picture(), LABELS)) == 2


@pytest.mark.parametrize("form", ["scores", "scores_first"])
def test_scores_say_how_certain_a_class_is(form):
    """Softmax over classes, either order of axes: the same places, the mean probability as score."""
    scores = np.log(np.where(np.arange(3) == drawn()[..., None], 0.8, 0.1))
    array = scores if form == "scores" else np.moveaxis(scores, -1, 0)
    found = decoder(form=form, activation="softmax")({"map": array[None]}, picture(), LABELS)
    assert told(found) == EXPECTED
    assert [f.score for f in found] == pytest.approx([0.8, 0.8])


def test_a_single_score_means_yes_or_no():
    """A mask of one class: yes from a half on."""
    scores = np.where(drawn() == 1, 0.9, 0.2)[None, :, :, None]
    (found,) = decoder(form="scores")({"map": scores}, picture(), ("background", "road"))
    assert (found.label, found.value, found.box) == ("road", 0.5, (0, 30, 80, 60))
    assert found.score == pytest.approx(0.9)


def test_a_coarse_map_is_laid_over_the_whole_picture():
    """A map of a quarter of the points: the same shares, the same boxes."""
    found = decoder()({"map": drawn()[::5, ::5][None]}, picture(), LABELS)
    assert (found[0].label, found[0].value, found[0].box) == ("road", 0.5, (0, 30, 80, 60))


def test_what_a_letterbox_added_does_not_count():
    """A wide picture in a square: the share is that of the picture, the box in its pixels."""
    view = make_step(
        "pre", {"step": "letterbox", "width_px": 80, "height_px": 80, "interpolation": "nearest"}, "a test"
    )(image_view(np.zeros((120, 160, 3), np.uint8)))
    numbers = np.full((80, 80), 2)
    numbers[10:70] = drawn()
    found = decoder()({"map": numbers[None]}, view, LABELS)
    assert told(found) == [("road", 0.5, (0, 60, 160, 120)), ("tree", 0.1042, (20, 10, 120, 50))]


def test_small_areas_borders_and_unwanted_labels_are_left_out():
    """`min_share`, numbers beyond the labels (255 marks borders), `skip`."""
    numbers = drawn()
    numbers[0] = 255
    outputs = {"map": numbers[None]}
    assert [f.label for f in decoder(min_share=0.2)(outputs, picture(), LABELS)] == ["road"]
    assert [f.label for f in decoder(skip=["road"])(outputs, picture(), LABELS)] == ["background", "tree"]
    assert decoder()({"map": np.zeros((1, 60, 80))}, picture(), LABELS) == ()


def test_maps_of_another_form_are_refused():
    """A vector, scores where numbers are meant, cells: each says what to change."""
    with pytest.raises(ModelError, match="is no map: choose another form"):
        decoder()({"map": np.zeros((1, 60, 80, 3))}, picture(), LABELS)
    with pytest.raises(ModelError, match="has no scores: choose another form"):
        decoder(form="scores")({"map": np.zeros((60, 80))}, picture(), LABELS)
    with pytest.raises(ModelError, match="leave the step 'cells' out"):
        decoder()({"map": drawn()}, View(np.zeros((2, 8, 8, 3)), cells=((0, 0, 1, 1),) * 2), LABELS)
    with pytest.raises(ModelError, match="not finite"):
        decoder(form="scores")({"map": np.full((60, 80, 3), np.nan)}, picture(), LABELS)
