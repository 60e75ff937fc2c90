"""Near-duplicate pictures: what is reused, what never is, and that the stream alone decides."""

import numpy as np
import pytest

from agent.records import Finding, View
from agent.settings.runtime import SimilarConfig
from agent.similar import Answer, Similar
from pipelines.thumbnail import distance, thumbnail

FPS = 10.0
GREY = np.full((96, 128, 3), 90, np.uint8)
THING = (Finding("thing", 0.9, (10.0, 10.0, 40.0, 40.0)),)


class Fixed:
    """A threshold that learns nothing, to test the limits beside it; notes what it was told."""

    error_bound = 0.0

    def __init__(self, threshold=4.0):
        self.threshold = threshold
        self.learnt = []

    def learn(self, distance, differed):
        self.learnt.append((distance, differed))


class Stream:
    """One stream's cache, and a model that sees what the test says."""

    def __init__(self, threshold=4.0, seed="seed", **config):
        self.fixed = Fixed(threshold)
        self.similar = Similar(SimilarConfig(enabled=True, **config), 0.5, seed, self.fixed)
        self.n = 0

    def look(self, picture=GREY, findings=THING, t_s=None, **more):
        """The findings that were told for it, and whether they were reused."""
        t_s = self.n / FPS if t_s is None else t_s
        self.n += 1
        view = View(picture, t_s, t_s, size=picture.shape[1::-1], **more)
        known = self.similar.ask(view)
        if known is None:
            self.similar.keep(Answer(findings, {}, view, f"{self.n}", 5.0))
        return (known.findings, True) if known else (findings, False)

    def used(self, count, *args, **more):
        return [self.look(*args, **more)[1] for _ in range(count)]


# ---- the thumbnail


@pytest.mark.parametrize("shape", [(480, 640, 3), (480, 640), (1080, 1920, 3), (96, 96, 3), (5, 28, 28, 3), (9, 90, 4)])
def test_a_thing_anywhere_in_the_picture_is_seen(shape):
    """A bright patch of a tenth of the picture moves the thumbnail, wherever it lies, in any colour."""
    plain = np.full(shape, 60, np.uint8)
    flat = plain.reshape(-1, *shape[2:]) if len(shape) == 4 else plain
    height, width = flat.shape[:2]
    tall, wide = max(height // 10, 8), max(width // 10, 8)
    for top in range(0, height - tall + 1, tall):
        for left in range(0, width - wide + 1, wide):
            for channel in range(flat.shape[2] if flat.ndim == 3 else 1):
                changed = flat.copy()
                spot = changed[top : top + tall, left : left + wide]
                (spot[..., channel] if flat.ndim == 3 else spot)[...] = 255
                assert distance(thumbnail(plain), thumbnail(changed.reshape(shape))) > 20, (top, left, channel)


def test_noise_moves_a_thumbnail_less_than_a_thing_does():
    """A noise of five grey levels stays below 16, a thing that differs by forty is above 25."""
    chance = np.random.default_rng(1)

    def noisy(picture):
        return np.clip(picture + chance.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)

    plain = np.full((480, 640, 3), 100, np.uint8)
    thing = plain.copy()
    thing[200:248, 300:348] += 40
    apart = [distance(thumbnail(noisy(plain)), thumbnail(noisy(plain))) for _ in range(20)]
    beyond = [distance(thumbnail(noisy(plain)), thumbnail(noisy(thing))) for _ in range(20)]
    assert max(apart) < 16
    assert min(beyond) > 25


def test_what_is_no_picture_has_no_thumbnail():
    """Sound, floats and tiny pictures are never similar to anything."""
    for data in (np.zeros(16000, np.int16), np.zeros((96, 96, 3), np.float32), np.zeros((7, 90, 3), np.uint8)):
        assert thumbnail(data) is None


def test_a_thumbnail_does_not_look_into_the_camera_s_buffer():
    """A camera may write into its buffer again: what is compared is a copy."""
    picture = GREY.copy()
    made = thumbnail(picture)
    before = made.copy()
    picture[:] = 0
    assert (made == before).all()


# ---- what is never reused


def test_a_picture_like_the_last_one_is_answered_as_it_was():
    """The findings of the computed one come back, and what they cost is counted as saved."""
    stream = Stream(recheck_every=1000)
    assert stream.look() == (THING, False)
    assert stream.look(findings=()) == (THING, True)
    assert (stream.similar.counts.hits, stream.similar.counts.saved_ms) == (1, 5.0)


def test_a_picture_that_differs_is_computed():
    """Also when only a small place differs."""
    stream = Stream()
    stream.look()
    other = GREY.copy()
    other[40:50, 60:72] = 160
    assert stream.look(other)[1] is False


def test_an_answer_is_too_old_after_its_time():
    """`ttl_s` counts from the computed picture in stream seconds, however often it was reused meanwhile."""
    stream = Stream(ttl_s=1.0, recheck_every=1000)
    stream.look(t_s=5.0)
    assert [stream.look(t_s=t)[1] for t in (5.5, 6.0, 6.01, 6.5)] == [True, True, False, True]


def test_a_chain_ends():
    """After `chain` reused answers one is computed."""
    assert Stream(chain=3, recheck_every=1000).used(9) == [False, True, True, True, False, True, True, True, False]


def test_time_that_jumps_back_ends_it():
    """As in a recording that starts over."""
    stream = Stream(recheck_every=1000)
    stream.look(t_s=5.0)
    assert stream.look(t_s=4.9)[1] is False


def test_nothing_is_compared_beyond_a_gap_or_an_error():
    """`forget` is called at both: the next picture is computed."""
    stream = Stream(recheck_every=1000)
    stream.used(2)
    stream.similar.forget()
    assert stream.used(2) == [False, True]


@pytest.mark.parametrize("change", [{"scale": (2.0, 2.0)}, {"offset": (8.0, 0.0)}, {"cells": ((0.0, 0.0, 9.0, 9.0),)}])
def test_a_picture_of_another_place_is_computed(change):
    """The same pixels cut elsewhere from the camera's picture are other boxes."""
    stream = Stream(recheck_every=1000)
    stream.used(2)
    assert stream.look(**change)[1] is False


def test_a_picture_of_another_size_is_computed():
    """A camera that changes its resolution starts anew."""
    stream = Stream(recheck_every=1000)
    stream.used(2)
    assert stream.look(np.full((48, 64, 3), 90, np.uint8))[1] is False


def test_a_mask_that_is_painted_is_another_picture():
    """What was seen before a mask covered it is not told again."""
    stream = Stream(recheck_every=1000)
    stream.used(2)
    masked = GREY.copy()
    masked[:30, :30] = 0
    assert stream.look(masked, findings=())[0] == ()


def test_a_slow_change_does_not_drift():
    """Each step is small, but the reference is the last computed picture: after some steps one is computed."""
    stream = Stream(threshold=4.0, recheck_every=1000, ttl_s=1000.0)
    used = [stream.look(np.full_like(GREY, 60 + n))[1] for n in range(100)]
    assert used == [False, True, True, True, True] * 20


def test_findings_that_carry_times_are_not_reused():
    """An interval of another picture would be wrong."""
    stream = Stream(recheck_every=1000)
    assert stream.used(4, findings=(Finding("span", 0.9, interval=(0.0, 1.0)),)) == [False] * 4


# ---- rechecks


def test_one_of_every_stretch_is_rechecked():
    """In each stretch of ten pictures that could be answered exactly one is computed, at no fixed place."""
    stream = Stream(recheck_every=10, chain=1000, ttl_s=1000.0)
    stream.look()
    used = np.array(stream.used(2000)).reshape(200, 10)
    assert (used.sum(axis=1) == 9).all()
    places = used.argmin(axis=1)
    assert set(places) == set(range(10))
    assert np.bincount(places).max() < 40
    assert stream.similar.counts.rechecks == 200


def test_a_recheck_that_differs_makes_suspicious():
    """Then the next twenty pictures are all computed, so that it is known at once whether it was an exception."""
    stream = Stream(recheck_every=10, ttl_s=1000.0)
    stream.look()
    while stream.similar.counts.rechecks == 0:
        stream.look(findings=())
    used = stream.used(20, findings=())
    assert used == [False] * 20
    assert any(stream.used(3, findings=()))
    assert (stream.similar.counts.disagreements, stream.similar.counts.rechecks) == (1, 21)


def test_the_same_stream_is_answered_the_same():
    """Seed and pictures decide, nothing else: a recording replayed gives the same results."""
    chance = np.random.default_rng(3)
    pictures = [np.clip(GREY + chance.normal(0, 3, GREY.shape), 0, 255).astype(np.uint8) for _ in range(300)]
    one, two, other = Stream(8.0), Stream(8.0), Stream(8.0, "another")
    runs = [[stream.look(picture)[1] for picture in pictures] for stream in (one, two, other)]
    assert runs[0] == runs[1] != runs[2]
    assert 0 < sum(runs[0]) < 300


# ---- practice


def test_what_is_computed_anyway_is_practice():
    """Without a threshold every picture is compared with one up to ten pictures older, as reuse would have."""
    stream = Stream(threshold=-1.0, recheck_every=10)
    for n in range(21):
        stream.look(np.full_like(GREY, 60 + n))
    distances = [apart for apart, _ in stream.fixed.learnt]
    assert distances == [*range(1, 11), *range(1, 11)]


def test_practice_judges_what_reuse_would_have_told():
    """The older picture's findings stand against the newer one's."""
    stream = Stream(threshold=-1.0)
    stream.look(findings=())
    stream.look(findings=THING)
    stream.look(findings=())
    assert [differed for _, differed in stream.fixed.learnt] == [True, False]
