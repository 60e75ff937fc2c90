"""Series: windows without gaps, spectra that are right, a statistic that learns, gates, the reconstruction decoder."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError, ModelError
from agent.records import Channel, Sample, View
from pipelines import make_step

ONE = (Channel("x", "V"),)


def sample(seq, values, t_s=None, gap=False, rate_hz=0.0):
    data = np.atleast_1d(np.array(values, np.float64))
    data.flags.writeable = False
    t_s = float(seq) if t_s is None else t_s
    channels = tuple(Channel(f"c{i}", "V") for i in range(len(data)))
    return Sample("s", seq, t_s, t_s, 0.0, "series", data, rate_hz=rate_hz, channels=channels, gap=gap)


def fold(step, samples):
    state, views = step.initial(), []
    for one in samples:
        state, more = step(state, one)
        views += more
    return views, state


def window(name, **keys):
    return make_step("window", {"step": name, **keys}, "p.toml [window]")


def pre(name, data, rate_hz=0.0, channels=(), **keys):
    data = np.array(data, np.float64)
    data.flags.writeable = False
    step = make_step("pre", {"step": name, **keys}, "p.toml [[pre]]")
    return step(View(data, rate_hz=rate_hz, channels=channels))


def firsts(views):
    return [view.data[:, 0].tolist() for view in views]


def test_rows_overlap_or_skip_as_the_hop_says():
    """Every hop rows a view of length rows, with the times of its rows."""
    rows = [sample(i, i, t_s=i * 0.5, rate_hz=2.0) for i in range(9)]
    views, _ = fold(window("rows", length=4, hop=2), rows)
    assert firsts(views) == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert [(v.t0_s, v.t1_s, v.rate_hz) for v in views] == [(0, 2, 2), (1, 3, 2), (2, 4, 2)]
    assert firsts(fold(window("rows", length=2, hop=3), rows)[0]) == [[0, 1], [3, 4], [6, 7]]
    assert not views[0].data.flags.writeable


@pytest.mark.parametrize("name", ["rows", "seconds"])
def test_no_view_spans_a_gap(name):
    """A gap flag or a jump of seq starts anew, and the next view says so."""
    step = window("rows", length=3) if name == "rows" else window("seconds", length_s=3.0, rate_hz=1.0)
    flagged = [sample(i, i, gap=i == 2) for i in range(9)]
    jumped = [sample(i, i) for i in (0, 1, 4, 5, 6, 7, 8, 9, 10)]
    for rows, begin in ((flagged, 2), (jumped, 4)):
        views, _ = fold(step, rows)
        assert firsts(views)[0] == [begin, begin + 1, begin + 2]
        assert [view.gap for view in views] == [True, False]


def test_a_silence_or_a_step_back_is_a_gap_for_seconds():
    """Rows are not stretched over a time in which nobody measured."""
    times = [0, 1, 2, 3, 10, 11, 12, 13, 5, 6, 7, 8]
    rows = [sample(i, t, t_s=float(t)) for i, t in enumerate(times)]
    views, _ = fold(window("seconds", length_s=3.0, rate_hz=1.0), rows)
    assert firsts(views) == [[0, 1, 2], [10, 11, 12], [5, 6, 7]]
    assert [view.gap for view in views] == [False, True, True]


@pytest.mark.parametrize(
    ("nan", "expected"),
    [
        ("drop", [[0, 3], [5, 9]]),
        ("mark", [[0, None], [None, 3], [None, 5], [None, None], [None, 9]]),
        ("hold", [[0, 0], [0, 3], [3, 5], [5, 5]]),
    ],
)
def test_missing_readings_are_dropped_held_or_marked(nan, expected):
    """Held for at most hold_rows; a longer hole is a gap."""
    readings = [0, np.nan, np.nan, 3, np.nan, 5, np.nan, np.nan, np.nan, 9]
    rows = [sample(i, x) for i, x in enumerate(readings)]
    views, state = fold(window("rows", length=2, nan=nan, hold_rows=2), rows)
    assert [[None if np.isnan(x) else x for x in row] for row in firsts(views)] == expected
    if nan == "hold":
        assert state.gap
        assert [row[1].tolist() for row in state.rows] == [[9]]


def test_each_channel_is_held_by_itself():
    """One broken channel does not age the other."""
    rows = [sample(0, (1, 10)), sample(1, (np.nan, 11)), sample(2, (3, np.nan)), sample(3, (np.nan, 13))]
    views, _ = fold(window("rows", length=4, nan="hold", hold_rows=1), rows)
    assert views[0].data.tolist() == [[1, 10], [1, 11], [3, 11], [3, 13]]


@pytest.mark.parametrize(("fill", "expected"), [("linear", [0.0, 2.5, 5.0, 7.5]), ("hold", [0.0, 0.0, 4.0, 7.0])])
def test_seconds_resample_to_a_fixed_rate(fill, expected):
    """Readings at 0.0, 0.4, 0.7 and 1.0 s of a line that rises by 10 per second, asked for every 0.25 s."""
    rows = [sample(i, 10 * t, t_s=t) for i, t in enumerate((0.0, 0.4, 0.7, 1.0))]
    views, _ = fold(window("seconds", length_s=1.0, rate_hz=4.0, fill=fill), rows)
    assert np.allclose(views[0].data[:, 0], expected)
    assert (views[0].t0_s, views[0].t1_s, views[0].rate_hz) == (0.0, 1.0, 4.0)


def test_seconds_hand_on_the_rows_as_they_came():
    """Without a rate, a view holds the rows of its time, however many."""
    rows = [sample(i, t, t_s=t) for i, t in enumerate((0.0, 0.1, 0.9, 1.0, 1.5, 2.2))]
    assert firsts(fold(window("seconds", length_s=1.0), rows)[0]) == [[0.0, 0.1, 0.9], [1.0, 1.5]]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=80),
    st.sampled_from([0.5, 1.0, 2.5]), st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from(["hold", "linear"]),
)  # fmt: skip
def test_a_line_stays_a_line_at_any_rate(steps, length_s, hop_s, fill):
    """Whatever the times of the rows: linear resampling of x = t is t, holding is late, but not by much."""
    times = [t / 40 for t in itertools.accumulate(steps)]
    step = window("seconds", length_s=length_s, hop_s=hop_s, rate_hz=8.0, fill=fill, max_gap_s=10.0)
    views, state = fold(step, [sample(i, t, t_s=t) for i, t in enumerate(times)])
    assert len(views) == max(0, int((times[-1] - times[0] - length_s) // hop_s) + 1)
    for i, view in enumerate(views):
        grid = times[0] + i * hop_s + np.arange(round(length_s * 8)) / 8
        late = grid - view.data[:, 0]
        assert np.all(np.abs(late) < 1e-9 if fill == "linear" else (late > -1e-9) & (late <= 1.0))
    assert len(state.rows) <= (length_s + hop_s + 1) * 40 + 2


def test_a_window_refuses_what_is_no_series():
    """The message names window and source."""
    picture = Sample("cam", 0, 0.0, 0.0, 0.0, "image", np.zeros((2, 2), np.uint8))
    for step in (window("rows", length=2), window("seconds", length_s=1.0)):
        with pytest.raises(ConfigError, match="source 'cam' delivers image"):
            step(step.initial(), picture)
    with pytest.raises(ConfigError, match=r"1e\+09 rows: it must be 1 to 100000"):
        window("seconds", length_s=1000.0, rate_hz=1e6)


def test_a_sine_has_its_amplitude_in_its_bin():
    """Magnitude is the amplitude, power the mean square, whatever the window; a trend is taken away."""
    t = np.arange(256) / 256
    wave = 3.0 * np.sin(2 * np.pi * 32 * t)
    for taper in ("hann", "hamming", "none"):
        assert pre("spectrum", wave, window=taper).data[32] == pytest.approx(3.0)
        assert pre("spectrum", wave, window=taper, kind="power").data[32] == pytest.approx(4.5)
    assert pre("spectrum", wave + 5 + 100 * t, detrend="linear").data[0] == pytest.approx(0.0, abs=0.1)
    assert pre("spectrum", wave + 5, detrend="none").data[0] == pytest.approx(5.0)
    assert pre("spectrum", np.cos(np.pi * np.arange(64)), window="none").data[-1] == pytest.approx(1.0)
    assert pre("spectrum", wave, log=True).data[32] == pytest.approx(np.log10(3.0))
    assert pre("spectrum", np.zeros(8), log=True, floor=1e-3).data.tolist() == [-3.0] * 5


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 65), st.integers(0, 2**31))
def test_the_power_of_all_bins_is_the_mean_square(n, seed):
    """Parseval, for even and odd lengths and every channel."""
    data = np.random.default_rng(seed).normal(size=(n, 3))
    power = pre("spectrum", data, window="none", detrend="none", kind="power").data
    assert power.shape == (n // 2 + 1, 3)
    assert np.allclose(power.sum(axis=0), (data**2).mean(axis=0))


def test_bins_are_cut_and_gathered():
    """first, bins and bands say what the model gets; what cannot be is refused."""
    data = np.random.default_rng(0).normal(size=(64, 2))
    full = pre("spectrum", data).data
    banded = pre("spectrum", data, first=1, bins=32, bands=8).data
    assert np.allclose(banded, full[1:33].reshape(8, 4, 2).mean(axis=1))
    with pytest.raises(ModelError, match="33 bins, 40 from 1"):
        pre("spectrum", data, first=1, bins=40)
    with pytest.raises(ModelError, match="33 bins do not make 8 equal bands"):
        pre("spectrum", data, bands=8)


def test_features_are_those_of_the_field():
    """A sine: crest sqrt 2, kurtosis 1.5; an impact: large; a constant: 0 and no warning."""
    t = np.arange(1000) / 1000
    names = ["mean", "rms", "peak", "peak_to_peak", "crest", "skewness", "kurtosis"]
    sine = pre("features", 1 + 2 * np.sin(2 * np.pi * 10 * t), names=names).data
    assert sine == pytest.approx([1, 2**0.5, 2, 4, 2**0.5, 0, 1.5], abs=1e-3)
    impact = np.zeros((1000, 2))
    impact[500, 0] = 1.0
    made = pre("features", impact, names=["crest", "kurtosis"]).data
    assert made[:, 0].min() > 30
    assert made[:, 1].tolist() == [0.0, 0.0]


def test_diff_standardise_select_and_flatten():
    """The small steps."""
    data = [[1.0, 10.0], [2.0, 30.0], [4.0, 20.0]]
    channels = (Channel("a"), Channel("b"))
    assert pre("diff", data).data.tolist() == [[1, 20], [2, -10]]
    assert pre("flatten", data).data.tolist() == [1, 10, 2, 30, 4, 20]
    chosen = make_step("pre", {"step": "select", "channels": ["b"]}, "p.toml")(View(np.array(data), channels=channels))
    assert (chosen.data.tolist(), chosen.channels) == ([[10], [30], [20]], (Channel("b"),))
    own = pre("standardise", data).data
    assert np.allclose(own.mean(axis=0), 0) and np.allclose(own.std(axis=0), 1)
    assert np.allclose(pre("standardise", data, mean=[1, 10], std=[2, 5]).data, [[0, 0], [0.5, 4], [1.5, 2]])
    assert pre("standardise", np.full((4, 1), 7.0)).data.tolist() == [[0.0]] * 4
    with pytest.raises(ModelError, match="no channel 'c' among a, b"):
        make_step("pre", {"step": "select", "channels": ["c"]}, "p.toml")(View(np.array(data), channels=channels))
    with pytest.raises(ModelError, match="3 means for 2 values"):
        pre("standardise", data, mean=[1, 2, 3], std=[1, 1, 1])


def detect(rows, channels=ONE, **keys):
    step = make_step("detector", {"step": "streaming_zscore", **keys}, "p.toml [detector]")
    state, found = step.initial(), []
    for i, row in enumerate(rows):
        state, findings = step(state, View(np.atleast_1d(np.array(row, float)), float(i), float(i), channels=channels))
        found += [(i, finding) for finding in findings]
    return found


def test_a_jump_is_an_anomaly_until_it_is_the_new_normal():
    """A step of 50 standard deviations is told at once, for at most relearn_rows readings, and nothing after."""
    noise = np.random.default_rng(1).normal(size=2000)
    noise[1000:] += 50
    found = detect(noise)
    assert found[0][0] == 1000
    assert 3 < len(found) <= 100
    assert found[-1][0] < 1100
    first = found[0][1]
    assert (first.label, first.unit, first.value, first.interval) == ("anomaly", "V", noise[1000], (1000.0, 1000.0))
    assert first.score == pytest.approx(50 / 7, rel=0.3)


def test_an_anomaly_does_not_hide_the_next_one():
    """Spikes of equal height ten readings apart are all found: their size is learned only in part."""
    noise = np.random.default_rng(2).normal(size=1000)
    noise[500:550:10] += 40
    assert [i for i, _ in detect(noise)] == [500, 510, 520, 530, 540]


def test_a_constant_or_broken_channel_stays_finite():
    """Rounding is no anomaly, the first true change is; NaN changes nothing and is never found."""
    level = [20.1] * 200
    assert detect(level) == []
    assert [i for i, _ in detect([*level, 20.2, *[20.1] * 50])] == [200]
    assert detect([*level, 20.2], min_deviation=0.1) == []
    noise = np.random.default_rng(3).normal(size=(300, 2))
    holed = noise.copy()
    holed[100:150, 0] = np.nan
    holed[299] = (90.0, np.inf)
    found = detect(holed, channels=(Channel("a"), Channel("b")))
    assert [(i, f.label) for i, f in found] == [(299, "anomaly/a")]


def test_views_of_many_rows_give_what_rows_give():
    """The state carries over; of each view the strangest reading is told with its time."""
    noise = np.random.default_rng(4).normal(size=400)
    noise[333] += 30
    step = make_step("detector", {"step": "streaming_zscore"}, "p.toml [detector]")
    state, found = step.initial(), []
    for i in range(0, 400, 40):
        state, findings = step(state, View(noise[i : i + 40, None], float(i), float(i + 40), channels=ONE))
        found += findings
    (alone,) = detect(noise)
    assert [(f.score, f.interval) for f in found] == [(alone[1].score, (333.0, 333.0))]
    with pytest.raises(ModelError, match="2 channels came after 1"):
        step(state, View(np.zeros((1, 2))))


def test_running_rows_are_free_of_unit_and_level():
    """The same views for the same series in another unit; nothing while warming up; a gap keeps what was learned."""
    noise = np.random.default_rng(5).normal(size=200)
    step = window("running_rows", length=10, hop=5, warm_rows=40)
    plain, _ = fold(step, [sample(i, x) for i, x in enumerate(noise)])
    scaled, _ = fold(step, [sample(i, 1000 + 0.01 * x) for i, x in enumerate(noise)])
    assert [view.t0_s for view in plain] == [40.0 + 5 * i for i in range(31)]
    assert all(np.allclose(a.data, b.data) for a, b in zip(plain, scaled, strict=True))
    assert 0.8 < np.std([view.data for view in plain]) < 1.3
    views, _ = fold(step, [sample(i, x, gap=i == 100) for i, x in enumerate(noise)])
    after = [view for view in views if view.t0_s >= 100]
    assert (after[0].t0_s, after[0].gap) == (100.0, True)
    assert np.array_equal(after[0].data, plain[12].data)


def test_running_rows_leave_out_missing_readings():
    """NaN neither enters a view nor what is learned."""
    noise = np.random.default_rng(6).normal(size=100)
    holed = [x for pair in zip(noise, [np.nan] * 100, strict=True) for x in pair]
    step = window("running_rows", length=10, warm_rows=40)
    whole, _ = fold(step, [sample(i, x) for i, x in enumerate(noise)])
    views, _ = fold(step, [sample(i, x) for i, x in enumerate(holed)])
    assert [view.data.tolist() for view in views] == [view.data.tolist() for view in whole]


def reconstruct(made, seen, **keys):
    step = make_step("decoder", {"step": "reconstruction", **keys}, "model.toml [decoder]")
    return step({"y": np.array(made, np.float32)}, View(np.array(seen, float), 3.0, 4.0), ())


def test_reconstruction_error_is_a_mean_square():
    """Score 1 is the threshold, in error or in calibrated standard deviations."""
    (found,) = reconstruct([[1, 2, 3, 4]], [1, 2, 3, 8], threshold=2.0)
    assert (found.label, found.score, found.value, found.interval) == ("anomaly", 2.0, 4.0, (3.0, 4.0))
    assert reconstruct([1, 1], [2, 2], threshold=1.5) == ()
    assert reconstruct([1, 1], [2, 2], threshold=4.0, always=True)[0].score == 0.25
    assert reconstruct([1, 1], [2, 2], threshold=4.0, mean=0.2, std=0.1)[0].score == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("made", "seen", "keys", "words"),
    [
        ([1, 2], [1, 2, 3], {}, "'y' has 2 values, the input 3"),
        ([1, np.nan], [1, 2], {}, "hold no numbers"),
        ([1], [1], {"output": "z"}, "there is no output 'z': name one of y"),
    ],
)
def test_reconstruction_refuses_what_it_cannot_judge(made, seen, keys, words):
    """NaN is never "normal"."""
    with pytest.raises(ModelError, match=words):
        reconstruct(made, seen, threshold=1.0, **keys)


def passes(name, rows, dt=1.0, **keys):
    gate = make_step("gate", {"step": name, **keys}, "p.toml [gate]")
    state, out = gate.initial(), []
    for i, row in enumerate(rows):
        state, ok = gate(state, View(np.atleast_2d(np.array(row, float)), i * dt, (i + 1) * dt))
        out.append(int(ok))
    return out


def test_change_compares_with_what_passed_last():
    """Slow drift passes too, once it has gone far enough; NaN says nothing; a heartbeat if asked."""
    assert passes("value_change", [0, 0.4, 0.8, 1.2, 1.2, np.nan, 0.1], delta=1.0) == [1, 0, 0, 1, 0, 0, 1]
    assert passes("value_change", [[0, 5], [0, np.nan], [0, 7]], delta=1.0) == [1, 0, 1]
    assert passes("value_change", [5] * 7, delta=1.0, at_least_every_s=3.0) == [1, 0, 0, 1, 0, 0, 1]


def test_level_opens_outside_and_closes_well_inside():
    """Hysteresis on both sides."""
    assert passes("value_level", [1, 5, 4.5, 3.9, 4.5, 5], above=5.0, hysteresis=1.0) == [0, 1, 1, 0, 0, 1]
    assert passes("value_level", [1, -5, -4.5, -3.9], below=-5.0, hysteresis=1.0) == [0, 1, 1, 0]
    assert passes("value_level", [[np.nan, 1], [1, 9], [np.nan, np.nan]], above=5.0) == [0, 1, 0]
    with pytest.raises(ConfigError, match="one of the keys 'above' and 'below' is needed"):
        passes("value_level", [])
