"""A candidate stays when live input speaks for it, and goes at the first thing that speaks against it."""

import math

import pytest

from agent.records import Draft, Finding
from agent.trial.agreement import Events, agree
from agent.trial.judge import PACE_RUNS, Limits, Probation, Shadow, pace_limit_ms

LIMITS = Limits(inferences=20, time_s=60.0, limit_ms=10.0, disagreement=0.1, tolerance=0.05)


def _probation(runs=0, run_ms=1.0, limits=LIMITS):
    judge = Probation(limits, start_s=100.0)
    for _ in range(runs):
        judge.ran(run_ms)
    return judge


def test_enough_good_inferences_commit_and_one_fewer_do_not_yet():
    """The count decides, not the time."""
    assert _probation(19).verdict(101.0) is None
    verdict = _probation(20).verdict(101.0)
    assert (verdict.decision, verdict.reason, verdict.detail["inferences"]) == ("commit", "", 20)


def test_one_failure_rolls_back_at_once_however_good_the_rest():
    """Bad news is not averaged away."""
    judge = _probation(19)
    judge.failed("output 'y' contains NaN")
    judge.ran(1.0)
    verdict = judge.verdict(100.1)
    assert (verdict.decision, verdict.reason) == ("roll_back", "PROBATION_FAILED")
    assert "contains NaN" in verdict.text


def test_after_its_time_a_rarely_fed_candidate_stays_if_it_saw_something():
    """A door that opens twice a day does not keep a model on probation for ever."""
    assert _probation(1).verdict(159.0) is None
    assert _probation(1).verdict(160.0).decision == "commit"


def test_a_candidate_that_saw_nothing_goes_back():
    """Nothing seen is no good news."""
    verdict = _probation(0).verdict(160.0)
    assert verdict.decision == "roll_back"
    assert "no live input within 60 s" in verdict.text


def test_slow_is_the_median_so_one_slow_start_is_forgiven():
    """The first run of a model may take long; half of them may not."""
    judge = _probation(PACE_RUNS - 1)
    judge.ran(500.0)
    assert judge.verdict(101.0) is None
    slow = _probation(PACE_RUNS, run_ms=10.5)
    verdict = slow.verdict(101.0)
    assert verdict.decision == "roll_back"
    assert "half of 10 runs took more than 10.5 ms, 10 are allowed" in verdict.text


def test_a_candidate_that_needs_seconds_is_not_waited_for():
    """One run of eleven seconds is enough to know."""
    assert _probation(1, run_ms=11_000.0).verdict(112.0).decision == "roll_back"


@pytest.mark.parametrize(
    ("budget", "before", "limit"),
    [(20.0, 1.0, 20.0), (0.0, 4.0, 12.0), (0.0, 0.1, 5.1), (0.0, 0.0, math.inf)],
)
def test_the_manifests_budget_counts_else_the_model_before(budget, before, limit):
    """A tiny model's timings are noise, so there is slack; where nothing is known nothing is asked."""
    assert pace_limit_ms(budget, before, 3.0) == pytest.approx(limit)


def _said(label, score=0.9, value=None):
    return (Finding(label, score, value=value),)


@pytest.mark.parametrize(
    ("now", "then", "same"),
    [
        (_said("3"), _said("3", 0.6), True),
        (_said("3"), _said("8"), False),
        (_said("3"), (), False),
        (_said("3", 0.4), _said("8", 0.3), True),  # neither is sure of anything
        (_said("e", 1.0, 10.0), _said("e", 1.0, 10.4), True),
        (_said("e", 1.0, 10.0), _said("e", 1.0, 11.0), False),
        (_said("r", 1.0, "0042"), _said("r", 1.0, "0043"), False),
        (_said("e", 1.0, 1.0), _said("e", 1.0), False),
        (_said("a") + _said("b"), _said("b") + _said("a"), True),
        (_said("a") + _said("a"), _said("a"), False),
    ],
)
def test_two_models_agree_on_labels_that_they_are_sure_of_and_on_values(now, then, same):
    """Order and exact scores do not count; what is said, how often, and the value do."""
    assert agree(now, then, 0.05) is same


def _draft(label, kind="appears", rule="r"):
    return Draft("s", kind, {"label": label, "score": 0.9}, 1e9, 0.0, pipeline="p", decided_by=rule)


def test_the_same_event_a_moment_later_is_no_change():
    """A candidate may see the same thing a few frames later."""
    events = Events()
    events.told([_draft("3")], [], 10.0)
    events.told([], [_draft("3")], 11.5)
    events.finish()
    assert (events.told_now, events.changed, events.kept) == (1, 0, [])


def test_an_event_with_another_label_is_one_change_and_both_are_shown():
    """'would change 1 of 1 events', and what would come instead."""
    events = Events()
    events.told([_draft("3")], [_draft("8")], 10.0)
    assert events.changed == 0  # either may still find its like
    events.told([], [], 13.0)
    assert (events.told_now, events.changed) == (1, 1)
    assert [(one["change"], one["label"]) for one in events.kept] == [
        ("would not come", "3"), ("would come besides", "8"),
    ]  # fmt: skip


def _shadow(same, other, limits=LIMITS):
    judge = Shadow(limits, start_s=0.0)
    for i in range(same + other):
        judge.compared({"seq": i}, _said("3"), _said("3" if i < same else "8"))
    return judge


def test_a_shadow_that_agrees_is_promoted():
    """A share within the limit is no reason against it."""
    verdict = _shadow(18, 2).verdict(1.0)
    assert (verdict.decision, verdict.detail["differing"]) == ("promote", 2)


def test_a_shadow_that_disagrees_goes_back_as_soon_as_it_cannot_become_better():
    """Three of twenty are too many at a tenth, whatever the rest would say; the differing views are shown."""
    verdict = _shadow(2, 3).verdict(1.0)
    assert (verdict.decision, verdict.reason) == ("roll_back", "PROBATION_FAILED")
    shown = verdict.detail["evidence"]["views"]
    assert [one["seq"] for one in shown] == [2, 3, 4]
    assert shown[0]["now"] == [{"label": "3", "score": 0.9}]
    assert shown[0]["then"] == [{"label": "8", "score": 0.9}]


def test_a_shadow_that_would_change_events_goes_back_and_says_how_many():
    """The rules' decisions are what counts, not single frames."""
    judge = _shadow(20, 0)
    for i in range(40):
        judge.told("p", [_draft("3")], [_draft("3")] if i >= 5 else [], float(i * 10))
    judge.finish()
    verdict = judge.verdict(1.0)
    assert verdict.decision == "roll_back"
    assert "would change 5 of 40 events" in verdict.text
    assert verdict.detail["evidence"]["events"][0]["change"] == "would not come"


def test_the_evidence_fits_into_a_job():
    """A job may have 8 KiB; the evidence of the worst candidate takes well under half of them."""
    import json

    judge = Shadow(LIMITS, 0.0)
    many = tuple(Finding("a rather long label of a thing " + "x" * 20, 0.987654321) for _ in range(50))
    for i in range(100):
        judge.compared({"pipeline": "p" * 32, "seq": i, "t_wall_s": 1.7e9}, many, _said("8"))
        judge.told("p", [_draft("y" * 60)], [], i * 10.0)
    assert len(json.dumps(judge.verdict(1.0).detail)) < 4096


def test_a_shadow_that_is_too_slow_or_fails_goes_back():
    """It would go wrong live as well."""
    slow = _shadow(5, 0)
    for _ in range(PACE_RUNS):
        slow.ran(11.0)
    assert "too slow" in slow.verdict(1.0).text
    broken = _shadow(5, 0)
    broken.failed("it takes pictures")
    assert "it takes pictures" in broken.verdict(1.0).text
