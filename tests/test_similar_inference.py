"""Similar pictures through a real model: marks, steps behind the decoder, states, trials, configuration, metrics."""

import numpy as np
import pytest

from agent.app.assembly import make_pipeline
from agent.app.report import similar_numbers
from agent.app.shelf import Shelf
from agent.cache import ResultCache
from agent.cli.status import _pipeline as status_lines
from agent.clock import SystemClock
from agent.config import load_config, load_pipeline
from agent.errors import ConfigError, ModelError
from agent.inference import Inference
from agent.loading import open_model
from agent.meters import Meters
from agent.metrics import Registry
from agent.pipeline import Pipeline, make_steps
from agent.records import Sample, View
from agent.settings.core import ModelUse, PipelineConfig
from agent.settings.runtime import CacheConfig, ModelsConfig, SimilarConfig
from agent.trial.seat import Seat
from tests.eyes import HEIGHT, WIDTH, make_eyes, scene
from tests.tiny_models import make_model

NEAR = SimilarConfig(enabled=True, max_error=0.1, recheck_every=10)
"""At 10 % a threshold is proved by 29 comparisons."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_eyes(tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="module")
def runner(manifest):
    opened = open_model(manifest)
    yield opened
    opened.close()


def look(infer, n, **more):
    return infer(View(scene(n, **more), n / 10, n / 10, size=(WIDTH, HEIGHT)))


def learnt(manifest, runner, config=NEAR, cache=None):
    """A stream that has looked at a still scene for a while; returns it and the number of the next picture."""
    infer = Inference(manifest, runner, cache, similar=config)
    for n in range(60):
        look(infer, n)
    assert infer.similar.counts.threshold > 0
    return infer, 60


def test_reused_findings_are_marked_and_followed(manifest, runner):
    """Marked "similar", without a run; the steps behind the decoder still see time go on: the track grows older."""
    infer, n = learnt(manifest, runner)
    made = [look(infer, n + i) for i in range(30)]
    uses = [one.cache for one in made]
    assert set(uses) == {"similar", "miss"}
    assert uses.count("similar") >= 24
    for one in made:
        assert one.runs == (one.cache == "miss")
        assert ("run" in one.timings_ms) == (one.cache == "miss")
        assert [f.label for f in one.findings] == ["light50#1"]
        assert one.findings[0].box == (20.0, 10.0, 40.0, 30.0)
    ages = [one.findings[0].value for one in made]
    assert np.diff(ages) == pytest.approx(0.1)


def test_what_is_told_of_a_reused_answer_is_the_computed_one(manifest, runner):
    """Digest and outputs are those of the picture that was computed, so that a finding can be traced to it."""
    infer, n = learnt(manifest, runner)
    computed = None
    for i in range(30):
        one = look(infer, n + i)
        if one.cache == "miss":
            computed = one
        elif computed is not None:
            assert one.input_digest == computed.input_digest
            assert (one.outputs["y"] == computed.outputs["y"]).all()


def test_a_thing_that_comes_or_goes_is_seen_at_once(manifest, runner):
    """It is further away than the noise."""
    infer, n = learnt(manifest, runner)
    for i, thing in enumerate([True, False, False, True, True, False] * 5):
        assert bool(look(infer, n + i, thing=thing).findings) is thing


def test_it_is_off_unless_asked_for(manifest, runner):
    """Neither the default nor a cache without it reuses anything that is not exactly the same."""
    for similar in (None, SimilarConfig()):
        infer = Inference(manifest, runner, ResultCache(CacheConfig(), lambda: 0.0), similar=similar)
        assert infer.similar is None
        assert {look(infer, n).cache for n in range(50)} == {"miss"}


def test_the_exact_cache_answers_before_a_model_runs(manifest, runner):
    """What is computed again may still be known exactly."""
    infer, _ = learnt(manifest, runner, cache=ResultCache(CacheConfig(), lambda: 0.0))
    infer.similar.forget()
    assert look(infer, 0).cache == "exact"


def test_a_gap_and_an_error_forget_the_picture_and_not_what_was_learnt(manifest, runner):
    """The next picture is computed, the one after may be reused."""
    infer, n = learnt(manifest, runner)
    gap = View(scene(n), n / 10, n / 10, size=(WIDTH, HEIGHT), gap=True)
    assert infer(gap).cache == "miss"
    with pytest.raises(ModelError):
        infer(View(np.zeros((3, 3), np.uint8)))
    assert look(infer, n + 1).cache == "miss"
    assert "similar" in {look(infer, n + 2 + i).cache for i in range(2)}


def test_a_model_on_trial_computes_everything(manifest, runner):
    """`computes_all`: nothing is reused and nothing learnt; afterwards the first picture is computed too."""
    infer, n = learnt(manifest, runner)
    counts, infer.computes_all = infer.similar.counts, True
    assert {look(infer, n + i).cache for i in range(20)} == {"miss"}
    assert infer.similar.counts == counts
    infer.computes_all = False
    assert look(infer, n + 20).cache == "miss"


def test_another_model_learns_anew(manifest, runner):
    """A swap brings a new use of a model: nothing of what was learnt about the old one counts."""
    first, n = learnt(manifest, runner)
    second = Inference(manifest, runner, similar=NEAR)
    assert second.similar.counts.threshold < 0 < first.similar.counts.threshold
    assert look(second, n).cache == "miss"


def test_models_with_state_and_without_pictures_are_left_alone(tmp_path):
    """A state that missed pictures is another state; sounds and rows are no pictures."""
    for kind in ("copy", "total"):
        made = make_model(tmp_path / kind, kind, "onnx")
        opened = open_model(made)
        assert Inference(made, opened, decoder=lambda *_: (), similar=NEAR).similar is None


PIPELINE = """
schema = 1
name = "{name}"
source = "camera"
[model]
name = "{folder}"
{more}
"""


@pytest.mark.parametrize(("agent", "pipeline", "used"), [
    ("", "", False), ("enabled = true", "", True),
    ("enabled = true", "similar = false", False), ("", "similar = true", True),
])  # fmt: skip
def test_a_pipeline_may_decide_for_itself(tmp_path, manifest, agent, pipeline, used):
    """[cache.similar] `enabled` holds for all, `[model] similar` for one."""
    (tmp_path / "limpet.toml").write_text(f"schema = 1\n[cache.similar]\n{agent}\n")
    (tmp_path / "eyes.toml").write_text(PIPELINE.format(name="eyes", folder=manifest.folder, more=pipeline))
    config = load_config(tmp_path / "limpet.toml")
    shelf = Shelf(ModelsConfig(folders=()), config.cache, SystemClock())
    made = make_pipeline(load_pipeline(tmp_path / "eyes.toml"), shelf)
    assert (made.inference.similar is not None) is used
    assert bool(similar_numbers(Seat(made))) is used
    shelf.close()


def test_a_pipeline_that_asks_for_what_cannot_be_is_told(tmp_path):
    """`similar = true` for a model of sensor rows would be silently without effect."""
    make_model(tmp_path / "rows", "copy", "onnx")
    (tmp_path / "eyes.toml").write_text(PIPELINE.format(name="eyes", folder="rows", more="similar = true"))
    shelf = Shelf(ModelsConfig(folders=(tmp_path,)), CacheConfig(), SystemClock())
    with pytest.raises(ConfigError, match=r"eyes\.toml: \[model\] key 'similar': model tiny 1\.0\.0 looks at tensor"):
        make_pipeline(load_pipeline(tmp_path / "eyes.toml"), shelf)


def seat(manifest, runner, config=NEAR):
    settings = PipelineConfig(schema=1, name="eyes", source="camera", model=ModelUse("eyes"))
    infer = Inference(manifest, runner, similar=config)
    return Seat(Pipeline(settings, make_steps(settings, "eyes.toml", None), infer))


def sample(n):
    return Sample("camera", n, n / 10, n / 10, n / 10, "image", scene(n))


def test_it_is_told_by_status_and_metrics(manifest, runner):
    """Hits, rechecks, disagreements, bounds, threshold and saved time, per pipeline."""
    eyes, registry = seat(manifest, runner), Registry()
    meters = Meters(registry)
    meters.watch_similar("eyes", lambda: similar_numbers(eyes))
    for n in range(100):
        for outcome in eyes.feed(sample(n)):
            meters.looked(outcome.result)
    told = similar_numbers(eyes)
    text = registry.text()
    assert f'limpet_similar_hits{{pipeline="eyes"}} {told["hits"]}' in text
    assert f'limpet_results_total{{pipeline="eyes",cache="similar"}} {told["hits"]}' in text
    assert told["hits"] > 40
    assert told["rechecks"] > 3
    assert 0 < told["error_bound"] <= 0.1
    for key in told:
        assert f"limpet_similar_{key}{{" in text
    words = "\n".join(status_lines("eyes", {"results": 1, "cached": 1, "gated": 0, "events": 0, "similar": told}))
    assert f"similar pictures: {told['hits']} reused" in words
    assert "0 of" in words
    assert "reused up to" in words


def test_a_recording_replayed_is_answered_the_same(manifest, runner):
    """Twice the same recording, twice the same results, marks included."""
    runs = []
    for _ in range(2):
        eyes = seat(manifest, runner)
        outcomes = [outcome.result for n in range(200) for outcome in eyes.feed(sample(n))]
        runs.append([(one.seq, one.cache, one.findings, one.input_digest) for one in outcomes])
    assert runs[0] == runs[1]
    assert {cache for _, cache, _, _ in runs[0]} == {"miss", "similar"}
