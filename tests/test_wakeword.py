"""Words out of scores: one finding per spoken word, whatever its views, its neighbours and its gaps."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.records import Finding, View
from agent.rules import initial
from agent.rules import step as rule_step
from agent.settings.rules import Appears
from pipelines import make_step
from pipelines.chain import Chain, make_posts

HOP_S = 0.08


def words(**keys):
    return make_step("post", {"step": "words", **keys}, "a test")


def _views(count, start_s=0.0, gaps=()):
    return [View(np.empty(0), start_s + i * HOP_S, start_s + i * HOP_S + 1.0, gap=i in gaps) for i in range(count)]


def _told(step, scores, views=None, label="marvin"):
    """The views in which the word is told."""
    state, told = step.initial(), []
    for i, (score, view) in enumerate(zip(scores, views or _views(len(scores)), strict=True)):
        state, found = step(state, (Finding(label, score, interval=(view.t0_s, view.t1_s)),), view)
        told += [i] * len(found)
    return told


def test_a_word_that_fills_many_views_is_told_once():
    """In the first view that is sure, and not again however long it lasts."""
    assert _told(words(), [0.1] * 5 + [0.6, 0.9, 0.99] + [0.7] * 60 + [0.1] * 5) == [5]


def test_patience_wants_views_in_a_row():
    """A single high score is no word; a low one begins the count anew."""
    scores = [0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1]
    assert _told(words(patience=3), scores) == [5]
    assert _told(words(patience=5), scores) == []


def test_the_debounce_is_over_when_it_is_over():
    """A second word within it waits, and is told when it still holds; one that is gone by then is not."""
    word, pause = [0.9] * 3, [0.1] * 3
    assert _told(words(debounce_s=1.0), word + pause + word + pause * 4 + word) == [0, 21]
    assert _told(words(debounce_s=1.0), word + pause + [0.9] * 20) == [0, 13]
    assert _told(words(debounce_s=0.0), word + pause + word) == [0, 6]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=120), st.integers(1, 4), st.sampled_from([0.0, 0.3, 1.0]))
def test_never_more_often_than_words_and_debounce_allow(loud, patience, debounce_s):
    """Between two tellings lie a fall of the score and the debounce; each comes after enough sure views in a row."""
    told = _told(words(patience=patience, debounce_s=debounce_s), [0.9 if x else 0.1 for x in loud])
    for i in told:
        assert all(loud[i - patience + 1 : i + 1])
        assert i - patience + 1 >= 0
    for a, b in itertools.pairwise(told):
        assert not all(loud[a : b + 1])
        assert (b - a) * HOP_S >= debounce_s - 1e-9
    runs = sum(1 for i, x in enumerate(loud) if x and (i == 0 or not loud[i - 1]))
    assert len(told) <= runs


def test_every_word_has_its_own_threshold_and_debounce():
    """Two words one after the other are two findings; a word may be harder to please than the others."""
    step = words(thresholds={"stop": 0.9}, debounce_s=5.0)
    state, told = step.initial(), []
    for go, stop, view in zip([0.6, 0.6, 0.6, 0.2], [0.6, 0.95, 0.95, 0.2], _views(4), strict=True):
        state, found = step(state, (Finding("go", go), Finding("stop", stop)), view)
        told.append([f.label for f in found])
    assert told == [["go"], ["stop"], [], []]


def test_a_gap_ends_a_word_and_keeps_the_debounce():
    """Views before and after a loss are not in a row; a word just told is not told again because of it."""
    assert _told(words(patience=3, debounce_s=0), [0.9] * 4, _views(4, gaps=(2,))) == []
    assert _told(words(debounce_s=1.0), [0.9] * 30, _views(30, gaps=(2,))) == [0, 13]


def test_a_model_that_must_settle_is_not_believed_at_once():
    """Nothing is told in the first settle_s, nor after a gap; what still holds then is."""
    step = words(settle_s=1.4, debounce_s=0.5)
    assert _told(step, [0.9] * 10) == [5]  # the first view reaches to 1.0 s, the sixth to 1.4 s
    assert _told(step, [0.9] * 20, _views(20, gaps=(10,))) == [5, 15]


def test_nothing_and_no_number_are_no_word():
    """A label that is missing and a NaN count as silence."""
    step = words()
    assert step(step.initial(), (), View(np.empty(0)))[1] == ()
    assert _told(step, [float("nan")] * 3) == []


def test_the_state_stays_small():
    """Words that are over and whose debounce is over are forgotten."""
    step, state = words(debounce_s=1.0), words().initial()
    for i, view in enumerate(_views(500)):
        state, _ = step(state, (Finding(f"word {i}", 0.9),), view)
        assert len(state.words) <= 14


def test_a_rule_makes_one_event_of_each_word():
    """Decoder, words and rule together: three words, three events, although each fills many views."""
    chain = Chain(make_posts([{"step": "smooth", "views": 3}, {"step": "words"}], "a test"))
    rule = Appears(kind="appears")
    state, events = initial(rule), []
    for i, view in enumerate(_views(120)):
        loud = i % 40 in range(5, 15)
        findings = chain((Finding("marvin", 0.95),) if loud else (), view)
        state, decisions = rule_step(rule, state, findings, view.t0_s, view.gap)
        events += [i] * len(decisions)
    assert events == [6, 46, 86]


def test_wrong_settings_are_refused_in_words():
    """A threshold is a share."""
    with pytest.raises(ConfigError, match=r"'thresholds': 1\.5.*0 to 1"):
        words(thresholds={"marvin": 1.5})
    with pytest.raises(ConfigError, match=r"patience"):
        words(patience=0)
