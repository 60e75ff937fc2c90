"""The shipped vibration model: known answers, one event for one fault, silence on a healthy machine."""

import tomllib
from pathlib import Path

import pytest

from agent.capture import file_samples
from agent.clock import SystemClock
from agent.golden import selftest
from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.pipeline import Pipeline, make_steps
from agent.settings.capture import ReplayConfig
from agent.settings.core import PipelineConfig
from agent.strict import build
from agent.views import views

FOLDER = Path(__file__).resolve().parents[1] / "models" / "vibration"
FAULTS = ("imbalance", "misalignment", "outer_race", "inner_race", "looseness", "step", "stuck")
RULES = [{"kind": kind, "label": "anomaly", "n": 3, "m": 4} for kind in ("appears", "clears")]


def rows(path):
    """Every row of a recording."""
    return file_samples(path, "series", SystemClock(), ReplayConfig(path=path, rows_hz=500.0))


def outcomes(path):
    """Everything that the model's own pipeline makes of a recording."""
    manifest = load_manifest(FOLDER)
    table = {"schema": 1, "name": "fan", "source": "accel", "model": {"name": "vibration"}, "rule": RULES}
    config = build(PipelineConfig, table, "fan.toml")
    runner = open_model(manifest)
    try:
        pipeline = Pipeline(config, make_steps(config, "fan.toml", manifest.window), Inference(manifest, runner))
        for sample in rows(path):
            yield from pipeline.feed(sample)
    finally:
        runner.close()


def test_the_demo_recording_tells_its_damage_once():
    """The fault appears once and clears once, when demo.toml says; outside of it hardly a view is anomalous."""
    expected = tomllib.loads((FOLDER / "demo.toml").read_text())
    seen = list(outcomes(FOLDER / "demo.csv"))
    told = [draft for outcome in seen for draft in outcome.drafts]
    assert [draft.kind for draft in told] == ["appears", "clears"]
    begin, end = expected["damaged_s"]
    healthy = [o.result for o in seen if o.result.t_s + 1.03 < begin or o.result.t_s > end]
    sick = [o.result for o in seen if begin < o.result.t_s < end - 1.03]
    assert len(healthy) > 15 and not any(result.findings for result in healthy)
    assert len(sick) > 10 and all(result.findings for result in sick)
    for outcome, rule in zip([o for o in seen if o.drafts], expected["rule"], strict=True):
        assert rule["told_s"][0] <= outcome.result.t_s <= rule["told_s"][1]


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_an_anomaly_and_health_is_none(name):
    """One view of a machine with each fault, and of a healthy one, through file, window, spectrum and model."""
    (sick,) = outcomes(FOLDER / "golden" / f"{name}.csv")
    assert [finding.label for finding in sick.result.findings] == ["anomaly"]
    (healthy,) = outcomes(FOLDER / "golden" / "healthy.csv")
    assert healthy.result.findings == ()


@pytest.mark.parametrize("name", ["series", "vibration"])
def test_the_shipped_models_pass_their_own_golden_inputs(name):
    """Raw outputs within two quantisation steps and the stated finding, for a healthy input and every anomaly."""
    manifest = load_manifest(FOLDER.parent / name)
    runner = open_model(manifest)
    checks = selftest(manifest, runner, views)
    runner.close()
    assert len(checks) >= 5
    assert [check for check in checks if not check.ok] == []
