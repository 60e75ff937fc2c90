"""set-config from the technician's laptop to a real agent and back: refused, taken back, and told over restarts."""

import json
import signal

import pytest

from tests.agents import limpet, running, status
from tests.remote import device, record

COMMANDS = """
[commands]
enabled = true
journal = "commands.db"
[[commands.key]]
name = "ann"
role = "admin"
public = "{public}"
"""


@pytest.fixture
def place(tmp_path):
    with device(tmp_path) as (made, config):
        config.write_text(config.read_text() + COMMANDS.format(public=made.keys.technician.certificate))
        made.reader = tmp_path / "reader.toml"
        made.reader.write_text(made.reader.read_text() + f'\n[technician]\nkey = "{made.keys.technician.key}"\n')
        yield made, config


def _request(made, folder, text):
    (folder / "change.toml").write_text(text)
    words = ("set-config", folder / "change.toml", "--device", "demo/here", "--reader", made.reader)
    return limpet("request", *words, "--json", "--timeout", 60)


def _states(child):
    out, errors = child.communicate(timeout=90)
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines, errors
    return lines


BREAKS = '[pipelines.count.gate]\nstep = "motion"\n'


def test_a_change_that_breaks_a_pipeline_comes_back_as_failed_by_itself(place, tmp_path):
    """The technician sees probation, and then why it was taken back; the device runs as before."""
    made, config = place
    with running(config, tmp_path / "agent.log"):
        status(made.socket, lambda s: s["uplink"]["connected"] and s["up_s"] > 3)
        child = _request(made, tmp_path, BREAKS)
        lines = _states(child)
        said = status(made.socket, lambda s: s["pipelines"]["count"]["results"] and s["uplink"]["connected"])
    assert child.returncode == 1
    assert "probation" in [line.get("status") for line in lines]
    last = lines[-1]
    assert (last["status"], last["reason"]) == ("failed", "PROBATION_FAILED"), last
    assert "count" in last["text"]
    assert said["configuration"] == {**said["configuration"], "mode": "normal", "layers": []}
    assert record(config).committed.settings == {}


def test_a_change_that_may_not_be_is_refused_with_its_key_and_no_restart(place, tmp_path):
    """By layer, table and key, to the one who asked."""
    made, config = place
    with running(config, tmp_path / "agent.log"):
        before = status(made.socket, lambda s: s["uplink"]["connected"] and s["up_s"] > 3)
        child = _request(made, tmp_path, '[envelope]\nmode = "plain"\n')
        last = _states(child)[-1]
        after = status(made.socket)
    assert child.returncode == 1
    assert (last["status"], last["reason"]) == ("failed", "VERIFY_FAILED"), last
    assert "layer set-config [envelope]: key 'mode': may not be changed from afar" in last["text"]
    assert after["up_s"] > before["up_s"]


def test_a_kill_during_the_trial_does_not_lose_the_command(place, tmp_path):
    """The next start goes on with the trial, and the one who asked hears how it ended; then it is taken out again."""
    made, config = place
    log = tmp_path / "agent.log"
    with running(config, log) as agent:
        status(made.socket, lambda s: s["uplink"]["connected"] and s["up_s"] > 3)
        child = _request(made, tmp_path, "[log]\nburst = 33\n")
        status(made.socket, lambda s: s["configuration"]["mode"] == "provisional", 30)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    with running(config, log):
        lines = _states(child)
        status(made.socket, lambda s: s["configuration"]["mode"] == "normal")
        assert (child.returncode, lines[-1]["status"]) == (0, "successful"), lines[-1]
        assert record(config).committed.settings == {"log": {"burst": 33}}
        words = ("request", "set-config", "--unset", "log.burst", "--deadline", 20, "--device", "demo/here")
        child = limpet(*words, "--reader", made.reader, "--json", "--timeout", 60)
        assert _states(child)[-1]["status"] == "successful"
    assert record(config).committed.settings == {}
