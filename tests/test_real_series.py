"""Real sensor series with labelled anomalies: the agent's own detector against a naive baseline."""

import csv
import datetime as dt
import json
import os
from pathlib import Path

import numpy as np
import pytest

from agent.records import Channel, Sample
from pipelines import make_step

ROOT = Path(os.environ.get("LIMPET_REALDATA") or Path(__file__).resolve().parents[1] / ".." / "shared" / "realdata")
FILES = (
    "inputs/machine_temperature_system_failure.csv",
    "inputs/ec2_request_latency_system_failure.csv",
    "inputs/speed_7578.csv",
    "inputs/art_daily_small_noise.csv",
)
PROBATION = 0.15
"""First part of each file that is not scored."""


def case():
    index = ROOT / "index.json"
    if not index.exists():
        pytest.skip(f"no real data at {ROOT}: set LIMPET_REALDATA")
    return next(c for c in json.loads(index.read_text())["cases"] if c["id"] == "o18-nab")


def seconds(text):
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


def samples(file):
    rows = list(csv.reader((ROOT / file).open()))[1:]
    for seq, (stamp, value) in enumerate(rows):
        t_s, data = seconds(stamp), np.array([float(value)])
        yield Sample(file, seq, t_s, t_s, t_s, "series", data, channels=(Channel("value"),), replay=True)


def count(times, file, expected):
    """Labelled windows with a finding inside, and findings outside of all of them, after the probation."""
    begin = [s.t_s for s in samples(file)][int(expected[file]["rows"] * PROBATION)]
    windows = [tuple(map(seconds, pair)) for pair in expected[file]["anomaly_windows"]]
    scored = [t for t in times if t >= begin]
    hit = sum(any(a <= t <= b for t in scored) for a, b in windows)
    return hit, sum(not any(a <= t <= b for a, b in windows) for t in scored)


def detected(file):
    """Times of the readings that the detector finds anomalous, with its defaults."""
    window = make_step("window", {"step": "rows", "length": 1}, "nab.toml")
    detector = make_step("detector", {"step": "streaming_zscore"}, "nab.toml")
    rows, state, times = window.initial(), detector.initial(), []
    for sample in samples(file):
        rows, views = window(rows, sample)
        for view in views:
            state, findings = detector(state, view)
            times += [finding.interval[0] for finding in findings]
    return times


@pytest.mark.parametrize("file", FILES)
def test_the_streaming_statistic_beats_the_naive_baseline(file):
    """o18: one set of parameters for all files; as many windows hit at least, as many false points at most."""
    known = case()
    hit, false = count(detected(file), file, known["expected"])
    baseline = known["measured"][file]
    print(f"{file}: {hit} of {baseline['of']} windows, {false} false points")
    assert hit >= baseline["baseline_windows_hit"]
    assert false <= baseline["false_points_outside"]
