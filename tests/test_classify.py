"""Classification and digit decoders, and the post steps: right labels, right order, nothing guessed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.errors import ConfigError, ModelError
from agent.records import Finding, View
from pipelines import make_step

LABELS = ("ant", "bee", "cat", "dog")
DIGITS = (*"0123456789", "none")


def _decode(step, scores, labels, view=None, **keys):
    decoder = make_step("decoder", {"step": step, **keys}, "a test")
    return decoder({"scores": np.asarray(scores, np.float32)}, view or View(np.zeros((2, 2), np.uint8)), labels)


def _pairs(findings):
    return [(f.label, pytest.approx(f.score, abs=1e-6)) for f in findings]


def test_labels_come_best_first_and_at_most_top_k():
    """The order is that of the scores, ties in the order of the labels."""
    found = _decode("classify", [[0.1, 0.4, 0.4, 0.1]], LABELS, top_k=3)
    assert _pairs(found) == [("bee", 0.4), ("cat", 0.4), ("ant", 0.1)]


def test_threshold_may_leave_nothing():
    """Below the threshold there is no finding; at it there is."""
    assert _decode("classify", [0.1, 0.2, 0.3, 0.4], LABELS, threshold=0.5) == ()
    assert len(_decode("classify", [0.0, 0.5, 0.0, 0.0], LABELS, threshold=0.5)) == 1


def test_scores_may_come_in_any_shape():
    """Old graphs end with [1, 1, 1, n]."""
    flat = _decode("classify", [0.1, 0.2, 0.3, 0.4], LABELS)
    assert _decode("classify", [[[[0.1, 0.2, 0.3, 0.4]]]], LABELS) == flat


def test_without_labels_the_class_number_is_the_label():
    """A model can be tried before its labels are at hand."""
    assert [f.label for f in _decode("classify", [0.2, 0.8], ())] == ["1", "0"]


def test_leading_classes_without_label_are_left_out():
    """1001 scores for 1000 labels: the background class is skipped by `label_offset`, never by guessing."""
    scores = [0.9, 0.0, 0.05, 0.05, 0.0]
    assert _decode("classify", scores, LABELS, label_offset=1)[0].label == "bee"
    with pytest.raises(ModelError, match="5 scores but 4 labels"):
        _decode("classify", scores, LABELS)


@pytest.mark.parametrize("logit", [-1000.0, -1.0, 0.0, 2.0, 1000.0])
def test_a_binary_model_gives_both_labels(logit):
    """One score and two labels: the second label has the score, the first the rest; large logits do not overflow."""
    found = {f.label: f.score for f in _decode("classify", [[logit]], ("no", "yes"), activation="sigmoid")}
    expected = 1.0 / (1.0 + np.exp(-np.clip(logit, -700, 700)))
    assert found["yes"] == pytest.approx(expected)
    assert found["no"] == pytest.approx(1.0 - expected)


@given(hnp.arrays(np.float32, 4, elements=st.floats(-1e4, 1e4, width=32)))
def test_softmax_is_a_distribution_in_the_order_of_the_logits(logits):
    """Sums to one, keeps the order, whatever the size of the logits."""
    found = _decode("classify", logits, LABELS, activation="softmax")
    assert sum(f.score for f in found) == pytest.approx(1.0)
    assert logits[LABELS.index(found[0].label)] == pytest.approx(logits.max(), abs=1e-9)


def test_sigmoid_judges_each_label_on_its_own():
    """Several labels may hold at once."""
    found = _decode("classify", [3.0, 3.0, -3.0, -3.0], LABELS, activation="sigmoid", threshold=0.5)
    assert [f.label for f in found] == ["ant", "bee"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", ["classify", "digits"])
def test_scores_that_are_not_finite_are_refused(step, bad):
    """NaN is a damaged model or input, not a low score."""
    with pytest.raises(ModelError, match="not finite"):
        _decode(step, [0.1, bad, 0.1, 0.1], LABELS)


def test_the_output_is_chosen_by_name():
    """A model with several outputs names the one to read; a wrong name lists what there is."""
    decoder = make_step("decoder", {"step": "classify", "output": "probs"}, "a test")
    outputs = {"features": np.ones((1, 64), np.float32), "probs": np.array([[0, 0, 1, 0]], np.float32)}
    assert decoder(outputs, View(np.zeros(1)), LABELS)[0].label == "cat"
    with pytest.raises(ModelError, match="name one of features"):
        decoder({"features": outputs["features"]}, View(np.zeros(1)), LABELS)


def _one_hot(text, score=0.9):
    rows = np.full((len(text), 1, 11), (1 - score) / 10, np.float32)
    for row, sign in zip(rows, text, strict=True):
        row[0, DIGITS.index("none") if sign == " " else int(sign)] = score
    return rows


def _cells(n):
    boxes = tuple((10.0 * i, 5.0, 10.0 * i + 8, 25.0) for i in range(n))
    return View(np.zeros((n, 28, 28), np.uint8), cells=boxes)


def test_one_picture_gives_one_digit():
    """Without cells the label is the digit; a picture without digit is told as such."""
    (found,) = _decode("digits", _one_hot("7")[0], DIGITS)
    assert (found.label, found.value, found.score) == ("7", "7", pytest.approx(0.9))
    (found,) = _decode("digits", _one_hot(" ")[0], DIGITS)
    assert (found.label, found.value) == ("none", None)


def test_a_display_reads_as_one_value():
    """Five cells, one reading: leading zero kept, score of the least certain digit, box around all cells."""
    scores = _one_hot("04217")
    scores[3] = scores[3] * 0.5 + 0.5 / 11
    (found,) = _decode("digits", scores, DIGITS, _cells(5), unit="m3")
    assert (found.label, found.value, found.unit) == ("reading", "04217", "m3")
    assert found.score == pytest.approx(float(scores[3].max()))
    assert found.box == (0.0, 5.0, 48.0, 25.0)


@pytest.mark.parametrize(
    ("shown", "keys", "value"),
    [
        ("  421", {}, "421"),
        ("4 217", {}, "4?217"),
        ("4217 ", {}, "4217?"),
        ("04217", {"decimals": 2}, "042.17"),
        ("   17", {"decimals": 2}, "0.17"),
        ("    7", {"decimals": 2}, "0.07"),
        ("04217", {"decimals": 3, "number": True}, 4.217),
        ("04217", {"number": True}, 4217.0),
        ("    0", {"number": True}, 0.0),
        ("4 217", {"unread": "_"}, "4_217"),
    ],
)
def test_displays_are_joined_as_people_read_them(shown, keys, value):
    """Blank places in front are no digits, blank places inside are unread, the point goes where it is said to be."""
    (found,) = _decode("digits", _one_hot(shown), DIGITS, _cells(5), **keys)
    assert found.value == value
    assert type(found.value) is type(value)


def test_a_number_is_never_made_of_an_unread_digit():
    """With `number` a display that is not wholly read gives nothing; a dark display gives nothing either way."""
    assert _decode("digits", _one_hot("4 217"), DIGITS, _cells(5), number=True) == ()
    assert _decode("digits", _one_hot("     "), DIGITS, _cells(5)) == ()
    unsure = _one_hot("04217")
    unsure[2] = _one_hot("2", 0.4)[0]
    assert _decode("digits", unsure, DIGITS, _cells(5), min_score=0.5)[0].value == "04?17"
    assert _decode("digits", unsure, DIGITS, _cells(5), min_score=0.5, number=True) == ()


def test_digits_refuse_scores_that_do_not_fit_cells_and_labels():
    """Ten scores for eleven labels, or four rows for five cells."""
    with pytest.raises(ModelError, match="10 scores but 11 labels"):
        _decode("digits", np.zeros((1, 10)), DIGITS)
    with pytest.raises(ModelError, match=r"8\.8 scores but 11 labels"):
        _decode("digits", np.zeros((4, 11)), DIGITS, _cells(5))


FOUND = (Finding("bee", 0.2), Finding("ant", 0.9), Finding("cat", 0.5), Finding("bee", 0.5))


def _post(step, **keys):
    return make_step("post", {"step": step, **keys}, "a test")(FOUND)


def test_post_steps_thin_findings_out():
    """By score, by label, and the best few; the order stays, except that `top` sorts."""
    assert [f.score for f in _post("min_score", score=0.5)] == [0.9, 0.5, 0.5]
    assert [f.score for f in _post("keep_labels", labels=["bee"])] == [0.2, 0.5]
    assert _post("top", n=2) == (FOUND[1], FOUND[2])


@pytest.mark.parametrize(
    ("kind", "table", "words"),
    [
        ("post", {"step": "min_score", "score": 1.5}, "0 to 1"),
        ("post", {"step": "keep_labels", "labels": []}, "labels"),
        ("post", {"step": "minscore"}, "must be one of"),
        ("decoder", {"step": "classify", "activation": "soft"}, "'softmax'"),
        ("decoder", {"step": "digits", "unread": "??"}, "unread"),
    ],
)
def test_wrong_keys_are_named(kind, table, words):
    """The message has the key and what is allowed."""
    with pytest.raises(ConfigError, match=words):
        make_step(kind, table, "a test")
