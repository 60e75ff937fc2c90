"""A pipeline turns samples into results and drafts, and says where each came from."""

import dataclasses

import numpy as np
import pytest

from agent.app.assembly import assemble, make_pipeline
from agent.app.shelf import Shelf
from agent.clock import SystemClock
from agent.config import PipelineFile, load_pipeline, load_pipelines
from agent.errors import ConfigError, ModelError
from agent.records import Channel, Sample
from agent.settings.runtime import CacheConfig, ModelsConfig

STATISTIC = """
schema = 1
name = "machine"
source = "load"
class = "routine"
[detector]
step = "streaming_zscore"
warm_rows = 20
[[rule]]
kind = "appears"
label = "anomaly"
class = "critical"
cooldown_s = 5
[[rule]]
kind = "every"
period_s = 10
stream = "summary"
"""


@pytest.fixture
def shelf(tmp_path):
    shelf = Shelf(ModelsConfig(folders=(tmp_path / "none",)), CacheConfig(), SystemClock())
    yield shelf
    shelf.close()


def _file(tmp_path, text, name="p.toml"):
    path = tmp_path / name
    path.write_text(text)
    return load_pipeline(path)


def _row(i, value, **more):
    t_s = 100.0 + i
    row = np.array([value])
    return Sample("load", i, t_s, t_s + 7, 1.7e9 + i, "series", row, "synced", 1.0, (Channel("cpu", "%"),), **more)


def _feed(pipeline, samples):
    return [outcome for sample in samples for outcome in pipeline.feed(sample)]


def test_an_anomaly_becomes_one_event_with_its_origin(tmp_path, shelf):
    """The draft carries stream, class, times, digests and the rule that decided."""
    pipeline = make_pipeline(_file(tmp_path, STATISTIC), shelf, agent_digest="cafe")
    rng = np.random.default_rng(3)
    values = 10 + rng.normal(0, 0.1, 60)
    values[40:44] = 60.0
    outcomes = _feed(pipeline, [_row(i, v) for i, v in enumerate(values)])
    assert [o.result.seq for o in outcomes] == list(range(60))
    anomalies = [d for o in outcomes for d in o.drafts if d.kind == "appears"]
    assert len(anomalies) == 1
    draft = anomalies[0]
    assert (draft.stream, draft.event_class, draft.clock) == ("machine", "critical", "synced")
    assert draft.t_wall_s == 1.7e9 + 40
    assert draft.t_mono_s == 147.0
    assert draft.config_digest == "cafe"
    assert len(draft.pipeline_digest) == 16
    assert draft.model is None
    assert draft.cache is None
    assert draft.body["value"] == 60.0
    assert draft.body["unit"] == "%"


def test_a_rule_may_choose_stream_and_take_the_class_of_its_pipeline(tmp_path, shelf):
    """Period summaries go where their rule says."""
    pipeline = make_pipeline(_file(tmp_path, STATISTIC), shelf)
    outcomes = _feed(pipeline, [_row(i, 1.0 + i % 2) for i in range(35)])
    summaries = [d for o in outcomes for d in o.drafts if d.kind == "every"]
    assert len(summaries) == 3
    assert {(d.stream, d.event_class) for d in summaries} == {("summary", "routine")}


def test_a_gate_holds_views_back_and_rules_do_not_take_that_for_absence(tmp_path, shelf):
    """With a gate, results come only from views that passed."""
    text = STATISTIC + '\n[gate]\nstep = "interval"\nevery_s = 4\n'
    pipeline = make_pipeline(_file(tmp_path, text), shelf)
    outcomes = _feed(pipeline, [_row(i, 1.0) for i in range(12)])
    assert [o.result is not None for o in outcomes] == [i % 4 == 0 for i in range(12)]


def test_the_pipeline_digest_changes_with_its_configuration(tmp_path, shelf):
    """Events of another configuration can be told apart."""
    one = make_pipeline(_file(tmp_path, STATISTIC), shelf)
    two = make_pipeline(_file(tmp_path, STATISTIC.replace("cooldown_s = 5", "cooldown_s = 6")), shelf)
    values = [1.0] * 30 + [90.0]
    digests = {
        d.pipeline_digest
        for p in (one, two)
        for o in _feed(p, [_row(i, v + i % 2) for i, v in enumerate(values)])
        for d in o.drafts
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('step = "streaming_zscore"', 'step = "magic"'), ["[detector]", "'magic' is no detector step"]),
        (("warm_rows = 20", "warm_rows = 1"), ["[detector]", "warm_rows", "out of range"]),
        (('kind = "appears"', 'kind = "wish"'), ["key 'rule': #1", "'wish' is not allowed"]),
        (('name = "machine"', 'name = "no/slash"'), ["key 'name'"]),
        (("[detector]", '[model]\nname = "x"\n[detector]'), ["either [model] or [detector]"]),
    ],
)
def test_a_wrong_pipeline_file_names_the_place(tmp_path, shelf, change, words):
    """The message says which file and table."""
    with pytest.raises(ConfigError) as caught:
        make_pipeline(_file(tmp_path, STATISTIC.replace(*change)), shelf)
    for word in ["p.toml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("label", "refused"), [('"stpo"', True), ('["yes", "n?"]', False), ('["yes", "nay"]', True)])
def test_a_rule_for_a_label_that_the_model_never_says_is_refused(tmp_path, shelf, label, refused):
    """It would be silent for ever; the message shows the labels that there are."""
    text = 'schema = 1\nname = "w"\nsource = "s"\n[model]\nname = "keywords"\n[[rule]]\nkind = "appears"\n'
    file = _file(tmp_path, f"{text}label = {label}\n")
    if not refused:
        assert make_pipeline(file, shelf).model is not None
        return
    with pytest.raises(ConfigError, match=r"p.toml \[rule\] #1: key 'label': .* fits no label of model keywords.*stop"):
        make_pipeline(file, shelf)


def test_a_model_that_is_not_there_is_named_with_what_there_is(tmp_path, shelf):
    """The publisher or the operator sees where it was looked for."""
    text = 'schema = 1\nname = "a"\nsource = "s"\n[model]\nname = "nowhere"\n'
    with pytest.raises(ModelError, match="model 'nowhere' is in none of"):
        make_pipeline(_file(tmp_path, text), shelf)


def test_a_bad_pipeline_does_not_stop_the_good_ones(tmp_path, shelf):
    """Wrong files, unknown sources and missing models are set aside with their reasons."""
    _file(tmp_path, STATISTIC, "good.toml")
    (tmp_path / "broken.toml").write_text("schema = 1\nnam = 1\n")
    (tmp_path / "twice.toml").write_text(STATISTIC)
    off = STATISTIC.replace('"machine"', '"off"').replace("source", "enabled = false\nsource")
    (tmp_path / "off.toml").write_text(off)
    (tmp_path / "lost.toml").write_text(STATISTIC.replace('"machine"', '"lost"').replace('"load"', '"moon"'))
    files, broken = load_pipelines([tmp_path, tmp_path / "missing"])
    assert sorted(f.config.name for f in files) == ["lost", "machine"]
    assert set(broken) == {"broken", "twice", str(tmp_path / "missing")}
    assert "taken by" in broken["twice"]
    made = assemble(files, ["load"], shelf)
    assert [p.config.name for p in made.pipelines] == ["machine"]
    assert "no usable [sources.moon]" in made.broken["lost"]


def test_timings_count_every_stage(tmp_path, shelf):
    """Gate, pre and run times are reported in milliseconds."""
    pipeline = make_pipeline(_file(tmp_path, STATISTIC), shelf)
    [outcome] = list(pipeline.feed(_row(0, 1.0)))
    assert set(outcome.result.timings_ms) == {"gate", "pre", "run"}
    assert all(0 <= ms < 1000 for ms in outcome.result.timings_ms.values())


def test_a_pipeline_file_is_a_frozen_record(tmp_path):
    """What was read cannot change under the running pipeline."""
    file = _file(tmp_path, STATISTIC)
    assert isinstance(file, PipelineFile)
    with pytest.raises(dataclasses.FrozenInstanceError):
        file.config.name = "x"
