"""The shipped keyword model hears what it was made for: its golden sounds, its demo, and real people."""

import sys
import tomllib
import wave

import numpy as np
import pytest

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.records import Sample, View
from agent.rules import initial, step
from agent.settings.rules import Appears
from agent.strict import build
from pipelines import make_step
from tests import realdata

FOLDER = realdata.REPO / "models" / "keywords"
REAL = realdata.ROOT / "inputs"
WORDS = (
    ("down.wav", 0, "down"), ("yes.wav", 0, "yes"), ("yes_1000ms.wav", 0, "yes"), ("no_1000ms.wav", 0, "no"),
    ("right_left_up.wav", 0, "right"), ("right_left_up.wav", 1, "left"), ("right_left_up.wav", 2, "up"),
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest():
    return load_manifest(FOLDER)


@pytest.fixture
def infer(manifest):
    return Inference(manifest, open_model(manifest))


def _sound(path):
    with wave.open(str(path)) as wav:
        assert (wav.getframerate(), wav.getsampwidth()) == (16_000, 2)
        return np.frombuffer(wav.readframes(wav.getnframes()), "<i2").reshape(-1, wav.getnchannels())[:, 0]


def _word(infer, sound):
    found = infer(View(sound, 0.0, 1.0, 16_000.0)).findings
    return found[0].label if found else ""


def _told(manifest, infer, sound, rule):
    """What `rule` tells about a recording, and when the deciding view begins."""
    window = make_step("window", manifest.window, "model.toml")
    state, judged, told = window.initial(), initial(rule), []
    for seq, at in enumerate(range(0, len(sound), 1024)):
        sample = Sample("demo", seq, at / 16_000, 0, 0, "audio", sound[at : at + 1024], rate_hz=16_000)
        state, views = window(state, sample)
        for view in views:
            judged, decisions = step(rule, judged, infer(view).findings, view.t0_s)
            told += [(d.body["label"], view.t0_s) for d in decisions]
    return told


def test_goldens_give_their_recorded_outputs(manifest, infer):
    """Five sounds of voices that the training never heard: the label, and raw outputs within two steps."""
    assert len(manifest.goldens) >= 5
    assert {g.label for g in manifest.goldens} >= {"yes", "stop", "left", ""}
    for golden in manifest.goldens:
        inferred = infer(View(_sound(FOLDER / golden.input), 0.0, 1.0, 16_000.0))
        assert (inferred.findings[0].label if inferred.findings else "") == golden.label, golden.input
        expected = np.load(FOLDER / golden.output)
        for port, raw in inferred.outputs.items():
            assert np.abs(raw.astype(int) - expected[port].astype(int)).max() <= golden.tolerance, golden.input


def test_the_file_is_small_and_integer(manifest):
    """At most 2 MB, int8 from end to end."""
    (artifact,) = manifest.artifacts
    assert (FOLDER / artifact.file).stat().st_size <= 160_000
    assert artifact.precision == "int8"
    assert {port.dtype for port in (*manifest.inputs, *manifest.outputs)} == {"int8"}


def test_the_demo_tells_each_word_once_in_time(manifest, infer):
    """Every keyword of the demo recording is one event at the time written beside it, and nothing else is told."""
    demo = tomllib.loads((FOLDER / "demo.toml").read_text())
    told = _told(manifest, infer, _sound(FOLDER / "demo.wav"), build(Appears, demo["rule"], "demo.toml"))
    assert [label for label, _ in told] == [word["label"] for word in demo["word"]]
    for (_, t_s), word in zip(told, demo["word"], strict=True):
        assert word["told_s"][0] <= t_s <= word["told_s"][1]


@realdata.needed
def test_real_people_are_understood(manifest, infer):
    """Seven words by real people: as many right as model.toml says, and no word in noise or silence."""
    right = sum(_word(infer, _sound(REAL / f)[s * 16_000 : (s + 1) * 16_000]) == word for f, s, word in WORDS)
    assert right == manifest.accuracy["real_words"]["right"]
    assert right >= 6
    assert [_word(infer, _sound(REAL / f)) for f in ("noise_1000ms.wav", "silence_1000ms.wav")] == ["", ""]


def test_softer_words_stay_the_same(manifest, infer):
    """A quarter of the loudness changes no golden keyword: the front end takes each band's mean out."""
    for golden in manifest.goldens:
        sound = _sound(FOLDER / golden.input)
        if golden.label:
            assert _word(infer, sound // 4) == golden.label, golden.input


def test_no_sentence_of_the_training_holds_a_keyword():
    """What is spoken as "unknown" must not contain what shall be known."""
    sys.path.insert(0, str(realdata.REPO / "tools"))
    try:
        import keyword_texts as texts
    finally:
        sys.path.pop(0)
    spoken = " ".join((*texts.SENTENCES, *texts.NEAR, *texts.OTHER, *texts.UNSEEN)).lower().split()
    assert not set(spoken) & set(texts.KEYWORDS)
    assert not set(texts.UNSEEN) & {*texts.NEAR, *texts.OTHER}
