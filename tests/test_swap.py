"""One model follows another between two samples; a bad one goes back by itself, and no sample is lost over it."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from agent.depot import burn_all, folder_of, read_state
from agent.errors import ModelError
from agent.trial.attempt import Attempt
from agent.trial.judge import Limits, Probation
from agent.trial.seat import Change, Seat
from tests import rigs
from tests.candidates import change, offer, publish, sample, write_candidate

rig = pytest.fixture(rigs.rig)


def test_a_candidate_takes_the_seat_under_a_10_fps_stream_and_no_sample_is_lost(rig, tmp_path):
    """Every number is looked at once, in order; the change fits between two frames; the record follows."""
    agent = rig()
    seen = agent.until(lambda: len(agent.results) > 5, rate_hz=10)
    offer(agent.depot, tmp_path, "good", "1.1.0")
    seen = agent.until(agent.jobs, first=seen, rate_hz=10)
    agent.drained()
    assert [r.seq for _, r in agent.results] == list(range(seen))
    versions = agent.versions()
    at = versions.index("1.1.0")
    assert set(versions[:at]) == {"1.0.0"}
    assert set(versions[at:]) == {"1.1.0"}
    assert [(s.before.version, s.after.version) for s in agent.swaps] == [("1.0.0", "1.1.0")]
    assert agent.swaps[0].spent_s < 0.1
    assert agent.results[at][0] - agent.results[at - 1][0] < 0.2
    (job,) = agent.jobs()
    assert (job.do, job.model, job.verdict, job.detail["inferences"]) == ("verdict", "letters", "commit", 20)
    agent.settle()
    state = read_state(agent.depot).model("letters")
    assert (state.active.version, state.good, state.trial, state.floor) == ("1.1.0", None, None, "1.1.0")
    agent.turn()
    agent.until(lambda: len(agent.results) > seen + 5, first=seen)
    assert set(agent.versions()[at:]) == {"1.1.0"}
    assert len(agent.swaps) == 1


def test_rules_keep_what_they_know_across_a_change(rig, tmp_path):
    """A thing that is present stays present: no second event because the model is another one."""
    agent = rig()
    seen = agent.until(lambda: len(agent.results) > 5, largest=lambda _i: 2)
    offer(agent.depot, tmp_path, "good", "1.1.0")
    agent.until(agent.jobs, first=seen, largest=lambda _i: 2)
    assert [(d.kind, d.body["label"]) for d in agent.drafts if d.stream == "p"] == [("appears", "c")]


def test_rules_keep_what_a_candidate_saw_when_it_goes_back(rig, tmp_path):
    """The thing that appeared during the trial is not told once more by the model before, which never saw it come."""
    agent = rig(probation_inferences=10_000)
    seen = agent.until(lambda: len(agent.results) > 5, largest=lambda _i: 1)
    offer(agent.depot, tmp_path, "nan", "1.1.0")
    seen = agent.until(lambda: agent.versions()[-1] == "1.1.0", first=seen, largest=lambda _i: 1)
    seen = agent.until(lambda: len(agent.results) > seen + 5, first=seen, largest=lambda _i: 2)
    seen = agent.until(lambda: agent.versions()[-1] == "1.0.0", first=seen, largest=lambda _i: 2, high=0.95)
    agent.until(lambda: len(agent.results) > seen + 5, first=seen, largest=lambda _i: 2)
    agent.drained()
    assert [d.body["label"] for d in agent.drafts if d.stream == "p"] == ["b", "c"]


BAD = {
    "nan": ("NaN", 0.95),
    "raises": ("", 0.95),
    "slow": ("too slow", 0.8),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_candidate_goes_back_by_itself_and_costs_no_sample(rig, tmp_path, kind):
    """It fails on live input only; what it fails on is looked at by the model before, long before a minute is over."""
    agent = rig(probation_inferences=200)
    words, high = BAD[kind]
    seen = agent.until(lambda: len(agent.results) > 5)
    pick = offer(agent.depot, tmp_path, kind, "1.1.0")
    begin_s = time.monotonic()
    seen = agent.until(lambda: "1.1.0" in agent.versions(), first=seen, rate_hz=30)
    seen = agent.until(agent.jobs, first=seen, rate_hz=30, high=high)
    took_s = time.monotonic() - begin_s
    agent.drained()
    seen = agent.until(lambda: agent.versions()[-1] == "1.0.0", first=seen, high=high)
    agent.drained()
    assert took_s < 20
    assert [r.seq for _, r in agent.results] == list(range(seen))
    (job,) = agent.jobs()
    assert (job.verdict, job.reason) == ("roll_back", "PROBATION_FAILED")
    assert words in job.text
    assert "letters 1.1.0 went back" in agent.alarms["update-letters"]
    told = [d.body for d in agent.drafts if d.stream == "updates"]
    assert [(one["verdict"], one["version"]) for one in told] == [("roll_back", "1.1.0")]
    agent.turn()  # the record still says that it is tried: it is not tried again
    agent.until(lambda: len(agent.results) > seen + 10, first=seen)
    assert agent.versions()[-10:] == ["1.0.0"] * 10
    agent.settle()
    assert read_state(agent.depot).model("letters").is_bad(pick)


def test_a_view_that_both_models_refuse_is_no_fault_of_the_candidate(rig, tmp_path):
    """A broken frame in the first minute does not blacklist a good version."""
    agent = rig()
    seen = agent.until(lambda: len(agent.results) > 5)
    offer(agent.depot, tmp_path, "good", "1.1.0")
    seen = agent.until(lambda: "1.1.0" in agent.versions(), first=seen)
    bad = sample(seen, 0, data=np.zeros((1, 5), np.float32))
    agent.feed([bad])
    agent.until(agent.jobs, first=seen + 1)
    assert [one for _, one in agent.results if isinstance(one, tuple)] == [("p", "model")]
    assert agent.jobs()[0].verdict == "commit"


def test_a_candidate_that_cannot_be_loaded_goes_back_at_once(rig, tmp_path):
    """The seat never sees it."""
    agent = rig()
    offer(agent.depot, tmp_path, "damaged", "1.1.0")
    agent.until(agent.jobs)
    assert agent.jobs()[0].verdict == "roll_back"
    assert "cannot be loaded" in agent.jobs()[0].text
    assert set(agent.versions()) == {"1.0.0"}
    assert agent.swaps == []


def test_every_pipeline_of_a_model_changes_and_goes_back_together(rig, tmp_path):
    """What one of them finds out holds for all."""
    agent = rig(pipelines=("p", "q"), probation_inferences=1000)
    seen = agent.until(lambda: len(agent.results) > 10)
    offer(agent.depot, tmp_path, "nan", "1.1.0")
    seen = agent.until(lambda: {s.model.version for s in agent.seats} == {"1.1.0"}, first=seen)
    seen = agent.until(lambda: {s.model.version for s in agent.seats} == {"1.0.0"}, first=seen, high=0.95)
    agent.drained()
    for name in ("p", "q"):
        assert [r.seq for _, r in agent.results if r.pipeline == name] == list(range(seen))


def test_a_model_that_nobody_uses_any_more_is_closed(rig, tmp_path):
    """Two versions lie in memory during a trial and one afterwards."""
    agent = rig()
    offer(agent.depot, tmp_path, "good", "1.1.0")
    seen = agent.until(lambda: "1.1.0" in agent.versions())
    assert len(agent.shelf._runners) == 2
    seen = agent.until(agent.jobs, first=seen)
    seen = agent.until(lambda: len(agent.shelf._runners) == 1, first=seen)
    assert agent.versions()[-1] == "1.1.0"


def test_without_a_burnt_try_no_candidate_runs(rig, tmp_path, caplog):
    """The step before the start failed: fail closed, and say so."""
    agent = rig()
    agent.succession._token = None
    offer(agent.depot, tmp_path, "good", "1.1.0")
    agent.until(lambda: len(agent.results) > 60)
    assert set(agent.versions()) == {"1.0.0"}
    assert agent.jobs() == []
    assert "waits: no try of it was burnt before this start" in caplog.text


def test_a_candidate_that_takes_the_agent_down_runs_out_of_tries(tmp_path):
    """Each start burns one before it is touched; after the last one it is bad, without any verdict of the agent."""
    (tmp_path / "depot").mkdir()
    pick = offer(tmp_path / "depot", tmp_path, "good", "1.1.0", tries=3)
    starts = 1  # the updater burnt the first
    while (state := read_state(tmp_path / "depot").model("letters")).trial is not None:
        assert state.chosen(burn_all(tmp_path / "depot").generation) in (pick, None)
        starts += 1
    assert starts == 4
    assert state.is_bad(pick)


def test_what_is_activated_by_an_admin_runs_without_a_trial(rig, tmp_path):
    """And the way back to the factory's model is the same."""
    agent = rig()
    pick = publish(agent.depot, write_candidate(tmp_path / "made", "good", "1.2.0"), "1.2.0")
    change(agent.depot, lambda state: state.activate("letters", pick))
    seen = agent.until(lambda: agent.versions()[-1:] == ["1.2.0"])
    change(agent.depot, lambda state: state.activate("letters", None))
    agent.until(lambda: agent.versions()[-1] == "1.0.0", first=seen)
    assert agent.jobs() == []


def test_a_pipeline_that_asks_for_a_version_keeps_it(rig, tmp_path):
    """[model] version holds it fast; a candidate that nobody takes is left to its golden inputs."""
    agent = rig(more='version = "1.0.0"')
    offer(agent.depot, tmp_path, "other", "1.1.0")
    agent.until(agent.jobs)
    assert set(agent.versions()) <= {"1.0.0"}
    assert "no pipeline uses this version" in agent.jobs()[0].text


def test_a_candidate_that_is_taken_away_goes_without_a_verdict(rig, tmp_path):
    """Somebody pinned the model during the trial."""
    agent = rig(probation_inferences=10_000)
    offer(agent.depot, tmp_path, "good", "1.1.0")
    seen = agent.until(lambda: agent.versions()[-1:] == ["1.1.0"])
    change(agent.depot, lambda state: state.pin("letters"))
    agent.until(lambda: agent.versions()[-1] == "1.0.0", first=seen)
    assert agent.jobs() == []


def test_a_candidate_that_hangs_is_left_behind_and_the_pipeline_goes_on(rig, tmp_path, monkeypatch):
    """Another thread takes the lane; the one that hung says nothing when it wakes up."""
    monkeypatch.setattr("agent.app.succession.HANG_S", 0.3)
    agent = rig(probation_inferences=10_000)
    offer(agent.depot, tmp_path, "good", "1.1.0")
    seen = agent.until(lambda: agent.versions()[-1:] == ["1.1.0"])
    runner, hangs = agent.seats[0].pipeline.inference.runner, threading.Event()
    run = runner.run
    runner.run = lambda inputs: (hangs.wait(20), run(inputs))[1]
    seen = agent.until(lambda: agent.versions()[-1:] == ["1.0.0"], first=seen, rate_hz=30)
    hangs.set()
    seen = agent.until(lambda: len(agent.results) > seen + 20, first=seen)
    agent.drained()
    numbers = [r.seq for _, r in agent.results]
    assert numbers == sorted(set(numbers))
    assert len(set(range(seen)) - set(numbers)) == 1  # the sample in hand
    assert "looking at one view" in agent.jobs()[0].text


def test_bit_rot_in_the_depot_falls_back_and_asks_for_the_files_again(rig, tmp_path):
    """A flipped bit is noticed at load: last good runs, an alarm stands, the updater gets a job; mended files run."""
    (tmp_path / "depot").mkdir()
    picks = [publish(tmp_path / "depot", write_candidate(tmp_path / v, "good", v), v) for v in ("1.1.0", "1.2.0")]
    for pick in picks:
        change(tmp_path / "depot", lambda state, pick=pick: state.activate("letters", pick))
    folder = folder_of(tmp_path / "depot", "letters", picks[1])
    path = folder / "letters.onnx"
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    agent = rig()
    seen = agent.until(lambda: len(agent.results) > 5)
    assert set(agent.versions()) == {"1.1.0"}
    assert "1.2.0" in agent.alarms["model-letters"]
    assert "sha256" in agent.alarms["model-letters"]
    (job,) = agent.jobs()
    assert (job.do, job.model, job.version, job.sha256) == ("refresh", "letters", "1.2.0", picks[1].sha256)
    path.write_bytes(whole)
    folder.chmod(0o755)  # as a new folder would, this changes its time
    agent.until(lambda: agent.versions()[-1] == "1.2.0", first=seen)
    assert agent.alarms["model-letters"] is None


@pytest.mark.parametrize("name", ["package.json", "model.toml", "labels.txt"])
def test_what_names_the_model_file_is_proved_as_well(rig, tmp_path, name):
    """Package and manifest decide as much as the weights do; with nothing good left the factory's model runs."""
    (tmp_path / "depot").mkdir()
    made = write_candidate(tmp_path / "made", "other", "1.1.0")
    text = (made / "model.toml").read_text().replace('labels = ["a", "b", "c", "d"]', 'labels_file = "labels.txt"')
    (made / "model.toml").write_text(text)
    (made / "labels.txt").write_text("a\nb\nc\nd\n")
    pick = publish(tmp_path / "depot", made, "1.1.0")
    change(tmp_path / "depot", lambda state: state.activate("letters", pick))
    path = folder_of(tmp_path / "depot", "letters", pick) / name
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"a", b"o", 1))
    agent = rig()
    agent.until(lambda: len(agent.results) > 5)
    assert set(agent.versions()) == {"1.0.0"}
    assert name in agent.alarms["model-letters"]


def test_a_damaged_record_is_an_alarm_and_the_factorys_models_run(rig, tmp_path):
    """Both copies gone: nothing is lost that could run."""
    agent = rig()
    for name in ("state.json", "state.bak.json"):
        (agent.depot / name).write_text("\0" * 100)
    agent.until(lambda: len(agent.results) > 20)
    assert "every model is the factory's now" in agent.alarms["depot"]
    assert set(agent.versions()) == {"1.0.0"}


def test_a_job_that_cannot_be_left_is_offered_again(rig, tmp_path, monkeypatch):
    """The spool may come later than the agent."""
    monkeypatch.setattr("agent.app.tidings.AGAIN_S", 0.2)
    agent = rig()
    agent.spool.rmdir()
    offer(agent.depot, tmp_path, "damaged", "1.1.0")
    seen = agent.until(lambda: agent.alarms)
    agent.spool.mkdir()
    agent.until(agent.jobs, first=seen)
    assert agent.jobs()[0].verdict == "roll_back"


def test_a_package_that_was_rewritten_to_fit_is_refused(rig, tmp_path):
    """The record names the package by its digest, so other files and a package that names them are no way in."""
    (tmp_path / "depot").mkdir()
    pick = publish(tmp_path / "depot", write_candidate(tmp_path / "made", "good", "1.1.0"), "1.1.0")
    change(tmp_path / "depot", lambda state: state.activate("letters", pick))
    folder = folder_of(tmp_path / "depot", "letters", pick)
    other = publish(tmp_path / "elsewhere", write_candidate(tmp_path / "other", "other", "1.1.0"), "1.1.0")
    for path in folder_of(tmp_path / "elsewhere", "letters", other).iterdir():
        (folder / path.name).chmod(0o644)
        (folder / path.name).write_bytes(path.read_bytes())
    agent = rig()
    agent.until(lambda: len(agent.results) > 5)
    assert set(agent.versions()) == {"1.0.0"}
    assert "this is not the package of letters 1.1.0" in agent.alarms["model-letters"]


class Views:
    """Looks like a pipeline: three views per sample, and from view `fails` on an error."""

    inference = model = None

    def __init__(self, name, fails=3):
        self.name, self.fails, self.carried = name, fails, 0
        self.config = SimpleNamespace(name="p")

    def go_on_from(self, other, carried=None):
        self.carried = other.carried if carried is None else carried

    def feed(self, _sample):
        for i in range(3):
            if i == self.fails:
                raise ModelError("no")
            self.carried += 1
            yield SimpleNamespace(result=None, said=(self.name, self.carried))


def test_views_that_were_told_before_a_candidate_failed_are_not_told_again():
    """A chunk of sound holds several views; the model before looks at those that are left, from the same state."""
    seat = Seat(Views("before"))
    assert [one.said for one in seat.feed(None)] == [("before", 1), ("before", 2), ("before", 3)]
    attempt = Attempt(Probation(Limits(100, 60.0), 0.0), lambda: 1.0)
    seat.offer(Change(Views("candidate", fails=1), attempt))
    assert [one.said for one in seat.feed(None)] == [("candidate", 4), ("before", 5), ("before", 6)]
    assert attempt.look().decision == "roll_back"
    assert [one.said for one in seat.feed(None)] == [("before", 7), ("before", 8), ("before", 9)]


@pytest.mark.parametrize(("kind", "high", "left"), [("good", 0.8, "1.1.0"), ("nan", 0.95, "1.0.0")])
def test_a_pipeline_that_had_no_sample_during_the_trial_follows_its_verdict(rig, tmp_path, kind, high, left):
    """Its camera was away: what the others found out holds for it too, and it tries nothing of its own."""
    agent = rig(pipelines=("p", "q"))
    both, agent.inboxes = agent.inboxes, agent.inboxes[:1]
    offer(agent.depot, tmp_path, kind, "1.1.0")
    seen = agent.until(agent.jobs, high=high)
    agent.settle()
    agent.inboxes = both
    agent.until(lambda: len([1 for _, r in agent.results if r.pipeline == "q"]) > 5, first=seen)
    agent.drained()
    assert {result.model.version for _, result in agent.results if result.pipeline == "q"} == {left}
    assert [swap.after.version for swap in agent.swaps if swap.pipeline == "q"] == (["1.1.0"] if kind == "good" else [])


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.2.0"])
def test_a_version_asked_for_is_taken_from_wherever_it_lies(rig, tmp_path, version):
    """The factory's, the way back or the active one."""
    (tmp_path / "depot").mkdir()
    for made in ("1.1.0", "1.2.0"):
        pick = publish(tmp_path / "depot", write_candidate(tmp_path / made, "good", made), made)
        change(tmp_path / "depot", lambda state, pick=pick: state.activate("letters", pick))
    agent = rig(more=f'version = "{version}"')
    agent.until(lambda: len(agent.results) > 5)
    assert set(agent.versions()) == {version}
