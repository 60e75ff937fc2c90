"""The whole agent over a real depot: versions come, are proved and stay, bad ones go back, the updater writes."""

import json
import shutil
import signal
import time

import pytest

from agent.depot import Pick, folder_of, read_state
from agent.updates.jobs import Book, Job
from tests.agents import MODELS, PIPELINES, limpet, running, site, status
from tests.candidates import change, publish

UPDATES = """
[updates]
folder = "depot"
spool = "spool"
updater = "child"
probation_inferences = 30
shadow_inferences = 30
"""


@pytest.fixture
def place(tmp_path):
    """A site whose agent listens to a recorded fan, over and over; depot and spool are not there yet."""
    with site(tmp_path) as made:
        film = str(MODELS / "vibration" / "demo.csv")
        made.add(
            "vibration", PIPELINES / "vibration.toml", kind="replay", path=film, loop=True, speed="max", rows_hz=500.0
        )
        made.extra = UPDATES
        yield made


def _publish(place, version, old="", new=""):
    """The shipped vibration model as another version, with one line of its manifest changed."""
    folder = place.folder / f"made-{version}"
    shutil.copytree(MODELS / "vibration", folder, ignore=shutil.ignore_patterns("demo*"))
    text = (folder / "model.toml").read_text().replace('version = "1.0.0"', f'version = "{version}"')
    assert old in text
    (folder / "model.toml").write_text(text.replace(old, new, 1))
    return publish(place.folder / "depot", folder, version, "vibration")


def _try(place, pick, mode="live"):
    """What the updater does at the end of a download: a job in its book, then the record."""
    depot, job = place.folder / "depot", f"job-{pick.version}-{mode}"
    track = Book(depot).open(Job(job, "update", "vibration", pick.version, pick.sha256))
    change(depot, lambda state: state.begin_trial("vibration", pick, tries=3, mode=mode, job=job, now_s=time.time()))
    for state in ("activate", "probation"):
        track.move(state)
    return job


def _ended(place, job, limit_s=30.0):
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        progress = Book(place.folder / "depot").get(job)
        if progress.terminal:
            return progress
        time.sleep(0.1)
    raise AssertionError(f"never ended: {progress}")


def _version(place):
    return status(place.socket)["pipelines"]["vibration"]["model"]["version"]


def test_versions_come_and_go_in_a_running_agent_and_the_record_follows(place, tmp_path):
    """Good live, good by way of the shadow, too slow, other events: each verdict ends its job and nothing restarts."""
    config, reader = place.write()
    vibration = lambda: read_state(place.folder / "depot").model("vibration")  # noqa: E731
    watcher = limpet("watch", "--reader", reader, "--for", 120, "--json", "--all")
    with running(config, tmp_path / "agent.log") as child:
        status(place.socket, lambda s: s["pipelines"].get("vibration", {}).get("results", 0) > 5)
        assert _version(place) == "1.0.0"

        done = _ended(place, _try(place, _publish(place, "1.1.0")))
        assert (done.status, done.detail["inferences"]) == ("successful", 30)
        assert (_version(place), vibration().active.version) == ("1.1.0", "1.1.0")

        done = _ended(place, _try(place, _publish(place, "1.2.0"), "shadow"))
        assert done.status == "successful"
        assert (_version(place), vibration().good.version) == ("1.2.0", "1.1.0")

        slow = _publish(place, "1.3.0", "[decoder]", "[budget]\nlatency_ms = 0.0001\n\n[decoder]")
        begin_s = time.monotonic()
        done = _ended(place, _try(place, slow))
        assert time.monotonic() - begin_s < 20
        assert (done.status, done.reason) == ("failed", "ROLLED_BACK")
        assert "too slow" in done.text
        said = status(place.socket, lambda s: s["pipelines"]["vibration"]["model"]["version"] == "1.2.0")
        assert any("1.3.0 went back" in reason for reason in said["reasons"])

        mute = _publish(place, "1.4.0", "threshold = 1.755", "threshold = 1e9")
        done = _ended(place, _try(place, mute, "shadow"))
        assert (done.status, done.reason) == ("failed", "ROLLED_BACK")
        assert done.detail["evidence"]["views"]
        assert _version(place) == "1.2.0"
        assert child.poll() is None
        told = _told(watcher)
    assert [(one["version"], one["verdict"]) for one in told["verdicts"]] == [
        ("1.1.0", "commit"), ("1.2.0", "promote"), ("1.2.0", "commit"), ("1.3.0", "roll_back"), ("1.4.0", "roll_back"),
    ]  # fmt: skip
    assert told["versions"][0] == "1.0.0"
    assert told["versions"][-1] == "1.2.0"
    assert any("1.3.0 went back" in text for text in told["alarms"])
    assert {bad.version for bad in vibration().bad} == {"1.3.0", "1.4.0"}
    assert _changes(tmp_path / "agent.log") == [
        ("1.1.0", "1.0.0"), ("1.2.0", "1.1.0"), ("1.3.0", "1.2.0"), ("1.2.0", "1.3.0"),
    ]  # fmt: skip


def _told(watcher):
    """What a reader at the broker heard: verdicts, the twin's versions in turn, alarms."""
    time.sleep(6.0)  # facets are looked at every 5 s
    watcher.send_signal(signal.SIGTERM)
    lines = [json.loads(line) for line in watcher.communicate(timeout=60)[0].splitlines()]
    twins = [line["body"] for line in lines if line["type"] == "twin" and line["name"] == "models"]
    return {
        "verdicts": [line["body"] for line in lines if line["type"] == "event" and line["stream"] == "updates"],
        "alarms": [line["body"]["text"] for line in lines if line["type"] == "alarm"],
        "versions": [body["vibration"]["version"] for body in twins],
    }


def _changes(log):
    """Every change of models that the agent wrote into its log: (after, before)."""
    lines = [line for line in log.read_text().splitlines() if "swap_ms=" in line]
    words = [dict(word.split("=", 1) for word in line.replace("'", "").split() if "=" in word) for line in lines]
    versions = [line.split("model='vibration ")[1].split("'")[0] for line in lines]
    before = [line.split("before='vibration ")[1].split("'")[0] for line in lines]
    assert all(float(one["swap_ms"]) < 100 for one in words)
    return list(zip(versions, before, strict=True))


def test_a_start_in_the_middle_of_a_trial_burns_a_try_and_goes_on_with_it(place, tmp_path):
    """Killed during the trial: the next start tries again, and with the last try gone runs what ran before."""
    config, _ = place.write()
    pick = _publish(place, "1.1.0")
    place.extra = UPDATES.replace("probation_inferences = 30", "probation_inferences = 1000000")
    config, _ = place.write()
    job = _try(place, pick)
    for left in (1, 0):
        with running(config, tmp_path / "agent.log") as child:
            status(place.socket, lambda s: s["pipelines"]["vibration"]["model"]["version"] == "1.1.0")
            assert read_state(place.folder / "depot").model("vibration").trial.tries_left == left
            child.kill()
            child.wait()
    with running(config, tmp_path / "agent.log"):
        status(place.socket, lambda s: s["pipelines"].get("vibration", {}).get("results", 0) > 5)
        assert _version(place) == "1.0.0"
    assert read_state(place.folder / "depot").model("vibration").is_bad(pick)
    assert _ended(place, job).reason == "ROLLED_BACK"
    assert folder_of(place.folder / "depot", "vibration", Pick(pick.version, pick.sha256)).is_dir()
