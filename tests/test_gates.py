"""Gates: noise and slow light do not pass, things that move or change do, in stream time."""

import time

import cv2
import numpy as np
import pytest

from agent.errors import ConfigError, ModelError
from agent.records import View
from pipelines import make_step


def _gate(step, **keys):
    return make_step("gate", {"step": step, **keys}, "a test")


def _scene(width=320, height=240, seed=3):
    """A still scene with edges, surfaces and texture, uint8 BGR."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 90, np.uint8)
    for _ in range(40):
        x, y = rng.integers(0, width), rng.integers(0, height)
        size = rng.integers(5, 80, 2)
        colour = [int(c) for c in rng.integers(20, 200, 3)]
        cv2.rectangle(image, (int(x), int(y)), (int(x + size[0]), int(y + size[1])), colour, -1)
    return cv2.GaussianBlur(image, (5, 5), 0)


NOISE = np.random.default_rng(0).standard_normal((260, 340, 3), np.float32)


def _noisy(image, rng, sigma=6.0, gain=1.0, offset=0.0):
    """Sensor noise cut at a random place out of a larger field: drawing it anew would take most of the test's time."""
    y, x = rng.integers(0, 20, 2)
    seen = image * np.float32(gain) + np.float32(offset) + np.float32(sigma) * NOISE[y : y + 240, x : x + 320]
    return seen.clip(0, 255).astype(np.uint8)


def _with_person(image, x):
    image = image.copy()
    cv2.ellipse(image, (int(x), 150), (14, 50), 0, 0, 360, (40, 45, 60), -1)
    cv2.circle(image, (int(x), 90), 11, (140, 160, 200), -1)
    return image


def _passes(gate, frames, fps=10.0, start_s=0.0):
    state, passed = gate.initial(), []
    for i, frame in enumerate(frames):
        state, passes = gate(state, View(frame, t0_s=start_s + i / fps))
        passed.append(passes)
    return passed


IMAGE_GATES = [("change", {}), ("motion", {}), ("change", {"sampling": "nearest", "level": 40}),
               ("motion", {"sampling": "nearest", "level": 40})]  # fmt: skip


@pytest.mark.parametrize(("step", "keys"), IMAGE_GATES)
def test_noise_alone_never_passes(step, keys):
    """A minute of sensor noise (sigma 6 of 255) before a still scene: only the first view passes."""
    rng, scene = np.random.default_rng(1), _scene()
    assert sum(_passes(_gate(step, **keys), (_noisy(scene, rng) for _ in range(600)))) == 1


@pytest.mark.parametrize(("step", "keys"), IMAGE_GATES[:2])
def test_slow_light_never_passes(step, keys):
    """Dusk and clouds: the light falls to 60 % and swings by 10 % more over a minute."""
    rng, scene = np.random.default_rng(2), _scene()
    light = (1.0 - 0.4 * i / 600 + 0.1 * np.sin(i / 25) for i in range(600))
    frames = (_noisy(scene, rng, 4.0, gain, -3.0) for gain in light)
    assert sum(_passes(_gate(step, **keys), frames)) == 1


@pytest.mark.parametrize(("step", "keys"), IMAGE_GATES)
def test_a_person_passing_by_is_seen(step, keys):
    """Someone crosses the picture in 4 s: most of those frames pass, and all in the middle of the walk."""
    rng, scene = np.random.default_rng(3), _scene()
    walk = [_with_person(scene, x) for x in np.linspace(-20, 340, 40)]
    passed = _passes(_gate(step, **keys), (_noisy(f, rng) for f in [scene] * 50 + walk + [scene] * 50))
    assert not any(passed[1:50])
    assert any(passed[50:58])
    assert sum(passed[55:85]) >= 20


def test_motion_is_seen_six_times_for_six_visits():
    """In and out six times: six runs of passing views, held together by `hold_s`, and quiet between them."""
    rng, scene = np.random.default_rng(4), _scene()
    visit = [_with_person(scene, x) for x in np.linspace(-20, 340, 30)]
    frames = [scene] * 60 + (visit + [scene] * 60) * 6
    passed = _passes(_gate("motion", hold_s=1.5), (_noisy(f, rng) for f in frames))
    starts = [i for i in range(1, len(passed)) if passed[i] and not passed[i - 1]]
    assert len(starts) == 6
    assert all(not any(passed[60 + 90 * k + 30 + 25 : 60 + 90 * (k + 1)]) for k in range(6))


def test_motion_sees_someone_who_stands_still_and_forgets_a_parked_car():
    """What stays is seen for four times `adapt_s`, and is part of the scene within minutes."""
    scene = _scene()
    car = scene.copy()
    cv2.rectangle(car, (100, 120), (200, 180), (30, 30, 160), -1)
    passed = _passes(_gate("motion", adapt_s=5.0, hold_s=0), [scene] * 20 + [car] * 3000)
    assert all(passed[20:220])
    assert not any(passed[-100:])


def test_motion_learns_that_leaves_wave():
    """A waving branch passes at first and no more after a while; a person in front of it still does."""
    rng, scene = np.random.default_rng(5), _scene()

    def waving(image, i):
        image = image.copy()
        cv2.ellipse(image, (60 + int(8 * np.sin(i / 2.0)), 60), (30, 18), 0, 0, 360, (60, 120, 70), -1)
        return image

    frames = [waving(scene, i) for i in range(1200)] + [waving(_with_person(scene, 200), i) for i in range(20)]
    passed = _passes(_gate("motion", hold_s=0), (_noisy(f, rng, 3.0) for f in frames))
    assert sum(passed[1:100]) > 5
    assert sum(passed[900:1200]) == 0
    assert sum(passed[1201:]) >= 18


def test_motion_passes_once_when_the_light_is_switched():
    """A lamp in one corner changes most of the picture: one view passes, the next scene is learnt at once."""
    dark = _scene(seed=6)
    lit = (255 - _scene(seed=7)).astype(np.uint8)
    passed = _passes(_gate("motion", hold_s=0), [dark] * 30 + [lit] * 100)
    assert passed[30]
    assert not any(passed[31:])


def test_change_compares_with_the_last_view_that_passed():
    """Many small steps add up: a hand that creeps over a dial passes again and again, not never."""
    scene = _scene()
    frames = []
    for i in range(200):
        frame = scene.copy()
        cv2.rectangle(frame, (50 + i // 5, 100), (70 + i // 5, 160), (250, 250, 250), -1)
        frames.append(frame)
    passed = _passes(_gate("change"), frames)
    assert 8 <= sum(passed) <= 40


def test_change_sees_one_digit_of_a_meter():
    """A digit of 10 x 14 pixels in a picture of 320 x 240 turns from 3 to 8."""
    rng, scene = np.random.default_rng(7), _scene()
    scene[100:140, 100:180] = 230
    three, eight = scene.copy(), scene.copy()
    cv2.putText(three, "3", (130, 130), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (10, 10, 10), 2)
    cv2.putText(eight, "8", (130, 130), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (10, 10, 10), 2)
    gate = _gate("change", level=10, share=0.0006)
    passed = _passes(gate, (_noisy(f, rng, 2.0) for f in [three] * 30 + [eight] * 30))
    assert [i for i, p in enumerate(passed) if p] == [0, 30]


def test_change_refreshes():
    """With `refresh_s` a still scene passes now and then, so that silence is not mistaken for rest."""
    passed = _passes(_gate("change", refresh_s=5.0), [_scene()] * 200)
    assert [i for i, p in enumerate(passed) if p] == [0, 50, 100, 150]


def test_image_gates_take_grey_pictures_and_small_ones():
    """A thermal camera of 32 x 24 grey pixels is a camera too."""
    grey = cv2.resize(_scene()[:, :, 0], (32, 24))
    moved = grey.copy()
    moved[8:16, 8:16] = 255
    for step in ("change", "motion"):
        assert _passes(_gate(step), [grey, grey, moved]) == [True, False, True]


def test_image_gates_start_afresh_when_the_recording_starts_over():
    """Stream time that jumps back is a new stream."""
    for step in ("change", "motion"):
        gate = _gate(step)
        state, _ = gate(gate.initial(), View(_scene(), t0_s=100.0))
        assert gate(state, View(_scene(), t0_s=100.1))[1] is False
        assert gate(state, View(_scene(), t0_s=0.0))[1] is True


def test_image_gates_refuse_sound():
    """A gate that gets no picture says so."""
    for step in ("change", "motion"):
        with pytest.raises(ModelError, match=f"'{step}' takes a picture"):
            _gate(step)(None, View(np.zeros(1600, np.int16)))


def test_gates_share_nothing_between_streams():
    """The gate is configuration: two streams through one gate do not see each other."""
    gate, scene = _gate("motion"), _scene()
    other = (255 - scene).astype(np.uint8)
    a, b = gate.initial(), gate.initial()
    for i in range(20):
        a, passes_a = gate(a, View(scene, t0_s=i / 10))
        b, passes_b = gate(b, View(other, t0_s=i / 10))
        assert passes_a is passes_b is (i == 0)


def test_interval_keeps_its_mean_rate():
    """30 frames a second, one view every 0.7 s: the grid holds over ten minutes although no frame falls on it."""
    passed = _passes(_gate("interval", every_s=0.7), (np.zeros(1) for _ in range(18_000)), fps=30.0)
    assert sum(passed) == pytest.approx(600 / 0.7, abs=1)
    times = [i / 30 for i, p in enumerate(passed) if p]
    assert max(np.diff(times)) <= 0.7 + 1 / 30 + 1e-9


def test_interval_meets_frames_that_fall_on_the_grid():
    """Float seconds do not make it miss a frame that is due: every 0.1 s of 10 frames a second is every frame."""
    assert all(_passes(_gate("interval", every_s=0.1), (np.zeros(1) for _ in range(1000)), fps=10.0))


def test_interval_makes_no_burst_after_a_pause():
    """After an hour of nothing one view passes, and the next is due a whole interval later."""
    gate = _gate("interval", every_s=10)
    state, passes = gate(gate.initial(), View(np.zeros(1), t0_s=0.0))
    seen = []
    for t_s in (5.0, 3600.0, 3601.0, 3609.9, 3610.0, 3611.0):
        state, passes = gate(state, View(np.zeros(1), t0_s=t_s))
        seen.append(passes)
    assert seen == [False, True, False, False, True, False]


def test_interval_starts_afresh_when_time_jumps_back():
    """A looped recording does not silence the gate."""
    gate = _gate("interval", every_s=10)
    state, _ = gate(gate.initial(), View(np.zeros(1), t0_s=5000.0))
    assert gate(state, View(np.zeros(1), t0_s=0.0))[1] is True


@pytest.mark.parametrize("keys", [{"every_s": 0}, {"every_s": -1}, {}, {"every_s": float("inf")}])
def test_interval_refuses_what_is_no_interval(keys):
    """Zero, negative, endless and missing intervals are named when the file is read."""
    with pytest.raises(ConfigError, match="every_s"):
        _gate("interval", **keys)


def test_image_gates_are_cheap_beside_a_model():
    """Well under 5 ms on a 640 x 480 picture, on a slow shared machine."""
    scene = _scene(640, 480)
    for step in ("change", "motion"):
        gate = _gate(step)
        state, _ = gate(gate.initial(), View(scene))
        took_s = []
        for i in range(30):
            start = time.perf_counter()
            state, _ = gate(state, View(scene, t0_s=i / 10))
            took_s.append(time.perf_counter() - start)
        assert sorted(took_s)[5] < 0.005
