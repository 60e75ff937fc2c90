"""The front end for microcontrollers: whole-number arithmetic against plain formulas, and a stream in any pieces."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture import file_samples
from agent.clock import SystemClock
from agent.errors import ConfigError
from agent.records import Sample
from agent.views import views
from pipelines import make_step
from pipelines.fixed_point import bits, gain, gain_curve, log_scaled, real_fft, root
from pipelines.micro_frontend import MicroFrames
from tests.realdata import ROOT, case, inference, needed

RATE = 16_000


# ---- arithmetic


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**50))
def test_the_root_is_the_nearest_whole_number(x):
    """Halfway falls down: r^2 + r is still r."""
    low = math.isqrt(x)
    assert int(root(np.array([x]))[0]) == low + (x - low * low > low)


def test_bits_are_counted_exactly():
    """Around every power of two, where a logarithm of floats would slip."""
    powers = np.array([1 << n for n in range(1, 50)])
    assert bits(powers).tolist() == list(range(2, 51))
    assert bits(powers - 1).tolist() == list(range(1, 50))
    assert bits(np.array([0])).tolist() == [0]


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 2**31))
def test_the_logarithm_is_the_natural_one(x):
    """Within a unit of 1/64 of the real value; nothing at 1 and below."""
    assert abs(int(log_scaled(np.array([x]), 6)[0]) - 64 * math.log(x)) <= 1.0
    assert log_scaled(np.array([0, 1]), 6).tolist() == [0, 0]


def test_the_gain_follows_its_formula():
    """2^21 (x / 2^7 + 80)^-0.95, within 1 %, over the whole range of a noise estimate, and never rising."""
    x = np.unique(np.geomspace(1, 2**31, 400).astype(np.int64))
    made = gain(x, gain_curve(0.95, 80.0, 21, 7))
    wanted = 2**21 * (x / 2**7 + 80.0) ** -0.95
    assert np.abs(made - wanted).max() <= 0.01 * 32767
    assert (np.diff(made) <= 1).all()
    assert made[0] == math.floor(wanted[0] + 0.5)


@pytest.mark.parametrize("size", [128, 512])
def test_the_transform_is_the_fourier_transform(size):
    """Noise and a full-scale tone: within a few units, and 1 in 1,000, of the transform of real numbers."""
    rng = np.random.default_rng(0)
    tone = 30_000 * np.cos(2 * np.pi * 9 * np.arange(size) / size + 0.3)
    for signal in (rng.integers(-32768, 32768, size), tone.astype(np.int64), np.zeros(size, np.int64)):
        re, im = real_fft(signal)
        exact = np.fft.rfft(signal) / size
        assert (np.abs(re - exact.real) < 6 + 1e-3 * np.abs(exact)).all()
        assert (np.abs(im - exact.imag) < 6 + 1e-3 * np.abs(exact)).all()
    several = rng.integers(-1000, 1000, (3, size))
    for row, (re, im) in zip(several, zip(*real_fft(several), strict=True), strict=True):
        assert (re.tolist(), im.tolist()) == tuple(part.tolist() for part in real_fft(row))


# ---- the window


def _window(**keys):
    return make_step("window", {"step": "micro_frames", "frames": 10, **keys}, "a test")


def _run(window, signal, cuts=(), gaps=(), start=0):
    edges = [0, *sorted(cuts), len(signal)]
    state, made = window.initial(), []
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        sample = Sample("mic", i, (start + a) / RATE, 0, 0, "audio", signal[a:b], rate_hz=RATE, gap=i in gaps)
        state, ready = window(state, sample)
        made += ready
    return made


def _noise(seconds, seed=3, height=2000):
    return np.random.default_rng(seed).normal(0, height, int(seconds * RATE)).clip(-32768, 32767).astype(np.int16)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 8000), max_size=8), st.sampled_from([1, 3, 10]))
def test_features_do_not_depend_on_how_the_stream_is_cut(cuts, hop):
    """Same numbers, same times, whatever the chunks, the noise estimate included."""
    window, signal = _window(hop_frames=hop), _noise(0.5)
    whole, pieces = _run(window, signal), _run(window, signal, cuts)
    assert len(whole) == len(pieces) == (24 - 10) // hop + 1
    for n, (a, b) in enumerate(zip(whole, pieces, strict=True)):
        assert np.array_equal(a.data, b.data)
        assert a.t0_s == pytest.approx(b.t0_s) == pytest.approx(n * hop * 0.02)
        assert b.t1_s - b.t0_s == pytest.approx((9 * 320 + 480) / RATE)
        assert not b.data.flags.writeable


def test_a_gap_starts_anew_and_says_so():
    """The view behind a loss is that of a stream that begins there."""
    signal = _noise(1.0)
    views_ = _run(_window(hop_frames=10), signal, cuts=[8000], gaps=(1,), start=160)
    alone = _run(_window(hop_frames=10), signal[8000:])
    assert [view.gap for view in views_] == [False, False, True, False]
    assert np.array_equal(views_[2].data, alone[0].data)
    assert views_[2].t0_s == pytest.approx(8160 / RATE)


def test_silence_is_zero_and_a_short_sound_is_no_view():
    """Digital silence has no features; less than a view gives none."""
    (view,) = _run(_window(), np.zeros(9 * 320 + 480, np.int16))
    assert view.data.dtype == np.float32
    assert view.data.shape == (10, 40)
    assert not view.data.any()
    assert _run(_window(levels="int8"), np.zeros(9 * 320 + 480, np.int16))[0].data.max() == -128
    assert _run(_window(), np.zeros(9 * 320 + 479, np.int16)) == []
    assert _run(_window(), np.zeros(0, np.int16)) == []


def test_a_tone_lies_in_its_band_and_steady_noise_fades():
    """1 kHz is loudest in the band around it; what does not change is taken for noise after a while."""
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)).astype(np.int16)
    mel = [1127 * math.log1p(hz / 700) for hz in (125, 1000, 7500)]
    band = (mel[1] - mel[0]) / ((mel[2] - mel[0]) / 41) - 1
    (view,) = _run(_window(frames=49), tone)
    assert abs(int(view.data[0].argmax()) - band) <= 1
    (steady,) = _run(_window(frames=249), _noise(5.0))
    assert steady.data[-20:].mean() < steady.data[:5].mean() - 1


def test_features_are_real_numbers_or_levels():
    """int8 levels are the same numbers in steps of 666 / 256 / 25.6, as micro_speech rounds them."""
    real = _run(_window(), _noise(0.3))[0].data.astype(np.float64)
    levels = _run(_window(levels="int8"), _noise(0.3))[0].data
    assert np.abs((levels.astype(int) + 128) - np.clip(real * 25.6 * 256 / 666, 0, 255)).max() <= 1


def test_wrong_settings_and_streams_are_refused_in_words():
    """What does not fit is said with both sides."""
    for keys, words in (
        ({"hop_frames": 11}, "'hop_frames': 11 is more than frames = 10"),
        ({"frame_step": 481}, "'frame_step': 481"),
        ({"upper_band_limit_hz": 9000}, "not above half the rate"),
    ):
        with pytest.raises(ConfigError, match=words):
            _window(**keys)
    window = _window()
    with pytest.raises(ConfigError, match="44100 Hz"):
        window(window.initial(), Sample("mic", 0, 0, 0, 0, "audio", np.zeros(9, np.int16), rate_hz=44_100))


# ---- recorded features and answers


@needed
def test_features_are_those_that_the_microcontroller_made():
    """o05: four recordings, 7,840 recorded numbers, at least 995 in 1,000 bit for bit, the mean distance below 0.05."""
    window = MicroFrames(frames=49, levels="int8")
    apart = []
    for file in case("o05-micro-speech-int8")["expected"]:
        (signal,) = [np.concatenate([s.data for s in file_samples(_wav(file), "audio", SystemClock())])]
        (view,) = _run(window, signal)
        apart.append(np.abs(view.data.astype(int) - np.load(ROOT / file).reshape(49, 40)))
    assert np.mean(np.array(apart) == 0) >= 0.995
    assert np.mean(apart) < 0.05


def _wav(features):
    return ROOT / features.replace("features_int8.npy", "1000ms.wav")


@needed
def test_yes_and_no_are_read_from_raw_sound():
    """o05 from the recordings themselves: the recorded raw outputs, within the recorded tolerance."""
    infer = inference("micro-speech-sound")
    for file, expected in case("o05-micro-speech-int8")["expected"].items():
        infer.reset()
        (inferred,) = [infer(view) for view in views(infer.manifest, _wav(file))]
        raw = inferred.outputs["labels_softmax"].reshape(-1).astype(int)
        assert inferred.findings[0].label == expected["label"], file
        assert np.abs(raw - expected["int8_out_ref"]).max() <= expected["tol"], file
    infer.runner.close()
