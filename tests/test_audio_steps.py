"""Audio steps: windows count samples and never span a gap, front ends are the textbook's, the gate hears in dBFS."""

import cmath
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError, ModelError
from agent.records import Sample, View
from pipelines import make_step
from pipelines.audio import level_dbfs
from pipelines.mel import cosines, mel_weights, taper

RATE = 16_000
SPEECH = {"frame_length": 400, "frame_step": 160, "fft_length": 512, "mel_bins": 40, "f_min_hz": 20, "f_max_hz": 7600}


def _step(kind, step, **keys):
    return make_step(kind, {"step": step, **keys}, "a test")


def _noise(size, seed=0, height=3000):
    return np.random.default_rng(seed).normal(0, height, size).clip(-32768, 32767).astype(np.int16)


def _tone(hz, size=RATE, height=10_000.0):
    return (height * np.sin(2 * np.pi * hz * np.arange(size) / RATE)).astype(np.int16)


def _view(samples, t0_s=0.0):
    return View(samples, t0_s, t0_s + len(samples) / RATE, float(RATE))


def _samples(signal, cuts, start=0, gaps=()):
    """`signal` cut at `cuts` into samples; `gaps` numbers the ones that say something is missing before them."""
    edges = [0, *sorted(cuts), len(signal)]
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        yield Sample("mic", i, (start + a) / RATE, 0, 0, "audio", signal[a:b], rate_hz=RATE, gap=i in gaps)


def _run(window, samples):
    state, views = window.initial(), []
    for sample in samples:
        state, more = window(state, sample)
        views += more
    return state, views


# ---- the window `frames`


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=12), st.sampled_from([(800, 320), (512, 512), (300, 700), (576, 512)]))
def test_frames_do_not_depend_on_how_the_stream_is_cut(cuts, sizes):
    """However the source chops its stream, the views hold the same samples at the same times."""
    length, hop = sizes
    signal = _noise(5000)
    window = _step("window", "frames", length_s=length / RATE, hop_s=hop / RATE)
    _, views = _run(window, _samples(signal, cuts, start=160))
    starts = range(0, 5000 - length + 1, hop)
    assert len(views) == len(starts)
    for view, at in zip(views, starts, strict=True):
        assert np.array_equal(view.data, signal[at : at + length])
        assert view.t0_s == pytest.approx((160 + at) / RATE, abs=1e-9)
        assert view.t1_s - view.t0_s == pytest.approx(length / RATE)
        assert not view.data.flags.writeable


@pytest.mark.parametrize("way", ["flag", "seq"])
def test_no_view_spans_a_gap(way):
    """A gap flag, and a seq that jumps because an inbox dropped samples, both start a new window, and say so once."""
    signal = _noise(4000)
    parts = list(_samples(signal, [1000], gaps=(1,) if way == "flag" else ()))
    if way == "seq":
        parts[1] = Sample("mic", 5, parts[1].t_s, 0, 0, "audio", parts[1].data, rate_hz=RATE)
    _, views = _run(_step("window", "frames", length_s=0.05, hop_s=0.025), parts)
    assert [round(v.t0_s * RATE) for v in views] == [0, *range(1000, 3201, 400)]
    assert [v.gap for v in views] == [False, True] + [False] * (len(views) - 2)


def test_lead_puts_silence_in_front():
    """A model that looks back 64 samples gets zeros before the first, and the stream's own samples later."""
    signal = _noise(2000)
    window = _step("window", "frames", length_s=576 / RATE, hop_s=512 / RATE, lead_s=64 / RATE)
    _, views = _run(window, _samples(signal, [700]))
    assert not views[0].data[:64].any()
    assert np.array_equal(views[0].data[64:], signal[:512])
    assert np.array_equal(views[1].data, signal[448:1024])
    assert views[0].t0_s == pytest.approx(-64 / RATE)


def test_frames_refuses_fractions_of_samples_and_foreign_streams():
    """Lengths are whole samples; another rate or a picture is refused with what to do."""
    with pytest.raises(ConfigError, match="whole number of samples"):
        _step("window", "frames", length_s=0.01001, hop_s=0.01)
    window = _step("window", "frames", length_s=1.0, hop_s=0.5)
    with pytest.raises(ConfigError, match=r"48000 Hz.*set the source's rate_hz"):
        window(window.initial(), Sample("mic", 0, 0, 0, 0, "audio", _noise(10), rate_hz=48_000))
    with pytest.raises(ConfigError, match="mono audio"):
        window(window.initial(), Sample("cam", 0, 0, 0, 0, "image", np.zeros((4, 4), np.uint8)))


# ---- front ends against plain formulas


def _plain_mel(signal, magnitude, hz_slope):
    """Log-mel of one float signal by the textbook, in loops, no FFT of the code under test."""
    c = {**SPEECH, "bins": 257}
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)]
    mel = lambda f: 1127.01048 * math.log(1 + f / 700)  # noqa: E731
    low, high = mel(c["f_min_hz"]), mel(c["f_max_hz"])
    edges = [low + (high - low) * i / 41 for i in range(42)]
    inverse = [700 * (math.exp(m / 1127.01048) - 1) for m in edges]
    rows = []
    for start in range(0, len(signal) - 399, 160):
        spectrum = []
        for k in range(257):
            turn = cmath.exp(-2j * math.pi * k / 512)
            value, unit = 0j, 1 + 0j
            for n in range(400):
                value += signal[start + n] * hann[n] * unit
                unit *= turn
            spectrum.append(abs(value) if magnitude else abs(value) ** 2)
        row = []
        for b in range(40):
            total = 0.0
            left, top, right = (inverse if hz_slope else edges)[b : b + 3]
            for k in range(257):
                x = k * RATE / 512 if hz_slope else mel(k * RATE / 512)
                total += spectrum[k] * max(0.0, min((x - left) / (top - left), (right - x) / (right - top)))
            row.append(math.log(total + 1e-6))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(("spectrum", "slope"), [("magnitude", "mel"), ("power", "hz")])
def test_log_mel_is_the_textbook_formula(spectrum, slope):
    """The vectorised front end gives what loops over the definitions give."""
    signal = _noise(720, height=4000)
    expected = _plain_mel(signal / 32768, spectrum == "magnitude", slope == "hz")
    step = _step("pre", "log_mel", **SPEECH, spectrum=spectrum, mel_slope=slope, log_offset=1e-6)
    got = step(_view(signal)).data
    assert got.dtype == np.float32
    assert got.shape == (3, 40)
    assert np.abs(got - expected).max() < 2e-3


def test_mfcc_is_the_cosine_transform_of_log_mel():
    """Each coefficient is sqrt(2/N) sum x cos(pi k (n + 1/2) / N); ortho and none differ by their factors only."""
    signal = _noise(1600)
    mel = _step("pre", "log_mel", **SPEECH)(_view(signal)).data.astype(float)
    angle = [[math.pi * k * (n + 0.5) / 40 for n in range(40)] for k in range(13)]
    expected = np.array([[sum(row[n] * math.cos(a[n]) for n in range(40)) for a in angle] for row in mel])
    for norm, factor in (("htk", math.sqrt(2 / 40)), ("none", 2.0)):
        got = _step("pre", "mfcc", **SPEECH, coefficients=13, dct_norm=norm)(_view(signal)).data
        assert np.allclose(got, expected * factor, atol=1e-3)
    square = cosines(40, 40, "ortho").astype(float)
    assert np.allclose(square.T @ square, np.eye(40), atol=1e-5)
    assert cosines(40, 13, "htk", 22.0)[0, 11] == pytest.approx(cosines(40, 13, "htk")[0, 11] * 12, rel=1e-5)


def test_scales_have_their_published_values():
    """1000 Hz is 1000 mel (HTK) and 15 mel (Slaney, whose bands are straight below and end at equal areas)."""
    htk = mel_weights(RATE, 16_000, 1, (0.0, 3429.0), slope="mel")
    assert abs(int(htk[:, 0].argmax()) - 1000) <= 1  # 3428.7 Hz is 2000 mel: the only triangle peaks half-way up
    slaney = mel_weights(RATE, 16_000, 14, (0.0, 1000.0), scale="slaney", slope="hz", norm="slaney")
    assert slaney.argmax(axis=0).tolist() == pytest.approx([1000 * (i + 1) / 15 for i in range(14)], abs=1)
    assert np.allclose(slaney.sum(axis=0), 1.0, atol=0.01)
    above = mel_weights(RATE, 16_000, 1, (1000.0, 6400.0), scale="slaney", slope="mel")
    assert abs(int(above[:, 0].argmax()) - 1000 * math.sqrt(6.4)) <= 1


def test_tapers_have_their_published_values():
    """Periodic and symmetric windows differ at their end; povey is Hann to the power 0.85."""
    assert taper("hann_periodic", 8)[4] == 1
    assert taper("hann_periodic", 8)[-1] == pytest.approx(0.14644661)
    assert taper("hann_symmetric", 9).tolist() == pytest.approx([*taper("hann_periodic", 8), 0])
    assert taper("hamming_symmetric", 5).tolist() == pytest.approx([0.08, 0.54, 1, 0.54, 0.08])
    assert np.allclose(taper("povey", 400), taper("hann_symmetric", 400) ** 0.85)
    assert taper("rectangular", 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("hz", [1000, 2500, 4000])
def test_a_tone_lands_in_its_band(hz):
    """The loudest band of a sine is the one whose triangle covers it best, or its neighbour (side lobes)."""
    mel = _step("pre", "log_mel", **SPEECH)(_view(_tone(hz))).data
    weights = mel_weights(RATE, 512, 40, (20.0, 7600.0))
    assert np.abs(mel.argmax(axis=1) - weights[round(hz / RATE * 512)].argmax()).max() <= 1


def test_peak_and_band_mean_make_loudness_vanish():
    """With a peak or a mean taken out, twice the loudness gives the same features; without, ln 4 more power."""
    quiet = _noise(4000, height=2000)
    for keys in ({"peak": "max_abs"}, {"normalise": "band_mean"}, {"normalise": "band_mean_std"}):
        step = _step("pre", "log_mel", **SPEECH, **keys)
        assert np.allclose(step(_view(quiet * 2)).data, step(_view(quiet)).data, atol=1e-3)
    plain = _step("pre", "log_mel", **SPEECH)
    assert np.allclose(plain(_view(quiet * 2)).data - plain(_view(quiet)).data, math.log(4), atol=1e-3)


def test_logarithms_limits_and_shift():
    """db is 10 log10; log_range lifts what lies deep; shift, gain and clip come last, in this order."""
    signal = np.concatenate((_noise(1600), np.zeros(1600, np.int16)))
    ln = _step("pre", "log_mel", **SPEECH, log_floor=1e-10)(_view(signal)).data
    db = _step("pre", "log_mel", **SPEECH, log="db", log_floor=1e-10)(_view(signal)).data
    assert np.allclose(db, ln * 10 / math.log(10), atol=1e-3)
    assert db.min() == pytest.approx(-100)
    ranged = _step("pre", "log_mel", **SPEECH, log="log10", log_range=3.0)(_view(signal)).data
    assert ranged.max() - ranged.min() == pytest.approx(3.0, abs=1e-5)
    scaled = _step("pre", "log_mel", **SPEECH, log="db", log_floor=1e-10, shift=52, gain=1 / 64, clip=[0.0, 1.0])
    assert np.allclose(scaled(_view(signal)).data, np.clip((db + 52) / 64, 0, 1), atol=1e-5)


def test_kaldi_options_work_per_frame():
    """Mean and emphasis per frame: an offset vanishes, and the first sample of a frame loses its own share."""
    keys = {**SPEECH, "remove_dc": True, "pre_emphasis": 0.97, "pre_emphasis_over": "frame", "window": "povey"}
    step = _step("pre", "log_mel", **keys, sample_scale="int16")
    signal = _noise(800, height=1000)
    assert np.allclose(step(_view(signal + 500)).data, step(_view(signal)).data, atol=2e-2)
    frame = signal[:400].astype(float)
    frame -= frame.mean()
    frame -= 0.97 * np.concatenate(([frame[0]], frame[:-1]))
    power = np.abs(np.fft.rfft(frame * taper("povey", 400), 512)) ** 2
    expected = np.log(power @ mel_weights(RATE, 512, 40, (20.0, 7600.0)))
    assert np.allclose(step(_view(signal)).data[0], expected, atol=1e-3)


@pytest.mark.parametrize(("pad", "frames"), [("none", 98), ("zero", 101), ("reflect", 101)])
def test_padding_decides_the_number_of_frames(pad, frames):
    """Centred frames: one per step and one more; else only those that fit."""
    assert _step("pre", "log_mel", **SPEECH, pad=pad)(_view(_noise(RATE))).data.shape == (frames, 40)
    assert _step("pre", "log_mel", **SPEECH, pad=pad, frames=96)(_view(_noise(RATE))).data.shape == (96, 40)


def test_front_ends_take_batches():
    """Leading dimensions pass through, so that training runs the very same code."""
    step = _step("pre", "mfcc", **SPEECH, coefficients=10, peak="max")
    batch = np.stack([_noise(RATE, seed) for seed in range(3)])
    got = step.mfcc(batch)
    assert got.shape == (3, 98, 10)
    for one, row in zip(batch, got, strict=True):
        assert np.allclose(step(_view(one)).data, row, atol=1e-4)


def test_front_ends_refuse_what_they_cannot_do():
    """Too few samples, another rate, and keys that contradict each other are named."""
    step = _step("pre", "log_mel", **SPEECH)
    with pytest.raises(ConfigError, match="make the window longer"):
        step(_view(_noise(100)))
    with pytest.raises(ConfigError, match="8000 Hz"):
        step(View(_noise(1000), rate_hz=8000.0))
    for key, value in (("fft_length", 256), ("f_max_hz", 9000), ("f_min_hz", 7600)):
        with pytest.raises(ConfigError, match=r"fft_length|f_max_hz"):
            _step("pre", "log_mel", **{**SPEECH, key: value})
    with pytest.raises(ConfigError, match="coefficients"):
        _step("pre", "mfcc", **SPEECH, coefficients=41)


def test_keys_alone_describe_well_known_front_ends():
    """YAMNet's and Whisper's settings are keys, and give arrays of their shapes and ranges."""
    yamnet = {"frame_length": 400, "frame_step": 160, "fft_length": 512, "spectrum": "magnitude", "mel_bins": 64,
              "f_min_hz": 125, "f_max_hz": 7500, "log_offset": 0.001}  # fmt: skip
    patch = _step("pre", "log_mel", **yamnet)(_view(_noise(15_600))).data
    assert patch.shape == (96, 64)
    assert _step("pre", "log_mel", **yamnet)(_view(np.zeros(15_600, np.int16))).data == pytest.approx(math.log(0.001))
    whisper = {"frame_length": 400, "frame_step": 160, "fft_length": 400, "pad": "reflect", "mel_bins": 80,
               "f_min_hz": 0, "f_max_hz": 8000, "mel_scale": "slaney", "mel_slope": "hz", "mel_norm": "slaney",
               "log": "log10", "log_floor": 1e-10, "log_range": 8.0, "shift": 4.0, "gain": 0.25,
               "frames": 100}  # fmt: skip
    signal = _noise(RATE)
    got = _step("pre", "log_mel", **whisper)(_view(signal)).data
    padded = np.pad(signal / 32768, 200, mode="reflect")
    frames = np.stack([padded[i * 160 : i * 160 + 400] for i in range(100)]) * taper("hann_periodic", 400)
    weights = mel_weights(RATE, 400, 80, (0.0, 8000.0), scale="slaney", slope="hz", norm="slaney")
    logs = np.log10(np.maximum(np.abs(np.fft.rfft(frames)) ** 2 @ weights, 1e-10))
    assert np.allclose(got, (np.maximum(logs, logs.max() - 8) + 4) / 4, atol=1e-4)


# ---- the window `log_mel_frames`

STREAM = {**SPEECH, "pre_emphasis": 0.96875, "log": "db", "shift": 52, "gain": 1 / 64, "frames": 10, "hop_frames": 3}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9000), max_size=15), st.sampled_from([160, 400, 500]))
def test_streaming_frames_equal_those_of_the_whole(cuts, frame_step):
    """Frame by frame along a chopped stream gives the numbers of one pass over everything."""
    signal = _noise(9000)
    keys = {**STREAM, "frame_step": frame_step}
    _, views = _run(_step("window", "log_mel_frames", **keys), _samples(signal, cuts, start=320))
    whole = _step("pre", "log_mel", **{k: v for k, v in keys.items() if k not in ("frames", "hop_frames")})
    mel = whole(_view(signal)).data
    starts = range(0, len(mel) - 9, 3)
    assert len(views) == len(starts)
    for view, at in zip(views, starts, strict=True):
        assert np.allclose(view.data, mel[at : at + 10], atol=1e-4)
        assert view.t0_s == pytest.approx((320 + at * frame_step) / RATE, abs=1e-9)
        assert view.t1_s - view.t0_s == pytest.approx((9 * frame_step + 400) / RATE)


def test_streaming_frames_never_span_a_gap():
    """After a gap neither samples, nor frames, nor the emphasis remember what was before."""
    signal = _noise(8000)
    window = _step("window", "log_mel_frames", **STREAM)
    _, views = _run(window, _samples(signal, [3000], gaps=(1,)))
    _, before = _run(window, _samples(signal[:3000], []))
    _, after = _run(window, _samples(signal[3000:], [], start=3000))
    assert [v.gap for v in views] == [False] * len(before) + [True] + [False] * (len(after) - 1)
    for got, expected in zip(views, before + after, strict=True):
        assert np.allclose(got.data, expected.data, atol=1e-5)
        assert got.t0_s == pytest.approx(expected.t0_s)


def test_streaming_refuses_what_needs_the_whole_view():
    """Peak, padding, range and mean look at a whole view: the message names the steps that can."""
    for key, value in (("peak", "max"), ("pad", "zero"), ("normalise", "band_mean"), ("log_range", 8.0)):
        with pytest.raises(ConfigError, match=f"'{key}'.*use window 'frames'"):
            _step("window", "log_mel_frames", **STREAM, **{key: value})
    with pytest.raises(ConfigError, match="hop_frames"):
        _step("window", "log_mel_frames", **{**STREAM, "hop_frames": 11})


# ---- the gate `level`


def test_level_is_rms_in_dbfs():
    """A full square wave reads 0 dBFS, a full sine -3, half the height 6 less; a constant offset is not heard."""
    square = np.where(np.arange(RATE) % 32 < 16, 32767, -32767).astype(np.int16)
    assert level_dbfs(_view(square)) == pytest.approx(0, abs=0.01)
    assert level_dbfs(_view(_tone(500, height=32767))) == pytest.approx(-3.01, abs=0.01)
    assert level_dbfs(_view(_tone(500, height=32767 / 2))) == pytest.approx(-9.03, abs=0.01)
    assert level_dbfs(_view(np.full(1600, 900, np.int16))) == -np.inf
    with pytest.raises(ConfigError, match="frames"):
        level_dbfs(View(np.zeros((30, 40), np.float32)))


def test_loudest_block_counts():
    """A short word in a silent second is as loud as it is while it sounds."""
    signal = np.zeros(RATE, np.int16)
    signal[8000:9600] = _tone(500, 1600, 10_000)
    assert level_dbfs(_view(signal), 0.05) == pytest.approx(20 * math.log10(10_000 / 32768 / math.sqrt(2)), abs=0.05)
    assert level_dbfs(_view(signal)) < level_dbfs(_view(signal), 0.05) - 9


def test_level_gate_has_hysteresis_and_hangover():
    """It opens at one level, stays open down to a lower one, and then for a while longer."""
    gate = _step("gate", "level", open_dbfs=-30, close_dbfs=-40, hangover_s=0.3, block_s=0)
    levels = [-50, -35, -29, -35, -39, -45, -45, -45, -45, -35, -20]
    state, passes = gate.initial(), []
    for i, level in enumerate(levels):
        tone = _tone(500, 1600, 32768 * math.sqrt(2) * 10 ** (level / 20))
        state, open_now = gate(state, _view(tone, t0_s=i * 0.1))
        passes.append(open_now)
    assert passes == [False, False, True, True, True, True, True, True, False, False, True]
    with pytest.raises(ConfigError, match="close_dbfs"):
        _step("gate", "level", open_dbfs=-40, close_dbfs=-30)


# ---- the decoder `keyword`

LABELS = ("silence", "unknown", "yes", "no")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0, 0.1, 0.9, 0.0], [("yes", 0.9)]),
        ([0.0, 0.55, 0.45, 0.0], []),  # "unknown" is best: the word is not named
        ([0.9, 0.0, 0.1, 0.0], []),
        ([0.1, 0.1, 0.3, 0.5], []),  # below the threshold
        ([0.0, 0.0, 0.6, 0.6], [("yes", 0.6)]),  # a draw goes to the first label
    ],
)
def test_keyword_names_the_best_word_or_nothing(scores, expected):
    """One finding with the view's interval, or none; ignored labels win silently."""
    step = _step("decoder", "keyword", threshold=0.55, ignore=["silence", "unknown"])
    findings = step({"p": np.array([scores], np.float32)}, View(np.empty(0), 2.0, 3.0), LABELS)
    assert [(f.label, pytest.approx(f.score)) for f in findings] == expected
    assert all(f.interval == (2.0, 3.0) for f in findings)


def test_keyword_can_report_several_and_refuses_misfits():
    """`top` gives runners-up; a wrong port, count or label is the publisher's to correct."""
    scores = {"a": np.zeros(3, np.float32), "p": np.array([0.1, 0.2, 0.4, 0.3], np.float32)}
    step = _step("decoder", "keyword", threshold=0.15, top=3, output="p", ignore=["unknown"])
    found = step(scores, _view(_noise(9)), LABELS)
    assert [f.label for f in found] == ["yes", "no"]
    for keys, words in (({"output": "q"}, "no output 'q'"), ({}, "3 values for 4 labels"),
                        ({"output": "p", "ignore": ["noise"]}, "'noise'")):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            _step("decoder", "keyword", **keys)(scores, _view(_noise(9)), LABELS)
