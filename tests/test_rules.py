"""Rules: what is told, when, and what never is."""

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.records import Finding
from agent.rules import MAX_LABELS, initial, step
from agent.settings.rules import RuleConfig
from agent.strict import build

PERSON = Finding("person", 0.9, box=(1.0, 2.0, 3.0, 4.0))


@dataclass(frozen=True)
class Rules:
    """A pipeline file with nothing but rules."""

    rule: tuple[RuleConfig, ...]


def rule(kind, **keys):
    return build(Rules, {"rule": [{"kind": kind, **keys}]}, "p.toml").rule[0]


def run(made, results, gaps=()):
    """Fold (time, findings) pairs; returns (time, decision) pairs and the last state."""
    state, told = initial(made), []
    for i, (t, findings) in enumerate(results):
        state, decisions = step(made, state, findings, t, gap=i in gaps)
        told += [(t, d) for d in decisions]
    return told, state


def seen(flags, dt=1.0):
    return [(i * dt, (PERSON,) if flag else ()) for i, flag in enumerate(flags)]


def values(*numbers):
    return [(float(i), () if x is None else (Finding("t", 1.0, value=x, unit="Cel"),)) for i, x in enumerate(numbers)]


def test_six_visits_are_six_appears():
    """A person walks in and out six times before a detector that flickers: six times each is told, not sixty."""
    chance = random.Random(6)
    flags = []
    for _ in range(6):
        flags += [chance.random() < 0.03 for _ in range(60)] + [chance.random() < 0.8 for _ in range(45)]
    flags += [False] * 60
    keys = {"label": "person", "n": 3, "m": 5, "clear_n": 5}
    told, _ = run(rule("appears", **keys), seen(flags, 0.1))
    assert [d.kind for _, d in told] == ["appears"] * 6
    assert all(0 <= t % 10.5 - 6.0 < 1.0 for t, _ in told)
    assert len(run(rule("clears", **keys), seen(flags, 0.1))[0]) == 6
    assert len(run(rule("appears", label="person"), seen(flags, 0.1))[0]) > 20  # what debouncing is for


def test_an_event_says_what_was_seen_and_who_decided():
    """The body holds the finding as JSON values; the rule calls itself by its name, or by kind and label."""
    told, _ = run(rule("appears", label="person"), seen([1]))
    assert told[0][1].body == {"label": "person", "score": 0.9, "box": [1.0, 2.0, 3.0, 4.0]}
    assert told[0][1].decided_by == "appears person"
    assert run(rule("appears", label="p*", name="door"), seen([1]))[0][0][1].decided_by == "door"


def test_a_clear_says_how_long_it_was_present():
    """From the result that made it present to the one that made it gone."""
    told, _ = run(rule("clears", label="person", m=3), seen([0, 1, 1, 0, 1, 0, 0, 0]))
    assert [(t, d.body) for t, d in told] == [(7.0, {"label": "person", "present_s": 6.0})]


def test_findings_below_min_score_or_of_other_labels_do_not_exist():
    """The filter comes before everything else."""
    findings = (Finding("person", 0.4), Finding("personal", 0.9), Finding("dog", 0.9))
    assert run(rule("appears", label=["person", "cat*"], min_score=0.5), [(0.0, findings)])[0] == []
    assert len(run(rule("appears", label=["person", "d?g"]), [(0.0, findings)])[0]) == 2


def test_labels_are_watched_one_by_one_or_together():
    """One event per label, or one for all of them."""
    results = [(0.0, (Finding("car", 0.9),)), (1.0, (Finding("bus", 0.8),))]
    assert [d.body["label"] for _, d in run(rule("appears"), results)[0]] == ["car", "bus"]
    assert [d.body for _, d in run(rule("appears", together=True, label=["car", "bus"]), results)[0]] == [
        {"label": "car", "score": 0.9, "group": "car|bus"}
    ]


def test_a_missing_result_clears_nothing():
    """No result is no evidence, however much time passes; a gap forgets evidence and keeps the state."""
    clears = rule("clears", label="person", n=1, m=3)
    assert run(clears, [(0.0, (PERSON,))] + [(float(t), None) for t in range(1, 100)])[0] == []
    assert len(run(clears, seen([1, 0, 0, 0]))[0]) == 1
    assert run(clears, seen([1, 0, 0, 0]), gaps={3})[0] == []
    assert len(run(clears, seen([1, 0, 0, 0, 0, 0]), gaps={3})[0]) == 1
    assert run(rule("clears", label="person", m=3, max_gap_s=2), seen([1, 0, 0, 0], 5.0))[0] == []


def test_old_evidence_does_not_count_after_a_gap():
    """Two sightings before a gap and one after it are not three in a row."""
    appears = rule("appears", label="person", n=3, m=3)
    assert len(run(appears, seen([1, 1, 1]))[0]) == 1
    assert run(appears, seen([1, 1, 1]), gaps={2})[0] == []


def test_what_still_holds_after_the_cooldown_is_told_then():
    """Inside the cooldown nothing is told; afterwards only what is still so."""
    appears = rule("appears", label="person", cooldown_s=10)
    assert [t for t, _ in run(appears, seen([1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]))[0]] == [0.0, 10.0]
    assert [t for t, _ in run(appears, seen([1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]))[0]] == [0.0]


@pytest.mark.parametrize(
    ("direction", "at"), [("rising", [1.0, 6.0]), ("falling", [0.0, 7.0]), ("both", [6.0, 7.0])]
)
def test_crossings_need_to_leave_the_band(direction, at):
    """Numbers that dance on the threshold cross it once."""
    numbers = (50, 62, 59, 61, 58, 40, 80, 40)
    told, _ = run(rule("crosses", threshold=60, hysteresis=5, direction=direction), values(*numbers))
    assert [t for t, _ in told] == at


def test_a_value_beyond_the_threshold_at_start_is_told():
    """After a restart a hot fridge is told again; for both directions the first value only says on which side it is."""
    told, _ = run(rule("crosses", threshold=8), values(9.0))
    assert told[0][1].body == {
        "label": "t", "score": 1.0, "value": 9.0, "unit": "Cel", "threshold": 8.0, "direction": "rising",
    }  # fmt: skip
    assert run(rule("crosses", threshold=8, direction="falling"), values(9.0))[0] == []
    assert run(rule("crosses", threshold=8, direction="both"), values(9.0, 9.0))[0] == []


def test_a_result_without_a_number_is_neither_high_nor_low():
    """NaN, text that is no number and a missing finding leave the side as it is; a display's digits count."""
    nothing = (None, float("nan"), "--.-", None)
    told, _ = run(rule("crosses", threshold=8, direction="both", n=2, m=2), values(5, 5, *nothing, "09.5", "09.6"))
    assert [(t, d.body["value"]) for t, d in told] == [(7.0, "09.6")]


def test_counts_are_debounced():
    """A person missed in one picture has not left."""
    numbers = [0, 2, 2, 1, 2, 2, 3, 3, 3, 0, 0, 0]
    results = [(float(t), (PERSON,) * n) for t, n in enumerate(numbers)]
    told, _ = run(rule("counts", label="person", n=2, m=3), results)
    assert [(t, d.body["before"], d.body["count"]) for t, d in told] == [(2.0, 0, 2), (7.0, 2, 3), (10.0, 3, 0)]
    told, _ = run(rule("counts", label="person", n=2, m=3, reaches=3), results)
    assert [(t, d.body["count"]) for t, d in told] == [(7.0, 3)]


def test_every_sums_up_a_period():
    """A period is told with the first result after it; one without results is not told at all."""
    every = rule("every", period_s=10, label="t")
    first, second = Finding("t", 0.5, value=1.0, unit="V"), Finding("t", 1.0, value=4.0, unit="V")
    results = [(0.0, (first,)), (4.0, ()), (9.0, (second,))]
    told, _ = run(every, [*results, (11.0, None), (47.0, ()), (50.0, ())])
    assert [t for t, _ in told] == [11.0, 50.0]
    assert told[0][1].body == {
        "interval": [0.0, 10.0],
        "results": 3,
        "seen": [{
            "label": "t", "results": 2, "findings": 2, "unit": "V",
            "score": {"min": 0.5, "max": 1.0, "mean": 0.75, "last": 1.0},
            "value": {"min": 1.0, "max": 4.0, "mean": 2.5, "last": 4.0},
        }],
    }  # fmt: skip
    assert told[1][1].body == {"interval": [40.0, 50.0], "results": 1, "seen": []}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kind": "apears"}, "kind = 'apears' is not allowed: it must be a table whose 'kind' is one of 'appears',"),
        ({"kind": "appears", "threshold": 3}, "unknown key 'threshold'"),
        ({"kind": "appears", "n": 4, "m": 3}, "n = 4 can never be reached: it must be at most m = 3"),
        ({"kind": "clears", "m": 3, "clear_n": 9}, "clear_n = 9 can never be reached: it must be at most m = 3"),
        ({"kind": "every"}, "key 'period_s' is missing"),
        ({"kind": "crosses", "threshold": "hot"}, "key 'threshold': 'hot' is of the wrong type"),
        ({"kind": "appears", "stream": "a/#"}, "key 'stream': 'a/#' is not allowed"),
        ({"kind": "appears", "class": "urgent"}, "key 'class': 'urgent' is not allowed"),
    ],
)
def test_a_wrong_rule_names_what_is_allowed(table, words):
    """File, table and key are named, and what may stand there."""
    with pytest.raises(ConfigError) as caught:
        build(Rules, {"rule": [table]}, "door.toml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("door.toml")


LABELS = st.sampled_from("ab")
FINDINGS = st.lists(st.builds(Finding, LABELS, st.floats(0, 1), value=st.floats(-5, 5)), max_size=3).map(tuple)
RESULTS = st.lists(st.tuples(st.floats(0, 5), FINDINGS | st.none()), max_size=60).map(
    lambda steps: [(sum(dt for dt, _ in steps[: i + 1]), findings) for i, (_, findings) in enumerate(steps)]
)
DEBOUNCE = st.integers(1, 5).flatmap(lambda m: st.fixed_dictionaries({"m": st.just(m), "n": st.integers(1, m)}))
COOLDOWN = st.sampled_from([0.0, 1.0, 7.0])
WATCHES = st.sampled_from(
    [
        ("appears", {}), ("clears", {}), ("counts", {}), ("counts", {"reaches": 2}),
        *[("crosses", {"threshold": 1.0, "hysteresis": 0.5, "direction": d}) for d in ("rising", "falling", "both")],
    ]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(RESULTS, DEBOUNCE)
def test_appears_and_clears_alternate(results, debounce):
    """For every label the two rules take turns, and appears begins."""
    numbered = [(float(i), findings) for i, (_, findings) in enumerate(results)]
    told = [(t, d) for kind in ("appears", "clears") for t, d in run(rule(kind, **debounce), numbered)[0]]
    for label in "ab":
        kinds = [d.kind for _, d in sorted(told, key=lambda e: e[0]) if d.body["label"] == label]
        assert kinds == ["appears", "clears"] * (len(kinds) // 2) + ["appears"] * (len(kinds) % 2)


@settings(max_examples=200, deadline=None)
@given(RESULTS, DEBOUNCE, WATCHES, st.sampled_from([1.0, 7.0]))
def test_never_two_events_of_a_label_in_a_cooldown(results, debounce, watch, cooldown_s):
    """Whatever happens."""
    told, _ = run(rule(watch[0], **watch[1], **debounce, cooldown_s=cooldown_s), results)
    for label in "ab":
        times = [t for t, d in told if d.body["label"] == label]
        assert all(b - a >= cooldown_s for a, b in pairwise(times))


@settings(max_examples=200, deadline=None)
@given(RESULTS, DEBOUNCE, WATCHES, COOLDOWN, st.integers(0, 60))
def test_the_stream_may_be_cut_anywhere(results, debounce, watch, cooldown_s, cut):
    """The state after the first part is all that the second part needs, and no step changes a state it was given."""
    made = rule(watch[0], **watch[1], **debounce, cooldown_s=cooldown_s)
    whole, end = run(made, results)
    first, state = run(made, results[:cut])
    before = repr(state)
    for t, findings in results[cut:]:
        after, decisions = step(made, state, findings, t)
        assert step(made, state, findings, t) == (after, decisions)
        assert repr(state) == before
        first += [(t, d) for d in decisions]
        state, before = after, repr(after)
    assert (first, state) == (whole, end)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [("appears", {"m": 9}), ("clears", {"m": 9}), ("crosses", {"threshold": 0.5, "of": "score"}), ("counts", {"m": 9}),
     ("every", {"period_s": 1e6})],
)  # fmt: skip
def test_a_flood_of_labels_fills_no_memory(kind, keys):
    """At most MAX_LABELS are watched; what is not watched is counted, and forgotten labels make room."""
    flood = [(float(t), tuple(Finding(f"x{t}-{i}", 1.0) for i in range(100))) for t in range(45)]
    _, state = run(rule(kind, **keys), flood)
    held = state.tallies if kind == "every" else state.tracks
    assert len(held) == MAX_LABELS
    assert state.ignored > 1000
    if kind in ("appears", "clears", "counts"):
        _, state = run(rule(kind, **keys), [*flood, *((45.0 + t, ()) for t in range(20))])
        assert state.tracks == ()
        assert all(len(t.recent) <= 9 for t in held)


def test_time_that_steps_back_stands_still():
    """A clock that jumps back neither ends a cooldown nor a period."""
    told, state = run(rule("appears", cooldown_s=5, label="person"), [(100.0, (PERSON,)), (3.0, ()), (4.0, (PERSON,))])
    assert len(told) == 1
    assert state.now_s == 100.0
    assert run(rule("every", period_s=5), [(100.0, ()), (3.0, ()), (101.0, ())])[0] == []
