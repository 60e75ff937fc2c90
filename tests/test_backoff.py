"""Waiting between tries: growing, capped, never in step, never busy, forgetting after a healthy period."""

import random

import pytest

from agent.backoff import Backoff


class _Most(random.Random):
    """Always draws the upper end: shows the ceiling."""

    def uniform(self, a, b):
        return b


def test_the_ceiling_doubles_up_to_the_cap():
    """1, 2, 4, 8 s and never above the cap, also after a year of failures."""
    backoff = Backoff(_Most(), first_s=1, cap_s=10)
    assert [backoff.failed(0) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    for _ in range(5000):
        assert backoff.failed(0) == 10


def test_delays_are_spread_and_never_near_zero():
    """A fleet does not come back in step, and no draw makes a busy loop."""
    backoffs = [Backoff(random.Random(seed), first_s=1, cap_s=64) for seed in range(400)]
    for _ in range(8):
        delays = sorted(b.failed(0) for b in backoffs)
    assert delays[0] >= 0.1
    assert delays[-1] <= 64
    assert delays[100] < 22
    assert delays[300] > 42


def test_a_healthy_period_forgets_failures_and_a_short_one_does_not():
    """A source that dies right after each start keeps backing off; one that ran for long starts afresh."""
    backoff = Backoff(_Most(), first_s=1, cap_s=100, healthy_s=30)
    assert [backoff.failed(t) for t in (0, 1, 3)] == [1, 2, 4]
    backoff.started(10)
    assert backoff.failed(12) == 8
    backoff.started(20)
    backoff.started(45)
    assert backoff.failed(50) == 1
    assert backoff.failures == 1


def test_nonsense_limits_are_refused():
    """A cap below the first delay is a programming error."""
    with pytest.raises(ValueError, match="first_s"):
        Backoff(random.Random(0), first_s=5, cap_s=1)
