"""Sounds of many kinds: thresholds per label, several at once, parts of a view, means over views."""

import numpy as np
import pytest

from agent.errors import ModelError
from agent.records import Finding, View
from pipelines import make_step
from pipelines.chain import Chain, make_posts

LABELS = ("silence", "speech", "dog", "alarm")
SEEN = View(np.empty(0), 10.0, 12.0)


def sounds(**keys):
    return make_step("decoder", {"step": "sounds", **keys}, "a test")


def heard(scores, seen=SEEN, labels=LABELS, **keys):
    found = sounds(**keys)({"scores": np.array(scores, np.float32)}, seen, labels)
    return [(f.label, round(f.score, 4)) for f in found]


def test_several_sounds_are_heard_at_once():
    """Each label by its own threshold, best first, those never told left out."""
    scores = [[0.9, 0.5, 0.7, 0.2]]
    assert heard(scores) == [("silence", 0.9), ("dog", 0.7), ("speech", 0.5)]
    assert heard(scores, ignore=["silence"], thresholds={"alarm": 0.1, "speech": 0.6}) == [("dog", 0.7), ("alarm", 0.2)]
    assert heard(scores, top_k=1) == [("silence", 0.9)]
    assert heard([[0.0, 0.0, 0.0, 0.0]]) == []


def test_equal_scores_keep_the_order_of_the_labels():
    """Findings do not depend on how a sort breaks ties."""
    assert [label for label, _ in heard([[0.5, 0.5, 0.5, 0.5]], top_k=3)] == ["silence", "speech", "dog"]


def test_logits_become_shares():
    """sigmoid for each on its own; a score of 0 is a half."""
    assert heard([[-20.0, 0.0, 20.0, -20.0]], activation="sigmoid") == [("dog", 1.0), ("speech", 0.5)]


def test_rows_are_parts_of_the_view():
    """A model that cuts the recording itself: mean, best, or each part with its own interval."""
    rows = [[0, 0.2, 0.8, 0], [0, 0.6, 0.0, 0]]
    assert heard(rows) == [("speech", 0.4), ("dog", 0.4)]
    assert heard(rows, parts="max") == [("dog", 0.8), ("speech", 0.6)]
    each = sounds(parts="each")({"scores": np.array([rows], np.float32)}, SEEN, LABELS)
    assert [(f.label, f.interval) for f in each] == [("dog", (10.0, 11.0)), ("speech", (11.0, 12.0))]


def test_one_score_and_one_label_is_a_model_of_its_own():
    """Voice activity: [1, 1] and one label."""
    assert heard([[0.75]], labels=("speech",)) == [("speech", 0.75)]
    assert heard([[0.75]], labels=("speech",), threshold=0.8) == []


@pytest.mark.parametrize(
    ("scores", "keys", "words"),
    [
        ([[0.1, 0.2, 0.3]], {}, r"is \[1, 3\] for 4 labels"),
        (np.zeros((4, 2)), {}, r"is \[4, 2\] for 4 labels"),
        (np.zeros((0, 4)), {}, "for 4 labels"),
        ([[0.1, 0.2, 0.3, np.nan]], {}, "not finite"),
        ([[0.1, 0.2, 0.3, np.inf]], {}, "not finite"),
        ([[0.1] * 4], {"thresholds": {"cat": 0.2}}, "'thresholds': 'cat' is none of"),
        ([[0.1] * 4], {"ignore": ["cat"]}, "'ignore': 'cat' is none of"),
        ([[0.1] * 4], {"output": "logits"}, "no output 'logits'"),
    ],
)
def test_what_does_not_fit_is_refused(scores, keys, words):
    """A label off by one is worse than none."""
    with pytest.raises(ModelError, match=words):
        heard(scores, **keys)


# ---- smooth


def _means(views, per_view, gaps=()):
    step = make_step("post", {"step": "smooth", "views": views}, "a test")
    state, out = step.initial(), []
    for i, scores in enumerate(per_view):
        found = tuple(Finding(label, score, interval=(i, i + 1)) for label, score in scores.items())
        state, made = step(state, found, View(np.empty(0), i, i + 1, gap=i in gaps))
        out.append({f.label: round(f.score, 6) for f in made})
    return out


def test_scores_become_means_over_views():
    """Absent is 0, also before the stream began; what is 0 throughout is not told."""
    means = _means(2, [{"dog": 0.8}, {"dog": 0.4, "speech": 1.0}, {}, {}])
    assert means == [{"dog": 0.4}, {"dog": 0.6, "speech": 0.5}, {"dog": 0.2, "speech": 0.5}, {}]


def test_a_gap_forgets_the_views():
    """No mean spans a loss."""
    assert _means(2, [{"dog": 1.0}, {"dog": 1.0}], gaps=(1,)) == [{"dog": 0.5}, {"dog": 0.5}]


def test_the_best_of_equal_labels_counts_and_order_follows_the_mean():
    """A view may name a label twice; the best mean stands first and has the newest interval."""
    step = make_step("post", {"step": "smooth", "views": 1}, "a test")
    twice = (Finding("dog", 0.9), Finding("cat", 0.95), Finding("dog", 0.2))
    _, found = step(step.initial(), twice, SEEN)
    assert [(f.label, f.score) for f in found] == [("cat", 0.95), ("dog", 0.9)]


def test_barking_becomes_stretches_of_time():
    """Decoder, smooth and spans: a dog that barks now and then is one event of known length; hiccups are none."""
    posts = [{"step": "smooth", "views": 2}, {"step": "spans", "on": 0.6, "off": 0.2, "min_s": 1, "min_gap_s": 1}]
    chain, decode, told = Chain(make_posts(posts, "a test")), sounds(threshold=0.05), []
    for i in range(60):
        bark = 0.9 if 10 <= i < 20 and i % 3 else 0.0
        alarm = 0.9 if i == 40 else 0.0
        seen = View(np.empty(0), i * 0.5, i * 0.5 + 0.5)
        told += chain(decode({"s": np.array([[0, 0.0, bark, alarm]], np.float32)}, seen, LABELS), seen)
    assert [(f.label, f.score, f.interval) for f in told] == [("dog", pytest.approx(0.9), pytest.approx((5.47, 10.53)))]
