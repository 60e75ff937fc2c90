"""Real speech and public models, from raw samples through the agent's own steps, give the recorded answers."""

import wave

import numpy as np
import pytest

from agent.records import Sample, View
from pipelines import make_step
from tests.realdata import ROOT, case, inference, needed

pytestmark = needed


def _chunks(file, size):
    """A WAV as a source would deliver it, its first channel in samples of `size`."""
    with wave.open(str(ROOT / file)) as wav:
        assert (wav.getframerate(), wav.getsampwidth()) == (16_000, 2)
        signal = np.frombuffer(wav.readframes(wav.getnframes()), "<i2").reshape(-1, wav.getnchannels())[:, 0]
    for seq, at in enumerate(range(0, len(signal), size)):
        yield Sample("wav", seq, at / 16_000, 0, 0, "audio", signal[at : at + size], rate_hz=16_000)


def _heard(name, file, size=1600):
    """Every view of a file with what the model found in it."""
    infer = inference(name)
    window = make_step("window", infer.manifest.window, "a test")
    state = window.initial()
    for sample in _chunks(file, size):
        state, views = window(state, sample)
        for view in views:
            yield view, infer(view).findings


def test_words_are_read_from_raw_speech():
    """Five spoken words in three recordings: own MFCC front end, the spoken word on top with the recorded score."""
    recorded = case("o04-kws-raw")
    heard = {}
    for file in recorded["inputs"]:
        for view, (best, *_) in _heard("kws-ref", file):
            heard[f"{file}@{view.t0_s:.0f}s"] = best
    required = {place: word["word_spoken"] for place, word in recorded["expected"].items() if word["required"]}
    assert len(required) == 5
    assert {place: heard[place].label for place in required} == required
    for place in required:
        assert heard[place].score == pytest.approx(recorded["measured"][place][1], abs=0.02)


def test_features_made_elsewhere_are_fed_as_they_are():
    """Four feature files: the recorded label, each raw output within the recorded tolerance."""
    recorded = case("o05-micro-speech-int8")
    infer = inference("micro-speech")
    assert len(recorded["expected"]) == 4
    for file, expected in recorded["expected"].items():
        inferred = infer(View(np.load(ROOT / file)))
        assert inferred.findings[0].label == expected["label"], file
        raw = inferred.outputs["labels_softmax"].reshape(-1).astype(int)
        assert np.abs(raw - expected["int8_out_ref"]).max() <= expected["tol"], file


@pytest.mark.parametrize("size", [512, 16_000])
def test_the_wake_word_is_heard_in_a_stream_with_music(size):
    """Ten seconds, three words: at least two are heard in time, and nothing is heard elsewhere."""
    recorded = case("o06-streaming-wakeword")
    (file,), windows = recorded["inputs"], recorded["expected"]["true_windows_s"]
    times = [view.t1_s for view, found in _heard("wakeword", file, size) if found]
    hits = [any(start <= t <= end + 0.5 for t in times) for start, end in windows]
    outside = [t for t in times if not any(start <= t <= end + 1.0 for start, end in windows)]
    assert sum(hits) >= recorded["expected"]["tp"]
    assert outside == []


def test_the_wake_word_scores_are_the_recorded_ones():
    """The third word peaks where the reference run peaked, and nothing outside the words comes near."""
    recorded = case("o06-streaming-wakeword")
    infer = inference("wakeword")
    window = make_step("window", infer.manifest.window, "a test")
    state, peak, outside = window.initial(), 0.0, 0.0
    windows = recorded["expected"]["true_windows_s"]
    for sample in _chunks(recorded["inputs"][0], 4000):
        state, views = window(state, sample)
        for view in views:
            score = (int(infer(view).outputs["StatefulPartitionedCall:0"].reshape(-1)[0]) + 128) / 256
            if windows[2][0] <= view.t1_s <= windows[2][1] + 0.5:
                peak = max(peak, score)
            elif not any(start <= view.t1_s <= end + 1.0 for start, end in windows):
                outside = max(outside, score)
    assert peak == pytest.approx(0.906, abs=0.02)
    assert outside == pytest.approx(recorded["measured"]["max_p_outside"], abs=0.02)
