"""Real sensor series with labelled anomalies: the agent's own statistic and the shipped models on them."""

import csv
import datetime as dt

import pytest

from agent.capture import file_samples
from agent.clock import SystemClock
from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from pipelines import make_step
from tests import realdata
from tests.realdata import REPO, ROOT

pytestmark = realdata.needed

FILES = (
    "machine_temperature_system_failure",
    "ec2_request_latency_system_failure",
    "speed_7578",
    "art_daily_small_noise",
)
PROBATION = 0.15
"""First part of each file that is not scored."""


@pytest.fixture(scope="module")
def case():
    return realdata.case("o18-nab")


def key(name):
    return f"inputs/{name}.csv"


def samples(name):
    """Every row of a file, as the agent replays it."""
    return file_samples(ROOT / key(name), "series", SystemClock())


def count(times, name, expected):
    """Labelled windows with a finding inside, and findings outside of all of them, after the probation.

    `times`: seconds after the first row.
    """
    with (ROOT / key(name)).open() as file:
        stamps = [dt.datetime.fromisoformat(row[0]) for row in list(csv.reader(file))[1:]]
    assert len(stamps) == expected["rows"]

    def after_s(stamp):
        return (stamp - stamps[0]).total_seconds()

    begin_s = after_s(stamps[int(len(stamps) * PROBATION)])
    windows = [tuple(after_s(dt.datetime.fromisoformat(end)) for end in pair) for pair in expected["anomaly_windows"]]
    scored = [t for t in times if t >= begin_s]
    hit = sum(any(a <= t <= b for t in scored) for a, b in windows)
    return hit, sum(not any(a <= t <= b for a, b in windows) for t in scored)


def detected(name):
    """Times of the rows that the streaming statistic finds anomalous, with its defaults."""
    window = make_step("window", {"step": "rows", "length": 1}, "nab.toml")
    detector = make_step("detector", {"step": "streaming_zscore"}, "nab.toml")
    rows, state, times = window.initial(), detector.initial(), []
    for sample in samples(name):
        rows, views = window(rows, sample)
        for view in views:
            state, findings = detector(state, view)
            times += [finding.interval[0] for finding in findings]
    return times


def judged(model, name):
    """Times of the last rows of the views that a shipped model finds anomalous, and how many views it saw."""
    manifest = load_manifest(REPO / "models" / model)
    runner = open_model(manifest)
    window, infer = make_step("window", manifest.window, "model.toml"), Inference(manifest, runner)
    state, times, seen = window.initial(), [], 0
    for sample in samples(name):
        state, views = window(state, sample)
        seen += len(views)
        times += [sample.t_s for view in views if infer(view).findings]
    runner.close()
    return times, seen


@pytest.mark.parametrize("name", FILES)
def test_the_streaming_statistic_beats_the_naive_baseline(case, name):
    """o18: one set of parameters for all files; as many windows hit at least, as many false points at most."""
    hit, false = count(detected(name), name, case["expected"][key(name)])
    baseline = case["measured"][key(name)]
    assert hit >= baseline["baseline_windows_hit"]
    assert false <= baseline["false_points_outside"]


def test_the_series_model_is_as_good_as_its_manifest_says(case):
    """o18 with a model: the figures of model.toml, not worse than the baseline in any file and better over all."""
    said = load_manifest(REPO / "models" / "series").accuracy["nab"]
    false_views = false_points = 0
    for name in FILES:
        hit, false = count(judged("series", name)[0], name, case["expected"][key(name)])
        baseline = case["measured"][key(name)]
        assert said[name] == {"windows": baseline["of"], "hit": hit, "false_views": false}
        assert hit >= baseline["baseline_windows_hit"]
        assert false <= baseline["false_points_outside"]
        false_views, false_points = false_views + false, false_points + baseline["false_points_outside"]
    assert false_views < false_points


def test_the_vibration_model_knows_only_fans(case):
    """Every view of a series that is no vibration is an anomaly to it, as its manifest says."""
    assert case
    seen = [judged("vibration", name) for name in FILES]
    assert [len(times) for times, _ in seen] == [views for _, views in seen]
    verdict = load_manifest(REPO / "models" / "vibration").accuracy["nab"]["verdict"]
    assert f"all {sum(views for _, views in seen)} views" in verdict
