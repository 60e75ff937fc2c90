"""Steps behind a decoder: their order, what they remember, and how a model and a pipeline carry it."""

import dataclasses
from dataclasses import dataclass, replace

import numpy as np
import pytest

import pipelines
from agent.errors import ConfigError, ModelError
from agent.inference import Inference
from agent.loading import open_model
from agent.pipeline import Pipeline, make_steps
from agent.records import Finding, Sample, View
from agent.settings.core import PipelineConfig
from agent.strict import build
from pipelines.chain import Chain, make_posts
from tests.tiny_models import make_model


@dataclass(frozen=True, slots=True)
class Sum:
    """Follow: the first score plus all before it; a gap begins anew, unless told not to."""

    over_gaps: bool = False

    def initial(self):
        return 0.0

    def __call__(self, state, findings, view, /):
        if view.gap and not self.over_gaps:
            state = 0.0
        state += findings[0].score if findings else 0.0
        return state, (Finding("sum", state),)


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    steps = {**pipelines.STEPS, "follow": {**pipelines.STEPS["follow"], "sum": "tests.test_chain:Sum"}}
    monkeypatch.setattr(pipelines, "STEPS", steps)


def found(*scores):
    return tuple(Finding("a", score) for score in scores)


def test_steps_with_and_without_memory_stand_in_one_list():
    """The order of the file is the order of the steps, whichever of them remembers."""
    top, add = {"step": "top", "n": 1}, {"step": "sum"}
    chain = Chain(make_posts([top, add], "a test"))
    assert [chain(found(1.0, 5.0), View(np.empty(0)))[0].score for _ in range(3)] == [5.0, 10.0, 15.0]
    other = Chain(make_posts([add, top, {"step": "min_score", "score": 1.0}], "a test"))
    assert [chain_of.label for chain_of in other(found(0.4), View(np.empty(0)))] == []
    assert other(found(0.6), View(np.empty(0)))[0].score == pytest.approx(1.0)


def test_what_a_chain_remembers_can_be_put_back():
    """States are frozen: a chain goes on from where another stood, and forgets when it is told to."""
    chain = Chain(make_posts([{"step": "sum"}], "a test"))
    chain(found(2.0), View(np.empty(0)))
    kept = chain.state
    chain(found(2.0), View(np.empty(0)))
    chain.state = kept
    assert chain(found(1.0), View(np.empty(0)))[0].score == 3.0
    chain.reset()
    assert chain(found(1.0), View(np.empty(0)))[0].score == 1.0


def test_a_step_of_neither_kind_is_refused_with_both_kinds_named():
    """The message lists what [[post]] takes."""
    with pytest.raises(ConfigError, match=r"f\.toml \[\[post\]\] #2.*'smoth' is no post step.*min_score.*sum"):
        make_posts([{"step": "sum"}, {"step": "smoth"}], "f.toml")


def _tiny(folder, post):
    manifest = make_model(folder, "copy", "onnx")
    toml = (folder / "model.toml").read_text() + '[decoder]\nstep = "classify"\n' + post
    (folder / "model.toml").write_text(toml)
    return manifest, open_model(manifest)


def test_a_model_brings_steps_of_its_own(tmp_path):
    """[[post]] of model.toml runs behind its decoder, knows the stream, and begins anew when the model is reset."""
    from agent.manifest import load_manifest

    _, runner = _tiny(tmp_path, '[[post]]\nstep = "sum"\n')
    infer = Inference(load_manifest(tmp_path), runner)
    seen = View(np.array([[0.5, 0.1, 0.1, 0.1]], np.float32))
    assert [infer(seen).findings[0].score for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5])
    assert infer(replace(seen, gap=True)).findings[0].score == pytest.approx(0.5)
    infer.reset()
    assert infer(seen).findings[0].score == pytest.approx(0.5)


def test_a_refused_view_does_not_make_the_steps_forget(tmp_path):
    """Only the state tensors start again: what was open can still be closed."""
    from agent.manifest import load_manifest

    _, runner = _tiny(tmp_path, '[[post]]\nstep = "sum"\n')
    infer = Inference(load_manifest(tmp_path), runner)
    infer(View(np.array([[0.5, 0.1, 0.1, 0.1]], np.float32)))
    with pytest.raises(ModelError):
        infer(View(np.zeros((1, 5), np.float32)))
    assert infer(View(np.array([[0.25, 0.1, 0.1, 0.1]], np.float32))).findings[0].score == pytest.approx(0.75)


def test_a_wrong_step_of_a_model_is_the_publishers_fault(tmp_path):
    """A ModelError that names the model and the place."""
    from agent.manifest import load_manifest

    _, runner = _tiny(tmp_path, '[[post]]\nstep = "top"\nn = 0\n')
    with pytest.raises(ModelError, match=r"tiny 1\.0\.0 \[\[post\]\] #1.*'n'"):
        Inference(load_manifest(tmp_path), runner)


def _pipeline():
    table = {
        "schema": 1, "name": "p", "source": "s", "detector": {"step": "streaming_zscore", "always": True},
        "window": {"step": "rows", "length": 1}, "post": [{"step": "sum"}],
    }  # fmt: skip
    config = build(PipelineConfig, table, "p.toml")
    return Pipeline(config, make_steps(config, "p.toml", None), None)


def _sums(pipeline, rows):
    samples = [Sample("s", i, float(i), 0, 0, "series", np.array([float(i % 7)])) for i in rows]
    return [f.score for s in samples for o in pipeline.feed(s) for f in o.result.findings]


def test_a_pipeline_hands_on_what_its_steps_remember():
    """A pipeline that takes another's place goes on with the sums that one had, as if nothing had changed."""
    whole = _sums(_pipeline(), range(80))
    first, second = _pipeline(), _pipeline()
    head = _sums(first, range(60))
    second.go_on_from(first)
    assert head + _sums(second, range(60, 80)) == pytest.approx(whole)
    assert whole[-1] > whole[60] > 0


def test_a_state_is_part_of_what_a_pipeline_carries():
    """`carried` is a frozen record of all states."""
    pipeline = _pipeline()
    _sums(pipeline, range(60))
    assert pipeline.carried.post == (pytest.approx(_sums(_pipeline(), range(60))[-1]),)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pipeline.carried.post = ()


def test_the_end_of_a_recording_tells_what_is_open():
    """Steps that have something open tell it, the rest of the list sees it; then the stream is forgotten."""
    chain = Chain(make_posts([{"step": "sum"}, {"step": "spans"}, {"step": "min_score", "score": 0.5}], "a test"))
    for i in range(10):
        chain(found(0.1), View(np.empty(0), i, i + 1.0))
    assert [(f.label, f.interval) for f in chain.finish(found(0.2, 0.9))] == [("a", None), ("sum", (3.97, 10.0))]
    assert chain.state[0] == 0.0
    assert chain.finish() == ()


def test_a_pipeline_judges_what_was_open_at_the_end():
    """One more result at the time of the end, rules included; none when nothing was open."""
    table = {
        "schema": 1, "name": "p", "source": "s", "detector": {"step": "streaming_zscore", "always": True},
        "post": [{"step": "sum"}, {"step": "spans", "min_gap_s": 2}], "rule": [{"kind": "appears"}],
    }  # fmt: skip
    config = build(PipelineConfig, table, "p.toml")
    pipeline = Pipeline(config, make_steps(config, "p.toml", None), None)
    last = Sample("s", 59, 59.0, 7.0, 8.0, "series", np.array([1.0]))
    assert list(pipeline.finish(last)) == []
    for i in range(60):
        assert [o.drafts for o in pipeline.feed(Sample("s", i, i, 0, 0, "series", last.data + i % 7))] == [()]
    (outcome,) = pipeline.finish(last)
    assert [f.label for f in outcome.result.findings] == ["sum"]
    assert (outcome.result.t_s, outcome.result.t_mono_s, outcome.result.t_wall_s) == (59.0, 7.0, 8.0)
    assert [draft.body["label"] for draft in outcome.drafts] == ["sum"]
