"""Stretches of time out of scores: known answers on made-up streams, whatever the edge case."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.records import Finding, View
from pipelines import make_step
from pipelines.audio import FULL_SCALE

HOP_S = 0.032


def spans(**keys):
    return make_step("post", {"step": "spans", **keys}, "a test")


def _views(count, start_s=0.0, hop_s=HOP_S, gaps=()):
    for i in range(count):
        t0_s = start_s + i * hop_s
        yield View(np.empty(0), t0_s, t0_s + hop_s, gap=i in gaps)


def _run(step, scores, views=None, label="speech", state=None):
    """What is told, view by view."""
    state = step.initial() if state is None else state
    told = []
    for score, view in zip(scores, views or _views(len(scores)), strict=True):
        state, found = step(state, (Finding(label, score),), view)
        told.append(found)
    return told


def _intervals(told):
    return [tuple(round(t, 6) for t in f.interval) for found in told for f in found]


def _by_the_book(scores, on, off, quiet_views, least_views):
    """The intervals in views, by a plain loop: start of the first loud view to start of the first quiet one."""
    found, start, quiet = [], None, None
    for i, score in enumerate(scores):
        if score >= on:
            quiet = None
            start = i if start is None else start
        elif start is not None and score < off:
            quiet = i if quiet is None else quiet
            if i - quiet >= quiet_views:
                if quiet - start >= least_views:
                    found.append((start, quiet))
                start = quiet = None
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9]), max_size=60), st.integers(0, 5), st.integers(1, 6))
def test_intervals_are_those_of_the_plain_rule(scores, quiet_views, least_views):
    """Any scores, any minimum lengths: the streaming step tells what a loop over the whole recording finds."""
    step = spans(min_s=least_views * HOP_S, min_gap_s=quiet_views * HOP_S, pad_s=0.0)
    expected = _by_the_book(scores, 0.5, 0.35, quiet_views, least_views)
    told = _intervals(_run(step, scores))
    assert told == [(round(a * HOP_S, 6), round(b * HOP_S, 6)) for a, b in expected]


def test_an_utterance_is_one_finding_when_it_is_over():
    """One finding for the whole word, in the view that shows that it is over, with its best score and padding."""
    scores = [0.1] * 10 + [0.6, 0.95, 0.8] + [0.9] * 7 + [0.0] * 10
    told = _run(spans(), scores)
    (at,) = [i for i, found in enumerate(told) if found]
    assert at == 24  # 20 is the first quiet view, 100 ms are four views
    assert told[at][0].score == 0.95
    assert _intervals(told) == [(0.29, 0.67)]


def test_a_pause_inside_a_sentence_does_not_cut_it():
    """Pauses below min_gap_s, and scores between off and on, belong to the utterance."""
    scores = [0.9] * 10 + [0.1] * 3 + [0.9] * 5 + [0.4] * 20 + [0.9] + [0.0] * 10
    assert _intervals(_run(spans(pad_s=0.0), scores)) == [(0.0, round(39 * HOP_S, 6))]


def test_a_click_is_no_utterance():
    """What is shorter than min_s is not told."""
    assert _intervals(_run(spans(), [0.0] * 5 + [0.99] * 7 + [0.0] * 20)) == []
    assert len(_intervals(_run(spans(), [0.0] * 5 + [0.99] * 8 + [0.0] * 20))) == 1


def test_silence_and_an_empty_stream_tell_nothing():
    """No speech, no findings; no views, no state."""
    assert _intervals(_run(spans(), [0.0] * 200)) == []
    step = spans()
    state, found = step(step.initial(), (), View(np.empty(0), 0.0, HOP_S))
    assert found == ()
    assert state.going == ()


def test_padding_stays_inside_the_stream():
    """The first interval begins where the stream begins."""
    step = spans()
    views = list(_views(40, start_s=1000.0))
    assert _intervals(_run(step, [0.9] * 20 + [0.0] * 20, views)) == [(1000.0, 1000.0 + 20 * HOP_S + 0.03)]


def test_a_gap_ends_what_is_open_and_nothing_spans_it():
    """Speech before and after a loss are two utterances, each within what was heard."""
    views = list(_views(15)) + list(_views(25, start_s=30.0, gaps=(0,)))
    told = _run(spans(), [0.9] * 15 + [0.9] * 15 + [0.0] * 10, views)
    assert [i for i, found in enumerate(told) if found] == [15, 34]
    assert _intervals(told) == [(0.0, 15 * HOP_S), (30.0, round(30 + 15 * HOP_S + 0.03, 6))]


def test_views_that_a_gate_held_back_end_what_is_open():
    """A jump in time is no sound; a short one within min_gap_s is bridged."""
    for jump_s, count in ((5.0, 2), (0.09, 1)):
        views = list(_views(15)) + list(_views(25, start_s=15 * HOP_S + jump_s))
        told = _intervals(_run(spans(), [0.9] * 30 + [0.0] * 10, views))
        assert len(told) == count, jump_s
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(told))


def test_overlapping_views_count_their_new_part_only():
    """A view that looks back tells about what no earlier view has shown."""
    views = [View(np.empty(0), i * 0.5 - 0.5, i * 0.5 + 0.5) for i in range(20)]
    told = _intervals(_run(spans(min_gap_s=0.5, pad_s=0), [0.0] * 4 + [0.9] * 4 + [0.0] * 12, views))
    assert told == [(2.0, 4.0)]


def test_context_in_front_of_a_view_is_not_its_sound():
    """`lead_s` as in the window `frames`: the first utterance begins at the stream's begin, not before."""
    views = [View(np.empty(0), i * HOP_S - 0.004, (i + 1) * HOP_S) for i in range(30)]
    told = _intervals(_run(spans(lead_s=0.004), [0.9] * 10 + [0.0] * 20, views))
    assert told == [(0.0, round(10 * HOP_S + 0.03, 6))]


def test_speech_can_be_told_while_it_lasts():
    """`tell = "while"`: a finding in each view from min_s on, so that a rule may fire at once."""
    told = _run(spans(tell="while", pad_s=0.0), [0.0] * 5 + [0.9] * 20 + [0.0] * 10)
    there = [i for i, found in enumerate(told) if found]
    assert there == list(range(12, 29))  # eight views are 256 ms; over in the fifth quiet view
    assert told[12][0].interval == pytest.approx((5 * HOP_S, 13 * HOP_S))
    assert told[28][0].interval == pytest.approx((5 * HOP_S, 25 * HOP_S))


def test_endless_noise_is_told_in_pieces():
    """`max_s` cuts; the pieces join without overlap."""
    told = _intervals(_run(spans(max_s=0.64, pad_s=0.0), [0.9] * 70 + [0.0] * 10))
    assert told == [(0.0, 0.64), (0.64, 1.28), (1.28, 1.92), (1.92, round(70 * HOP_S, 6))]


def test_every_label_has_its_own_stretches():
    """A dog over speech: two intervals that overlap; a label that is not followed passes."""
    step = spans(labels=["dog", "sp*"], pad_s=0.0)
    state, told = step.initial(), []
    for i, view in enumerate(_views(60)):
        found = [Finding("music", 0.9)]
        found += [Finding("speech", 0.8)] if 5 <= i < 30 else []
        found += [Finding("dog", 0.7), Finding("dog", 0.6)] if 20 <= i < 40 else []
        state, out = step(state, tuple(found), view)
        assert out[0].label == "music"
        told += [(f.label, f.score, tuple(round(t / HOP_S) for t in f.interval)) for f in out[1:]]
    assert told == [("speech", 0.8, (5, 30)), ("dog", 0.7, (20, 40))]


def test_a_score_that_is_no_number_is_silence():
    """NaN neither begins a stretch nor keeps one open."""
    nan = float("nan")
    assert _intervals(_run(spans(pad_s=0.0), [nan] * 5 + [0.9] * 10 + [nan] * 10)) == [(5 * HOP_S, 15 * HOP_S)]


def test_wrong_settings_are_refused_in_words():
    """Hysteresis upside down, and padding that would make intervals overlap."""
    with pytest.raises(ConfigError, match=r"'off': 0.9 is above on = 0.5"):
        spans(off=0.9)
    with pytest.raises(ConfigError, match=r"'pad_s': 0.2 is more than half of min_gap_s"):
        spans(pad_s=0.2)


# ---- the pre step `waveform`


def test_samples_become_numbers():
    """int16 to -1..1, or as they are; floats stay; silence survives its own peak."""
    samples = np.array([-32768, 0, 16384], np.int16)
    made = make_step("pre", {"step": "waveform"}, "a test")(View(samples, rate_hz=16_000.0))
    assert made.data.dtype == np.float32
    assert made.data.tolist() == [-1.0, 0.0, 0.5]
    assert made.rate_hz == 16_000.0
    raw = make_step("pre", {"step": "waveform", "sample_scale": "int16"}, "a test")(View(samples))
    assert raw.data.tolist() == [-FULL_SCALE, 0.0, 16384.0]
    peak = make_step("pre", {"step": "waveform", "peak": "max_abs"}, "a test")
    assert peak(View(np.array([0, -50, 25], np.int16))).data.tolist() == [0.0, -1.0, 0.5]
    assert not peak(View(np.zeros(3, np.int16))).data.any()
    with pytest.raises(ConfigError, match="it needs \\[samples\\]"):
        peak(View(np.zeros((3, 2), np.int16)))


def test_the_end_of_a_recording_ends_what_is_open():
    """What sounds then is told up to where it was heard; nothing when nothing sounds."""
    step = spans()
    state = step.initial()
    for view in _views(20):
        state, found = step(state, (Finding("speech", 0.9),), view)
        assert found == ()
    (told,) = step.ends(state)
    assert told.interval == pytest.approx((0.0, 20 * HOP_S))
    assert step.ends(step.initial()) == ()
    assert spans(tell="while").ends(state) == ()
