"""A candidate runs beside the current model and tells nobody; whether they disagree decides, and where is shown."""

import itertools
import random
import time

import numpy as np
import pytest

from agent.depot import read_state
from agent.envelope.atrest import StoreKey
from agent.pipeline import Outcome
from agent.recall import Clips, Recorder, forget
from agent.records import Channel, Sample
from agent.trial.attempt import paired
from tests import rigs
from tests.candidates import offer, sample

rig = pytest.fixture(rigs.rig)


def test_a_candidate_that_agrees_is_promoted_and_then_proved_live(rig, tmp_path):
    """Shadow, then live, then committed; in the shadow nobody hears of it."""
    agent = rig()
    offer(agent.depot, tmp_path, "good", "1.1.0", mode="shadow")
    seen = agent.until(agent.jobs)
    agent.drained()
    assert set(agent.versions()) == {"1.0.0"}
    assert [r.seq for _, r in agent.results] == list(range(seen))
    (job,) = agent.jobs()
    assert (job.verdict, job.detail["views"], job.detail["differing"]) == ("promote", 20, 0)
    assert job.detail["events"] > 0
    agent.settle()
    assert read_state(agent.depot).model("letters").trial.mode == "live"
    seen = agent.until(agent.jobs, first=seen)
    assert agent.jobs()[0].verdict == "commit"
    agent.settle()
    assert read_state(agent.depot).model("letters").active.version == "1.1.0"
    agent.drained()
    assert [r.seq for _, r in agent.results] == list(range(seen))


def test_a_candidate_that_disagrees_goes_back_with_the_evidence(rig, tmp_path):
    """It never spoke: results and events are those of the current model, and the job shows what it would have said."""
    agent = rig()
    offer(agent.depot, tmp_path, "other", "1.1.0", mode="shadow")
    agent.until(agent.jobs, largest=lambda _i: 1)
    (job,) = agent.jobs()
    assert (job.verdict, job.reason) == ("roll_back", "PROBATION_FAILED")
    shown = job.detail["evidence"]["views"][0]
    assert shown["now"] == [{"label": "b", "score": 0.8}]
    assert shown["then"][0]["label"] != "b"
    assert set(agent.versions()) == {"1.0.0"}
    assert {d.body["label"] for d in agent.drafts if d.stream == "p"} == {"b"}
    assert "says something else on" in agent.alarms["update-letters"]


@pytest.mark.parametrize(
    ("kind", "words"), [("nan", "NaN"), ("raises", ""), ("slow", "too slow"), ("damaged", "cannot be loaded")]
)
def test_a_bad_candidate_in_the_shadow_harms_nobody(rig, tmp_path, kind, words):
    """It fails beside the current model, whose results are all there."""
    agent = rig(shadow_inferences=1000)
    offer(agent.depot, tmp_path, kind, "1.1.0", mode="shadow")
    seen = agent.until(agent.jobs, high=0.95, rate_hz=50)
    agent.drained()
    assert words in agent.jobs()[0].text
    assert agent.jobs()[0].verdict == "roll_back"
    assert [r.seq for _, r in agent.results] == list(range(seen))
    assert set(agent.versions()) == {"1.0.0"}


def test_recent_inputs_tell_before_the_first_live_one(rig, tmp_path):
    """'would change 3 of 3 events; here they are': the rules' decisions are compared on the device's own clips."""
    agent = rig()
    clips = Clips(tmp_path / "recall", StoreKey(bytes(32)), 1_000_000)
    for first in (0, 100, 200):
        clips.keep("s", [sample(first + i, 2) for i in range(12)])
    agent.recent = {"s": list(clips.of("s"))}
    offer(agent.depot, tmp_path, "other", "1.1.0", mode="shadow")
    end_s = time.monotonic() + 20
    while not agent.jobs() and time.monotonic() < end_s:
        agent.turn()
    assert agent.results == []
    (job,) = agent.jobs()
    assert job.verdict == "roll_back"
    assert job.detail["views"] == 36
    assert "would change 3 of 3 events" in job.text
    assert [(one["change"], one["label"]) for one in job.detail["evidence"]["events"][:2]] == [
        ("would not come", "c"), ("would come besides", "a"),
    ]  # fmt: skip
    assert job.detail["recent"]["inputs"] == 36


def test_recent_inputs_that_speak_for_it_lead_to_the_live_comparison(rig, tmp_path):
    """And the verdict on the live one names both."""
    agent = rig()
    agent.recent = {"s": [[sample(i, 1) for i in range(12)]]}
    offer(agent.depot, tmp_path, "good", "1.1.0", mode="shadow")
    agent.until(agent.jobs)
    (job,) = agent.jobs()
    assert (job.verdict, job.detail["views"], job.detail["recent"]["inputs"]) == ("promote", 20, 12)
    assert "0 of 1 events" in job.detail["recent"]["text"]


def _image(i, rng):
    data = rng.integers(0, 255, (40, 50, 3), np.uint8)
    return Sample("camera", i, i / 10, 50 + i / 10, 1.7e9 + i / 10, "image", data, "synced")


@pytest.fixture
def clips(tmp_path):
    return Clips(tmp_path / "recall", StoreKey(b"k" * 32), 200_000)


def test_a_clip_comes_back_as_it_was(clips):
    """Every field of every sample; it says itself that it is a replay, and that nobody knows what came before."""
    more = ("synced", 2.0, (Channel("cpu", "%"),))
    rows = [Sample("load", i, i + 0.0, 7.0 + i, 1e9 + i, "series", np.array([1.5 * i]), *more) for i in range(3)]
    clips.keep("load", rows)
    (again,) = clips.of("load")
    assert [one.data.tolist() for one in again] == [[0.0], [1.5], [3.0]]
    assert [(one.seq, one.t_s, one.t_mono_s, one.t_wall_s) for one in again] == [
        (one.seq, one.t_s, one.t_mono_s, one.t_wall_s) for one in rows
    ]
    assert again[1].channels == (Channel("cpu", "%"),)
    assert (again[1].rate_hz, again[1].clock, again[1].modality) == (2.0, "synced", "series")
    assert [one.gap for one in again] == [True, False, False]
    assert all(one.replay for one in again)


def test_the_clips_never_take_more_than_their_room_and_the_oldest_goes(clips):
    """Bounded by [updates] ring_mb, all sources together."""
    rng = np.random.default_rng(1)
    for i in range(30):
        clips.keep("camera" if i % 2 else "door", [_image(i, rng), _image(i + 1, rng)])
        assert clips.numbers()["held_bytes"] <= 200_000
    assert clips.numbers()["written_bytes"] > 200_000
    assert [clip[0].seq for clip in clips.of("camera")][-1] == 29
    assert next(iter(clips.of("door")))[0].seq > 10


def test_nothing_of_a_clip_can_be_read_without_the_key(clips, tmp_path):
    """Sealed on the disk, mode 0600; another key opens nothing."""
    clips.keep("camera", [sample(0, 1)])
    (path,) = (tmp_path / "recall").glob("*.clip")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert b"tensor" not in path.read_bytes()
    assert list(Clips(tmp_path / "recall", StoreKey(b"x" * 32), 200_000).of("camera")) == []


def test_a_clip_that_was_damaged_or_moved_is_passed_over(clips, tmp_path):
    """One flipped byte, or another name: it is not taken for what it says."""
    for i in range(3):
        clips.keep("camera", [sample(i, 1)])
    first, second, _ = sorted((tmp_path / "recall").glob("*.clip"))
    data = bytearray(first.read_bytes())
    data[40] ^= 1
    first.write_bytes(data)
    second.rename(second.with_name("door-0000000002.clip"))
    assert [clip[0].seq for clip in clips.of("camera")] == [2]
    assert list(clips.of("door")) == []


def _recorder(clips, times):
    return Recorder("camera", clips, every_s=60.0, clip_s=1.0, mono_s=lambda: next(times))


def test_a_recorder_keeps_a_clip_now_and_then_and_no_more(clips):
    """A second of every minute; between two clips nothing is held."""
    rng = np.random.default_rng(2)
    recorder = _recorder(clips, itertools.count(0.0, 0.1))
    for i in range(1500):
        recorder.take(_image(i, rng))
    kept = [clip[0].seq for clip in clips.of("camera")]
    assert clips.numbers()["clips"] == len(kept) >= 2
    lengths = [clip[-1].t_s - clip[0].t_s for clip in clips.of("camera")]
    assert max(lengths) < 1.0


def test_a_gap_ends_a_clip(clips):
    """What follows it is not consecutive, and rules look at several in a row."""
    recorder = _recorder(clips, itertools.count())
    for one in (sample(0, 1), sample(1, 1), sample(9, 1, gap=True), sample(10, 1)):
        recorder.take(one)
    assert [[one.seq for one in clip] for clip in clips.of("camera")] == [[0, 1]]


def test_a_clip_takes_an_eighth_of_the_room_at_most(clips):
    """However long it should be: large pictures make short clips."""
    rng = np.random.default_rng(3)
    recorder = Recorder("camera", clips, 0.0, 600.0, lambda: 0.0)
    for i in range(40):
        recorder.take(_image(i, rng))
    sizes = [sum(one.data.nbytes for one in clip) for clip in clips.of("camera")]
    assert 0 < max(sizes) <= 25_000


def test_forgetting_leaves_nothing(clips, tmp_path):
    """What is switched off is not kept either."""
    clips.keep("camera", [sample(0, 1)])
    forget(tmp_path / "recall")
    assert list((tmp_path / "recall").iterdir()) == []


def test_random_bytes_are_no_clip(clips, tmp_path):
    """Whatever lies there, reading it ends."""
    (tmp_path / "recall").mkdir()
    for i in range(20):
        (tmp_path / "recall" / f"camera-{i:010d}.clip").write_bytes(random.Random(i).randbytes(200))
    assert list(clips.of("camera")) == []


def test_models_with_other_windows_are_compared_by_what_each_said_last():
    """A version may look at longer pieces: then views have no like, events still have."""
    told = [Outcome(f"now {i}", (f"event {i}",)) for i in range(3)]
    seen = [Outcome("then 0", ("event a",)), Outcome("then 1", ())]
    assert paired(told, told) == [(one, one) for one in told]
    assert paired(told, seen) == [
        (Outcome("now 2", ("event 0", "event 1", "event 2")), Outcome("then 1", ("event a",))),
    ]  # fmt: skip
    assert paired(told, []) == [(Outcome("now 2", ("event 0", "event 1", "event 2")), Outcome(None, ()))]
    assert paired([], []) == []


def test_a_view_that_the_current_model_refuses_is_no_fault_of_the_shadow(rig, tmp_path):
    """Neither counted nor compared, and both go on from the same place."""
    agent = rig()
    offer(agent.depot, tmp_path, "good", "1.1.0", mode="shadow")
    seen = agent.until(lambda: agent.seats[0].hangs_s > 0 or len(agent.shelf._runners) == 2)
    agent.feed([sample(seen, 0, data=np.zeros((1, 5), np.float32))])
    agent.until(agent.jobs, first=seen + 1)
    assert [one for _, one in agent.results if isinstance(one, tuple)] == [("p", "model")]
    assert (agent.jobs()[0].verdict, agent.jobs()[0].detail["differing"]) == ("promote", 0)
