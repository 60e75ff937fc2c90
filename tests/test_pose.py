"""Pose: points come back in source pixels, and nobody is told where nobody is."""

import numpy as np
import pytest

from agent.errors import ConfigError, ModelError
from pipelines import make_step
from pipelines.image import image_view

LABELS = ("nose", "left hand", "right hand", "left foot", "right foot", "hat")
POINTS = np.array([[50, 12], [20, 40], [80, 44], [36, 90], [64, 92], [50, 4]], float)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.1])
SIDE = 96


def decoder(step, **keys):
    return make_step("decoder", {"step": step, **keys}, "a test")


def picture(width=SIDE, height=SIDE):
    view = image_view(np.zeros((height, width, 3), np.uint8))
    keys = {"width_px": SIDE, "height_px": SIDE, "interpolation": "nearest"}
    return make_step("pre", {"step": "letterbox", **keys}, "a test")(view)


def told(findings):
    return [(f.label, round(f.score, 3), tuple(round(x, 3) for x in f.box)) for f in findings]


EXPECTED = [("person", 0.7, (20, 12, 80, 92))] + [
    (label, score, (x, y, x, y)) for label, score, (x, y) in zip(LABELS[:5], SCORES, POINTS.tolist(), strict=False)
]


def table(columns, scale=SIDE):
    rows = {"x": POINTS[:, 0] / scale, "y": POINTS[:, 1] / scale, "score": SCORES, "other": np.ones(6)}
    return np.stack([rows[name] for name in columns], axis=1)


@pytest.mark.parametrize("columns", [["y", "x", "score"], ["x", "y", "other", "score"]])
def test_coordinates_become_points_of_the_source(columns):
    """MoveNet's order by default, any other named: the person first, then each point that is certain enough."""
    found = decoder("keypoints", columns=columns)({"points": table(columns)[None, None]}, picture(), LABELS)
    assert told(found) == EXPECTED


def test_points_may_be_pixels_with_scores_in_a_port_of_their_own():
    """BlazePose: x, y and more in pixels, scores as logits beside them."""
    outputs = {"xyz": table(["x", "y", "other"], 1).reshape(1, -1), "seen": np.log(SCORES / (1 - SCORES))[None]}
    keys = {"columns": ["x", "y", "other"], "unit": "px", "scores": "seen", "activation": "sigmoid"}
    assert told(decoder("keypoints", **keys)(outputs, picture(), LABELS)) == EXPECTED


def test_points_go_back_through_the_letterbox():
    """A picture twice as wide as high: x and y twice as large, y less the border above, and kept in the picture."""
    found = decoder("keypoints")({"points": table(["y", "x", "score"])[None, None]}, picture(192, 96), LABELS)
    places = {f.label: f.box[:2] for f in found}
    assert places["left hand"] == pytest.approx((40, (40 - 24) * 2))
    assert places["left foot"] == pytest.approx((72, 96))


def test_nobody_is_told_with_too_few_points():
    """Below `min_points` certain points there is no person; without `whole` only points are told."""
    outputs = {"points": table(["y", "x", "score"])}
    assert decoder("keypoints", min_points=6)(outputs, picture(), LABELS) == ()
    assert told(decoder("keypoints", whole="")(outputs, picture(), LABELS)) == EXPECTED[1:]


@pytest.mark.parametrize("channels", ["last", "first"])
def test_heatmaps_with_offsets_become_points(channels):
    """PoseNet: the best place times the stride plus the offset there, y before x."""
    maps, shifts = np.full((7, 7, 6), -9.0), np.zeros((7, 7, 12))
    for k, ((x, y), score) in enumerate(zip(POINTS, SCORES, strict=True)):
        row, column = int(y // 16), int(x // 16)
        maps[row, column, k] = np.log(score / (1 - score))
        shifts[row, column, k], shifts[row, column, 6 + k] = y - 16 * row, x - 16 * column
    if channels == "first":
        maps, shifts = np.moveaxis(maps, -1, 0), np.moveaxis(shifts, -1, 0)
    keys = {"channels": channels, "offsets": "shifts", "stride": 16, "activation": "sigmoid"}
    found = decoder("heatmaps", **keys)({"maps": maps[None], "shifts": shifts[None]}, picture(), LABELS)
    assert told(found) == EXPECTED


def test_heatmaps_alone_tell_the_middle_of_the_best_cell():
    """Within half a cell of the truth."""
    maps = np.zeros((48, 48, 6))
    maps[(POINTS[:, 1] // 2).astype(int), (POINTS[:, 0] // 2).astype(int), np.arange(6)] = SCORES
    found = decoder("heatmaps", whole="")({"maps": maps[None]}, picture(), LABELS)
    assert np.abs(np.array([f.box[:2] for f in found]) - POINTS[:5]).max() <= 1.0


def test_outputs_that_do_not_fit_are_refused():
    """Rows of another width, another number of labels or scores, numbers that are not finite."""
    points = table(["y", "x", "score"])
    for outputs, words in (
        ({"points": points.ravel()[:-1]}, "has no rows of 3 numbers: correct the columns"),
        ({"points": points[:5]}, "5 points but 6 labels"),
        ({"points": points * np.inf}, "not finite"),
    ):
        with pytest.raises(ModelError, match=words):
            decoder("keypoints")(outputs, picture(), LABELS)
    with pytest.raises(ModelError, match="3 scores for 6 points: name the right port"):
        decoder("keypoints", scores="s")({"points": points, "s": np.ones(3)}, picture(), LABELS)
    with pytest.raises(ModelError, match="do not go with heatmaps"):
        decoder("heatmaps", offsets="o")({"m": np.ones((1, 7, 7, 6)), "o": np.ones((1, 7, 7, 6))}, picture(), LABELS)
    with pytest.raises(ConfigError, match="columns must name x and y once"):
        decoder("keypoints", columns=["x", "x"])
