"""Tracking: a number is one thing, whatever the detector misses, however often one looks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.app.assembly import _require_labels
from agent.config import load_pipeline
from agent.errors import ConfigError
from agent.manifest import load_manifest
from agent.records import Draft, Finding, View
from agent.rules import initial, step
from agent.settings.rules import Appears, Clears, Counts, Crosses
from agent.trial.agreement import Events, agree
from pipelines import make_step
from pipelines.assign import assigned
from pipelines.track import paired

SIZE = (640, 360)


def tracks(**keys):
    return make_step("post", {"step": "tracks", **keys}, "a test")


def box(x, y, w=40, h=80):
    return (x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def person(x, y, score=0.9, label="person"):
    return Finding(label, score, box(x, y))


def follow(step_, views):
    """What is told at each (time, findings)."""
    state, told = step_.initial(), []
    for t_s, findings in views:
        state, found = step_(state, tuple(findings), View(np.empty(0), t0_s=t_s, t1_s=t_s, size=SIZE))
        told.append((t_s, found))
    return told


def labels(told):
    return [sorted(f.label for f in found) for _, found in told]


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_the_cheapest_pairing_is_found(rows, columns, data):
    """As cheap as the best of all pairings, tried one by one."""
    numbers = st.lists(st.integers(0, 20), min_size=rows * columns, max_size=rows * columns)
    cost = np.array(data.draw(numbers), float).reshape(rows, columns)
    pairs = assigned(cost)
    assert len(pairs) == min(rows, columns) == len({i for i, _ in pairs}) == len({j for _, j in pairs})
    turned = cost if rows <= columns else cost.T
    best = min(
        sum(turned[i, j] for i, j in enumerate(order))
        for order in itertools.permutations(range(turned.shape[1]), turned.shape[0])
    )
    assert sum(cost[i, j] for i, j in pairs) == best


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_the_best_pairs_are_those_of_the_whole_table(rows, columns, data):
    """Also where everyone's first choice is free and the search is spared; forbidden pairs are never made."""
    count = rows * columns
    overlap = np.array(data.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)), float) / 10
    good = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count))).reshape(rows, columns)
    overlap = overlap.reshape(rows, columns)
    pairs = paired(overlap, good)
    assert all(good[pair] for pair in pairs)
    searched = [pair for pair in assigned(np.where(good, 1 - overlap, 1e6)) if good[pair]]
    assert len(pairs) == len(searched) == len({j for _, j in pairs})
    assert sum(overlap[p] for p in pairs) == pytest.approx(sum(overlap[p] for p in searched))


def crossing(fps, seconds=6.0):
    """Two people walk past each other, one a little nearer to the camera."""
    for i in range(round(seconds * fps)):
        t = i / fps
        yield t, [person(100 + 60 * t, 150), person(460 - 60 * t, 190)]


@pytest.mark.parametrize("fps", [2, 5, 25])
def test_two_who_pass_each_other_keep_their_numbers(fps):
    """At any rate: each number stays with the one who walks that way."""
    told = follow(tracks(), crossing(fps))
    for t, found in told[1:]:
        places = {f.label: f.box for f in found}
        assert places["person#1"] == pytest.approx(box(100 + 60 * t, 150))
        assert places["person#2"] == pytest.approx(box(460 - 60 * t, 190))


def test_who_is_missed_for_a_moment_is_still_there():
    """Told where expected for `bridge_s`, the same number when seen again within `keep_s`; the age goes on."""
    walk = [(i / 10, [] if 10 <= i < 20 else [person(100 + 10 * i, 150)]) for i in range(30)]
    told = follow(tracks(bridge_s=0.5, keep_s=2.0), walk)
    seen = labels(told)
    assert seen[0] == []
    assert seen[1:15] == [["person#1"]] * 14
    assert seen[15:20] == [[]] * 5
    assert seen[20:] == [["person#1"]] * 10
    (there,) = told[13][1]
    assert there.box == pytest.approx(box(230, 150), abs=12)
    assert told[29][1][0].value == pytest.approx(2.9)
    assert told[29][1][0].unit == "s"


def test_who_was_gone_for_long_is_somebody_new():
    """After `keep_s` the number is not used again."""
    views = [(0.0, [person(100, 150)]), (0.1, [person(100, 150)]), (5.0, [person(100, 150)]), (5.1, [person(100, 150)])]
    assert labels(follow(tracks(), views)) == [[], ["person#1"], [], ["person#2"]]


def test_what_flickers_once_is_never_told():
    """`confirm` views first."""
    views = [(i / 10, [person(300, 150)] if i == 4 else []) for i in range(10)]
    assert labels(follow(tracks(confirm=2), views)) == [[]] * 10
    assert labels(follow(tracks(confirm=1, bridge_s=0.0), views))[4] == ["person#1"]


def test_weak_boxes_continue_a_track_and_begin_none():
    """Half hidden, the person stays; a shadow of the same score never is one."""
    views = [(i / 10, [person(100, 150, 0.9 if i < 5 else 0.3), person(400, 150, 0.3)]) for i in range(20)]
    told = labels(follow(tracks(start_score=0.6, bridge_s=0.2), views))
    assert told[1:] == [["person#1"]] * 19


def test_things_of_another_kind_are_other_things():
    """A dog where a person was gets its own number; what has no box, or is not followed, passes as it is."""
    views = [(i / 10, [person(100, 150, label="person" if i < 3 else "dog"), Finding("loud", 0.5)]) for i in range(6)]
    told = labels(follow(tracks(bridge_s=0.0), views))
    assert told[:3] == [["loud"], ["loud", "person#1"], ["loud", "person#1"]]
    assert told[3:] == [["loud"], ["dog#2", "loud"], ["dog#2", "loud"]]
    assert labels(follow(tracks(labels=["cat*"]), views))[5] == ["dog", "loud"]


def test_a_crowd_is_bounded():
    """`max_tracks` things at most, the best ones."""
    crowd = [person(20 * i, 100, 0.5 + i / 100) for i in range(30)]
    told = follow(tracks(confirm=1, max_tracks=4, min_iou=0.6), [(0.0, crowd)])
    assert sorted(f.score for f in told[0][1]) == pytest.approx([0.76, 0.77, 0.78, 0.79])


def test_a_clock_that_steps_back_changes_nothing():
    """The same thing at the same place, whatever the time says."""
    views = [(t, [person(100, 150)]) for t in (10.0, 10.1, 3.0, 3.1)]
    assert labels(follow(tracks(), views))[1:] == [["person#1"]] * 3


def decided(rule, told):
    state, made = initial(rule), []
    for t_s, found in told:
        state, decisions = step(rule, state, found, t_s)
        made += [(round(t_s, 6), d.body) for d in decisions]
    return made


def test_rules_tell_each_thing_once_how_many_there_are_and_how_long_they_stayed():
    """Two people for 3 and 5 seconds, missed now and then: two arrivals, two departures, right counts and times."""
    rng = np.random.default_rng(4)
    views = []
    for i in range(100):
        there = [person(100, 150)] * (i < 30) + [person(400, 150)] * (20 <= i < 70)
        views.append((i / 10, [p for p in there if rng.random() > 0.1 or i in (29, 69)]))
    told = follow(tracks(bridge_s=0.5), views)
    came = decided(Appears(kind="appears", label="person#*"), told)
    assert [body["label"] for _, body in came] == ["person#1", "person#2"]
    left = decided(Clears(kind="clears", label="person#*"), told)
    assert [body["label"] for _, body in left] == ["person#1", "person#2"]
    assert [body["present_s"] for _, body in left] == pytest.approx([3.0, 5.0], abs=0.7)
    counted = decided(Counts(kind="counts", label="person#*", together=True), told)
    assert [body["count"] for _, body in counted] == [1, 2, 1, 0]
    loitering = decided(Crosses(kind="crosses", label="person#*", threshold=4.0), told)
    assert [(t, body["label"]) for t, body in loitering] == [(pytest.approx(6.0, abs=0.3), "person#2")]


def test_two_models_agree_whatever_numbers_their_tracks_have():
    """A candidate that saw one ghost more counts on from another number: the same people, the same events."""
    now = (Finding("person#7", 0.9, box(9, 9), value=3.0), Finding("door/person#7", 0.9, box(9, 9), value=2.0))
    then = (Finding("person#8", 0.8, box(9, 9), value=0.5), Finding("door/person#8", 0.8, box(9, 9), value=0.1))
    assert agree(now, then, 0.05)
    assert not agree(now, then[:1], 0.05)
    assert not agree((Finding("reading", 0.9, value=3.0),), (Finding("reading", 0.9, value=4.0),), 0.05)
    events = Events()
    made = [Draft("s", "appears", {"label": f"person#{n}"}, 0.0, 0.0, decided_by="r") for n in (7, 8)]
    events.told(made[:1], made[1:], 0.0)
    events.finish()
    assert events.changed == 0


def test_keys_that_cannot_work_are_refused():
    """To tell somebody who is forgotten already."""
    with pytest.raises(ConfigError, match="bridge_s = 3 is longer than keep_s = 2: lower it"):
        tracks(bridge_s=3.0)


NAMED = """
[[post]]
step = "keep_labels"
labels = ["person", "dog"]
[[post]]
step = "tracks"
[[post]]
step = "zones"
[[post.zone]]
name = "door"
polygon = [[0, 0], [1, 0], [1, 1]]
[[post]]
step = "lines"
[[post.line]]
name = "gate"
start = [0.5, 0]
end = [0.5, 1]
"""


@pytest.mark.parametrize(
    ("label", "fits"),
    [
        ("person#*", True), ("door/dog#*", True), ("gate:in/*", True), ("*", True),
        ("person", False), ("cat#*", False), ("door/person", False), ("gate:up/*", False), ("gate:in/door/*", False),
    ],
)  # fmt: skip
def test_a_rule_that_would_be_silent_for_ever_is_refused(tmp_path, label, fits):
    """Behind tracks, zones and lines labels have other names: a rule for one that nobody says is told at once."""
    (tmp_path / "model.toml").write_text(
        'schema = 1\nname = "m"\nversion = "1.0.0"\nmodality = "image"\nlabels = ["person", "dog", "cat"]\n'
        '[[input]]\nname = "x"\nshape = [1, 8, 8, 3]\ndtype = "uint8"\n'
        '[[output]]\nname = "y"\nshape = [1, 4, 7]\ndtype = "float32"\n[decoder]\nstep = "box_table"\n'
        f'[[artifact]]\nfile = "m.tflite"\nsha256 = "{"0" * 64}"\nformat = "tflite"\n'
    )
    rule = f'[[rule]]\nkind = "appears"\nlabel = "{label}"\n'
    (tmp_path / "p.toml").write_text(f'schema = 1\nname = "p"\nsource = "s"\n[model]\nname = "m"\n{NAMED}{rule}')
    file, manifest = load_pipeline(tmp_path / "p.toml"), load_manifest(tmp_path)
    if fits:
        _require_labels(file, manifest)
    else:
        words = "fits no label of model m behind its steps: there are 'person#1', 'dog#1'"
        with pytest.raises(ConfigError, match=words):
            _require_labels(file, manifest)
