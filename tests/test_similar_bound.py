"""The bound on wrong reused answers: its arithmetic, and that simulated streams of known error keep to it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.records import Finding, View
from agent.settings.runtime import SimilarConfig
from agent.similar import Answer, Evidence, Judge, Similar, upper_bound

MOST = 0.01


def tail(bad, total, share):
    """P(at most `bad` of `total`) of a fair draw with `share`."""
    return sum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(bad + 1))


# ---- arithmetic


@given(st.integers(0, 20), st.integers(1, 900))
def test_the_bound_is_one(bad, total):
    """Were the true share as large as the bound, so few would be seen in at most one of twenty streams."""
    bad = min(bad, total)
    bound = upper_bound(bad, total)
    assert bad / total <= bound <= 1.0
    assert bad == total or tail(bad, total, bound) <= 0.05 + 1e-6


@given(st.integers(1, 5000))
def test_without_a_difference_it_is_clopper_and_pearson_s(total):
    """1 - 0.05 ** (1 / n): 299 comparisons show less than one in a hundred."""
    assert upper_bound(0, total) == pytest.approx(1 - 0.05 ** (1 / total), rel=1e-6)
    assert (upper_bound(0, total) <= MOST) == (total >= 299)


@given(st.floats(0, 50), st.floats(0, 50), st.floats(60, 4000))
def test_more_differences_never_make_it_smaller(bad, more, total):
    """Also for counts that have faded and are no whole numbers."""
    assert upper_bound(min(bad, total), total) <= upper_bound(min(bad + more, total), total) + 1e-9


comparisons = st.lists(st.tuples(st.floats(0, 60), st.booleans()), max_size=400)


@given(comparisons, st.floats(0, 24))
def test_a_difference_never_widens_what_is_reused(seen, apart):
    """Whatever was learnt before, the threshold after a difference is at most what it was."""
    evidence = Evidence(0.1, 24.0)
    for distance, differed in seen:
        evidence.learn(distance, differed)
    before = evidence.threshold
    evidence.learn(apart, True)
    assert evidence.threshold <= before
    assert evidence.threshold <= 24.0
    assert evidence.threshold < 0 or evidence.error_bound <= 0.1 + 1e-9


@given(comparisons)
def test_only_what_was_seen_is_proved(seen):
    """The threshold is never beyond the half octave of the largest distance that was compared."""
    evidence = Evidence(0.1, 24.0)
    for distance, _ in seen:
        evidence.learn(distance, False)
    largest = max((distance for distance, _ in seen if distance <= 24.0), default=0.0)
    assert evidence.threshold <= max(largest * math.sqrt(2) * 1.0001, 0.5)
    assert evidence.threshold < 0 or len(seen) >= 29


def test_many_equal_pictures_do_not_pay_for_few_others():
    """One of 60 that lie far apart differs: 0.1 % of all, which would be proof enough; and yet so far is no reuse."""
    evidence = Evidence(MOST, 24.0)
    for n in range(960):
        evidence.learn(16.0 if n % 16 == 0 else 4.0, n == 800)
    assert upper_bound(1, 600) < MOST
    assert 4.0 <= evidence.threshold < 16.0


def test_what_was_is_forgotten():
    """A distance that proved bad is taken again once it has long been good."""
    evidence = Evidence(MOST, 24.0)
    for n in range(1000):
        evidence.learn(4.0, n % 10 == 0)
    assert evidence.threshold < 0
    for _ in range(5000):
        evidence.learn(4.0, False)
    assert evidence.threshold >= 4.0


# ---- confidence


@pytest.mark.parametrize("share", [MOST, 2 * MOST])
def test_a_stream_that_is_too_bad_is_hardly_ever_believed(share):
    """Streams whose true error is the target or more: at most one of twenty is believed even once in 1,500 looks."""
    believed = 0
    for seed in range(40):
        evidence = Evidence(MOST, 24.0)
        differed = np.random.default_rng(seed).random(1500) < share
        believed += any(_believes(evidence, bool(one)) for one in differed)
    assert believed <= 5  # 95 % of binomial(40, 0.05) is at most 5


def _believes(evidence, differed):
    evidence.learn(4.0, differed)
    return evidence.threshold >= 4.0


class Life:
    """A stream of tiny pictures whose levels jump about, and a model that sees an odd thing now and then."""

    def __init__(self, seed, **config):
        self.similar = Similar(SimilarConfig(enabled=True, chain=1000, ttl_s=1e6, **config), 0.0, str(seed))
        self.chance = np.random.default_rng(seed)
        self.wrong = self.reused = self.views = 0

    def go_on(self, count, odd_share, near=4):
        """`count` pictures up to `near` grey levels apart, of which `odd_share` are seen as something else."""
        levels = self.chance.integers(0, near + 1, count)
        for level, odd in zip(levels, self.chance.random(count) < odd_share, strict=True):
            truth = (Finding("odd" if odd else "thing", 1.0),)
            view = View(np.full((8, 8), 100 + level, np.uint8), self.views / 10, self.views / 10, size=(8, 8))
            self.views += 1
            known = self.similar.ask(view)
            if known is None:
                self.similar.keep(Answer(truth, {}, view, "", 1.0))
            else:
                self.reused += 1
                self.wrong += known.findings != truth
        return self


@pytest.mark.parametrize("odd_share", [0.0, 0.0005, 0.002, 0.005, 0.02, 0.2])
def test_the_real_error_stays_under_the_target(odd_share):
    """Of all that ten streams are told, at most one answer in a hundred is wrong, whatever the model does."""
    lives = [Life(seed).go_on(5000, odd_share) for seed in range(10)]
    assert sum(life.wrong for life in lives) <= MOST * sum(life.views for life in lives)
    assert sum(life.wrong > 1.5 * MOST * life.views for life in lives) == 0
    if odd_share <= 0.0005:
        assert sum(life.reused for life in lives) > 0.6 * sum(life.views for life in lives)


def test_a_scene_that_turns_bad_is_left_quickly():
    """After 5,000 good pictures every fifth is odd: of the next 3,000 at most one in fifty is told wrongly."""
    for seed in range(5):
        life = Life(seed).go_on(5000, 0.0)
        assert life.reused > 4000
        before = life.wrong, life.views
        life.go_on(3000, 0.2)
        assert life.wrong - before[0] <= 0.02 * (life.views - before[1])
        assert life.similar.counts.threshold < 0


def test_the_counts_bound_the_real_error():
    """In nineteen of twenty streams the bound that is shown is above the share that was really wrong."""
    below = 0
    for seed in range(20):
        life = Life(seed).go_on(4000, 0.001)
        counts = life.similar.counts
        assert counts.hits == life.reused
        below += life.reused > 0 and life.wrong / life.reused > counts.recheck_bound
    assert below <= 3  # 95 % of binomial(20, 0.05) is at most 3


# ---- the judge


JUDGE = Judge(score_band=0.15, min_iou=0.5, value_band=0.05, floor=0.5)
BOX = (10.0, 10.0, 50.0, 50.0)


@pytest.mark.parametrize(("one", "other", "differ"), [
    ([], [], False),
    ([Finding("a", 0.9, BOX)], [Finding("a", 0.9, BOX)], False),
    ([Finding("a", 0.9, BOX)], [Finding("a", 0.76, BOX)], False),
    ([Finding("a", 0.9, BOX)], [Finding("a", 0.7, BOX)], True),
    ([Finding("a", 0.9, BOX)], [], True),
    ([Finding("a", 0.6, BOX)], [], False),
    ([], [Finding("a", 0.9, BOX)], True),
    ([Finding("a", 0.9, BOX)], [Finding("b", 0.9, BOX)], True),
    ([Finding("a", 0.9, BOX)], [Finding("a", 0.9, (20.0, 10.0, 60.0, 50.0))], False),
    ([Finding("a", 0.9, BOX)], [Finding("a", 0.9, (30.0, 10.0, 70.0, 50.0))], True),
    ([Finding("a", 0.9, BOX)] * 2, [Finding("a", 0.9, BOX)], True),
    ([Finding("7", 0.9, value=7.0)], [Finding("7", 0.9, value=7.2)], False),
    ([Finding("7", 0.9, value=7.0)], [Finding("7", 0.9, value=8.0)], True),
    ([Finding("7", 0.9, value="07")], [Finding("7", 0.9, value="7")], True),
    ([Finding("a", 0.9), Finding("b", 0.6)], [Finding("b", 0.6), Finding("a", 0.85)], False),
])  # fmt: skip
def test_what_counts_as_a_difference(one, other, differ):
    """Labels, how many, scores beyond the band, boxes that hardly overlap, values; and the same both ways round."""
    assert JUDGE.differ(one, other) is differ
    assert JUDGE.differ(other, one) is differ


def test_each_box_has_one_like():
    """Two things side by side are paired with the boxes that fit them best."""
    left, right = (0.0, 0.0, 40.0, 40.0), (30.0, 0.0, 70.0, 40.0)
    pair = [Finding("a", 0.9, left), Finding("a", 0.9, right)]
    assert not JUDGE.differ(pair, pair[::-1])
    assert JUDGE.differ(pair, [pair[0], pair[0]])
