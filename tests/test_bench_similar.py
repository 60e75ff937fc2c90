"""The streams and rivals of the benchmark of similar pictures: what is shown must be what was meant."""

import numpy as np
import pytest

from agent.records import Finding, View
from agent.settings.runtime import SimilarConfig
from agent.similar import Answer, Judge
from tools.bench.pareto import draw
from tools.bench.rivals import rivals
from tools.bench.scenes import SCENES, Stage, pictures

TABLE = np.full((120, 160, 3), 100, np.uint8)
STAGE = Stage(
    np.tile(TABLE, (1, 4, 1)), np.full((20, 12, 3), 250, np.float32), np.ones((20, 12, 1), np.float32), 100
)
JUDGE = Judge(0.15, 0.5, 0.05, 0.5)


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_follows_from_its_seed(name):
    """The same pictures every time, others with another seed, and never twice the same one."""
    one, two, other = ([p for _, p in pictures(name, STAGE, 5, seed)] for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert not any((a == b).all() for a, b in zip(one, other, strict=True))
    assert not (one[0] == one[1]).all()


def test_the_noise_is_that_of_a_sensor():
    """Variance 0.03 per level of light and 1.5 besides (and 1/12 of rounding), without a shift."""
    made = np.stack([picture for _, picture in pictures("still", STAGE, 30)]).astype(np.float64)
    assert made.mean() == pytest.approx(100, abs=0.1)
    assert made.var() == pytest.approx(0.03 * 100 + 1.5 + 1 / 12, rel=0.03)


def test_the_slow_thing_moves_four_pixels_a_second():
    """Its left edge, found in pictures a second apart."""
    edges = [int((picture[90, :, 0] > 180).argmax()) for _, picture in pictures("slow", STAGE, 51)]
    assert edges[50] - edges[0] == pytest.approx(20, abs=1)


def test_rivals_are_scored_by_what_was_really_there():
    """A thing that appears unseen by a blunt threshold is a wrong answer until the next computed one."""
    scores = rivals(SimilarConfig(enabled=True, ttl_s=1.0), 0.5)
    for n in range(40):
        picture = TABLE.copy()
        thing = n >= 13
        if thing:
            picture[40:60, 60:80] += 14
        view = View(picture, n / 10, n / 10, size=(160, 120))
        truth = Answer((Finding("thing", 0.9, (60.0, 40.0, 80.0, 60.0)),) if thing else (), {}, view, "", 0.0)
        for score in scores.values():
            score.look(view, truth, JUDGE, settled=n >= 20)
    blunt, sharp = scores["largest 24"].figures(), scores["largest 8"].figures()
    assert (blunt["wrong_views"], blunt["longest_wrong_views"]) == (9, 9)  # computed at 11 and, a second later, at 22
    assert sharp["wrong_views"] == 0
    assert blunt["saved_share"] >= sharp["saved_share"] > 0.8
    assert scores["adaptive"].figures()["saved_share"] == 0.0


def test_the_drawing_has_a_panel_for_every_stream():
    """And one point for each rival that reused anything."""
    one = {"wrong_share_of_reused": 0.0, "saved_share": 0.5, "settled_saved_share": 0.9, "reused_views": 5}
    stream = {"rivals": {"adaptive": one, "largest 4": one, "mean 2": one}}
    made = draw(dict.fromkeys(("a", "b", "c"), stream), 0.01)
    assert made.count("<circle") == 3 * 4
    assert all(f">{name}</text>" in made for name in "abc")
