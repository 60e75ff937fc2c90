"""Similar pictures on a real video, through `limpet replay` and the public detector."""

import pytest

from agent.records import Finding
from agent.similar import Judge
from tests import films
from tests.realdata import case, needed

pytestmark = needed

FILM = "inputs/bottle-detection.mp4"
MOST = 0.03
"""So that a hundred pictures prove a threshold, and not three hundred."""
SIMILAR = f"[cache.similar]\nenabled = true\nmax_error = {MOST}"
EVERY = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The results of every third picture, computed and with similar pictures, by picture number."""
    made = []
    for config in ("", SIMILAR):
        lines = films.replayed(tmp_path_factory.mktemp("film"), FILM, EVERY, config=config)
        made.append({line["seq"]: line for line in lines if line["type"] == "result"})
    return made


def findings(line):
    return [Finding(f["label"], f["score"], tuple(f["box"])) for f in line["findings"]]


def test_the_bottles_are_counted_as_without(runs):
    """Three, two and one bottle at frames 0, 240 and 540, with as many results as ever."""
    computed, similar = runs
    assert list(computed) == list(similar)
    for frame, count in case("o10a-video-bottles")["expected"]["true_bottle_count_at_frame"].items():
        assert [f["label"] for f in similar[int(frame)]["findings"]].count("bottle") == count, frame


def test_reused_answers_differ_as_seldom_as_promised(runs):
    """A fifth of the pictures is reused and marked; at most the allowed share of these is judged to differ."""
    computed, similar = runs
    judge = Judge(0.15, 0.5, 0.05, floor=0.6)
    reused = [n for n, line in similar.items() if line["cache"] == "similar"]
    wrong = [n for n in reused if judge.differ(findings(computed[n]), findings(similar[n]))]
    assert len(reused) >= 0.2 * len(similar)
    assert len(wrong) <= MOST * len(reused)
    same = [n for n in similar if n not in reused]
    assert all(findings(computed[n]) == findings(similar[n]) for n in same)
    assert {line["cache"] for line in computed.values()} == {"miss"}
