"""Lanes are started, revived, seen when stuck, and stopped in time."""

import random
import threading
import time

from agent.backoff import Backoff
from agent.supervisor import Lane, Supervisor


def _supervisor(*lanes):
    rng = random.Random(1)
    return Supervisor(lanes, lambda: Backoff(rng, first_s=0.02, cap_s=0.05, healthy_s=60), time.monotonic, 0.05)


def _until(supervisor, wanted, limit_s=5.0):
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        states = {s.name: s for s in supervisor.reconcile()}
        if wanted(states):
            return states
        time.sleep(0.005)
    raise AssertionError(f"never came: {states}")


def test_a_lane_that_fails_is_revived_with_its_reason_kept():
    """The third life of a lane that dies twice runs."""
    lives = []

    def frail(stop, beat):
        lives.append(1)
        if len(lives) < 3:
            raise OSError("camera unplugged")
        while not stop.wait(0.01):
            beat()

    supervisor = _supervisor(Lane("camera", frail))
    states = _until(supervisor, lambda s: s["camera"].failures == 2 and s["camera"].phase == "running")
    assert "camera unplugged" in states["camera"].error
    assert len(lives) == 3
    assert supervisor.stop(2.0) == ()


def test_one_broken_lane_does_not_take_the_others_down():
    """Its neighbour keeps beating."""
    beats = []

    def good(stop, beat):
        while not stop.wait(0.005):
            beat()
            beats.append(1)

    def bad(_stop, _beat):
        raise RuntimeError("no")

    supervisor = _supervisor(Lane("good", good), Lane("bad", bad))
    states = _until(supervisor, lambda s: s["bad"].failures >= 3)
    assert states["good"].phase == "running"
    assert beats
    assert supervisor.stop(2.0) == ()


def test_a_lane_that_fails_again_and_again_never_looks_well_in_between():
    """A camera that opens and then delivers nothing is no healthy camera."""

    def frail(_stop, _beat):
        time.sleep(0.02)
        raise OSError("no picture")

    supervisor = _supervisor(Lane("camera", frail))
    _until(supervisor, lambda s: s["camera"].failures >= 1)
    seen = set()
    for _ in range(60):
        seen.add(supervisor.reconcile()[0].phase)
        time.sleep(0.005)
    assert seen == {"failed"}
    assert supervisor.stop(2.0) == ()


def test_a_lane_that_returns_has_ended_and_is_left_in_peace():
    """The end of a recording is no failure."""
    lives = []
    supervisor = _supervisor(Lane("film", lambda _stop, _beat: lives.append(1)))
    _until(supervisor, lambda s: s["film"].phase == "ended")
    for _ in range(20):
        supervisor.reconcile()
        time.sleep(0.005)
    assert lives == [1]


def test_a_stuck_lane_is_reported_and_left_behind_at_the_stop():
    """A lane that neither beats nor ends is named, and stopping does not wait for it."""
    release = threading.Event()
    supervisor = _supervisor(Lane("hung", lambda _stop, _beat: release.wait(20), deadline_s=0.05, essential=True))
    states = _until(supervisor, lambda s: s["hung"].phase == "stuck")
    assert states["hung"].beat_age_s > 0.05
    start_s = time.monotonic()
    assert supervisor.stop(0.2) == ("hung",)
    assert time.monotonic() - start_s < 1.0
    release.set()


def test_a_lane_that_moves_again_is_no_longer_stuck():
    """Late is not dead."""
    go = threading.Event()

    def slow(stop, beat):
        go.wait(20)
        while not stop.wait(0.005):
            beat()

    supervisor = _supervisor(Lane("slow", slow, deadline_s=0.1))
    _until(supervisor, lambda s: s["slow"].phase == "stuck")
    go.set()
    _until(supervisor, lambda s: s["slow"].phase == "running")
    assert supervisor.stop(2.0) == ()


def test_nothing_is_started_after_the_stop():
    """A lane that dies while stopping stays down."""
    lives = []

    def dies(stop, _beat):
        lives.append(1)
        stop.wait(5)
        raise RuntimeError("too late")

    supervisor = _supervisor(Lane("late", dies))
    _until(supervisor, lambda s: s["late"].phase == "running")
    assert supervisor.stop(2.0) == ()
    for _ in range(10):
        supervisor.reconcile()
        time.sleep(0.01)
    assert lives == [1]


def test_a_task_that_is_added_runs_once_and_is_forgotten():
    """Nothing of it is left in the list of lanes; one that fails is revived like any other."""
    runs = []

    def task(_stop, _beat):
        runs.append(1)
        if len(runs) == 1:
            raise OSError("not yet")

    supervisor = _supervisor(Lane("other", lambda stop, _beat: stop.wait(10)))
    supervisor.add(Lane("task", task))
    assert {state.name for state in supervisor.states()} == {"other", "task"}
    _until(supervisor, lambda states: "task" not in states)
    assert len(runs) == 2
    assert supervisor.stop(2.0) == ()


def test_a_hung_thread_is_left_behind_and_says_nothing_about_the_lane_any_more():
    """Another one runs the lane; that the first one fails when it wakes up is nobody's business."""
    hangs, lives = threading.Event(), []

    def lane(stop, beat):
        lives.append(1)
        if len(lives) == 1:
            hangs.wait(10)
            raise RuntimeError("too late")
        while not stop.wait(0.005):
            beat()

    supervisor = _supervisor(Lane("pipeline:p", lane))
    _until(supervisor, lambda _states: lives)
    supervisor.replace_thread("pipeline:p")
    states = _until(supervisor, lambda s: len(lives) == 2 and s["pipeline:p"].beat_age_s < 1)
    hangs.set()
    time.sleep(0.05)
    states = _until(supervisor, lambda _states: True)
    assert (states["pipeline:p"].phase, states["pipeline:p"].failures, states["pipeline:p"].error) == ("running", 0, "")
    assert supervisor.stop(2.0) == ()
