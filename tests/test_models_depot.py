"""`limpet models` over a depot: what lies there, what it is to this device, and the verbs that change what runs."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from agent.cli import main
from agent.depot import FACTORY, folder_of, read_state
from agent.updates.jobs import Book
from agent.updates.spool import work_local
from tests import console
from tests.agents import ROOT
from tests.candidates import PIPELINE, change, offer, publish, write_candidate

CONFIG = """
schema = 1
[device]
site = "s"
name = "d"
[models]
folders = ["factory"]
[updates]
folder = "depot"
spool = "spool"
"""


@pytest.fixture
def place(tmp_path):
    """A device with a factory model, two versions in the depot, and a third on trial."""
    for name in ("depot", "spool"):
        (tmp_path / name).mkdir()
    write_candidate(tmp_path / "factory" / "letters", "good", "1.0.0")
    for version in ("1.1.0", "1.2.0"):
        pick = publish(tmp_path / "depot", write_candidate(tmp_path / version, "good", version), version)
        change(tmp_path / "depot", lambda state, pick=pick: state.activate("letters", pick))
    offer(tmp_path / "depot", tmp_path, "other", "1.3.0", mode="shadow")
    (tmp_path / "limpet.toml").write_text(CONFIG)
    return tmp_path


def limpet(capsys, place, *words):
    """`limpet models WORDS` with the place's configuration."""
    return console.limpet(capsys, "--config", place / "limpet.toml", *words)


def letters(place):
    return read_state(place / "depot").model("letters")


def listed(capsys, place):
    status, out, _ = limpet(capsys, place, "list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    return status, {row["version"]: row for row in rows if row["name"] == "letters"}


def test_list_says_what_each_version_is_to_the_device(capsys, place):
    """Factory, good, active with its floor, and the one on trial."""
    status, rows = listed(capsys, place)
    assert status == 0
    assert {version: row["use"] for version, row in rows.items()} == {
        "1.0.0": "", "1.1.0": "good", "1.2.0": "active, floor 1.2.0", "1.3.0": "trial (shadow, 2 tries left)",
    }  # fmt: skip
    assert all(row["state"] == "ok" for row in rows.values())


def test_a_version_that_went_wrong_here_is_listed_with_its_reason_and_is_no_error(capsys, place):
    """Why it is not taken again is the first thing that its publisher asks."""
    sha256 = letters(place).trial.sha256
    change(place / "depot", lambda state: state.roll_back("letters", sha256, "output 'y' contains NaN"))
    status, out, _ = limpet(capsys, place, "list")
    assert status == 0
    assert "not tried again: output 'y' contains NaN" in out


def test_rollback_ends_the_trial_first_and_then_goes_to_the_version_before(capsys, place):
    """What goes is bad from now on; behind the last one is the factory's."""
    for active in ("1.2.0", "1.1.0", None):
        status, out, _ = limpet(capsys, place, "rollback", "letters")
        assert status == 0
        assert "letters runs" in out
        assert (letters(place).active.version if active else letters(place).active) == active
    status, _, err = limpet(capsys, place, "rollback", "letters")
    assert status == 1
    assert "nothing before it" in err


def test_activate_runs_a_version_of_the_depot_or_the_factorys(capsys, place):
    """Also an older one: an admin may."""
    assert limpet(capsys, place, "activate", "letters", "1.1.0")[0] == 0
    assert letters(place).active.version == "1.1.0"
    assert limpet(capsys, place, "activate", "letters", "factory")[0] == 0
    assert listed(capsys, place)[1]["1.0.0"]["use"] == "active"
    status, _, err = limpet(capsys, place, "activate", "letters", "9.9.9")
    assert status == 1
    assert "not in the depot, which holds 1.1.0, 1.2.0, 1.3.0" in err


def test_pin_holds_and_unpin_lets_go(capsys, place):
    """A pinned model ends its trial and takes no other."""
    assert limpet(capsys, place, "pin", "letters")[0] == 0
    assert (letters(place).pinned.version, letters(place).trial) == ("1.2.0", None)
    assert "pinned" in listed(capsys, place)[1]["1.2.0"]["use"]
    assert limpet(capsys, place, "activate", "letters", "1.1.0")[0] == 1
    assert limpet(capsys, place, "unpin", "letters")[0] == 0
    assert limpet(capsys, place, "pin", "letters", "1.1.0")[0] == 0
    assert letters(place).pinned.version == "1.1.0"
    assert letters(place).pinned != FACTORY


def test_verify_proves_every_version_of_the_depot_down_to_the_model_file(capsys, place):
    """Package, manifest, model file, loading; a flipped bit is found."""
    status, out, _ = limpet(capsys, place, "verify", "letters", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [row["version"] for row in rows] == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    path = folder_of(place / "depot", "letters", letters(place).good) / "letters.onnx"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    status, out, _ = limpet(capsys, place, "verify", "letters", "--json")
    assert status == 1
    wrong = [row for row in map(json.loads, out.splitlines()) if row["state"] != "ok"]
    assert [row["version"] for row in wrong] == ["1.1.0"]
    assert "its sha256 is" in wrong[0]["state"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes a right away from root")
def test_who_may_only_write_the_spool_leaves_a_job_and_sees_what_becomes_of_it(place):
    """As the agent's group does under systemd: the depot is not his to write."""
    (place / "depot").chmod(0o555)
    words = ["models", "--config", place / "limpet.toml", "activate", "letters", "1.1.0"]
    child = subprocess.Popen(
        ["setpriv", "--bounding-set=-dac_override", sys.executable, "-P", "-m", "agent", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    ended = threading.Event()

    def updater():
        while not ended.wait(0.1):
            work_local(place / "depot", place / "spool", Book(place / "depot"))

    thread = threading.Thread(target=updater)
    thread.start()
    try:
        out, err = child.communicate(timeout=60)
    finally:
        ended.set()
        thread.join()
    assert child.returncode == 0, err
    assert "letters runs 1.1.0" in out
    assert letters(place).active.version == "1.1.0"


def test_check_names_a_version_that_cannot_be_used_and_what_runs_instead(capsys, place):
    """Before the start, not after it."""
    (place / "p.toml").write_text(PIPELINE.format(name="p", more=""))
    text = CONFIG + '[paths]\npipelines = ["p.toml"]\n[sources.s]\nkind = "load"\n[envelope]\nmode = "plain"\n'
    (place / "limpet.toml").write_text(text)
    main(["check", "--config", str(place / "limpet.toml")])
    assert "pipeline p with letters 1.2.0" in capsys.readouterr().out
    path = folder_of(place / "depot", "letters", letters(place).active) / "model.toml"
    path.chmod(0o644)
    path.write_text(path.read_text() + "\n")
    assert main(["check", "--config", str(place / "limpet.toml")]) == 2
    told = capsys.readouterr()
    assert "pipeline p with letters 1.1.0" in told.out
    assert "its sha256 is not what was signed" in told.out
