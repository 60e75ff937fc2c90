"""`limpet request` from a technician's laptop: lists of devices, thresholds, absent devices, and coming back later."""

import json
import re

import pytest

from tests.agents import MODELS, PIPELINES, limpet, running, site, status

COMMANDS = """
[commands]
enabled = true
journal = "commands.db"

[[commands.key]]
name = "ann"
role = "viewer"
public = "{public}"
"""
GHOST = '\n[[reader.device]]\nsite = "demo"\ndevice = "ghost"\nkeys = ["{key}"]\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A site whose one device takes requests of a viewer; the reader also knows a device that does not exist."""
    folder = tmp_path_factory.mktemp("laptop")
    with site(folder) as made:
        recording = str(MODELS / "vibration" / "demo.csv")
        made.add("vibration", PIPELINES / "vibration.toml", kind="replay", path=recording, loop=True)
        made.extra = COMMANDS.format(public=made.keys.technician.certificate)
        made.config, made.reader = made.write()
        ghost = GHOST.format(key=made.keys.device.certificate)
        key = f'\n[technician]\nkey = "{made.keys.technician.key}"\n'
        made.reader.write_text(made.reader.read_text() + ghost + key)
        yield made


@pytest.fixture
def agent(place):
    """The device, running and connected."""
    with running(place.config, place.folder / "agent.log"):
        status(place.socket, lambda s: s["uplink"]["connected"])
        yield


def ask(place, *words, limit_s=60):
    """`limpet request WORDS`: exit status, standard output and error."""
    child = limpet("request", *words, "--reader", place.reader)
    out, err = child.communicate(timeout=limit_s)
    return child.returncode, out, err


def ends(out):
    """The last JSON line of each device."""
    return {line["device"]: line for line in map(json.loads, out.splitlines())}


def test_a_device_answers_and_its_states_are_lines(place, agent):
    """From init to successful, in order; exit status 0."""
    code, out, err = ask(place, "ping", "--device", "demo/here", "--json")
    assert code == 0, out + err
    versions = [line["version"] for line in map(json.loads, out.splitlines()) if "version" in line]
    assert versions == sorted(set(versions))
    assert ends(out)["demo/here"]["status"] == "successful"
    assert "1 done, 0 failed" in err


def test_what_the_role_does_not_allow_fails_and_stops_the_rest(place, agent, tmp_path):
    """A viewer asks for a restart: refused in words, and the second device is never asked."""
    listed = tmp_path / "devices.txt"
    listed.write_text("demo/here   # the real one\n\ndemo/ghost\n")
    code, out, err = ask(place, "restart", "--devices", listed, "--parallel", 1, "--json")
    assert code == 1
    assert ends(out)["demo/here"]["reason"] == "REJECTED_UNAUTHORIZED"
    assert "demo/ghost" not in ends(out)
    assert "1 failed, 1 not asked" in err


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(place, agent):
    """Topic, size and arguments; the device hears nothing and no counter is used up."""
    counters = place.keys.technician.key.with_suffix(".counters.json")
    before = counters.read_bytes() if counters.exists() else b""
    code, out, err = ask(place, "update", "--model", "door", "--device", "demo/here", "--device", "here", "--dry-run")
    assert code == 0, err
    assert re.search(r"would send \d{2,3} bytes to limpet/v1/demo/here/req/update/\w+ \{\"model\": \"door\"\}", out)
    assert "nothing was sent" in out
    assert (counters.read_bytes() if counters.exists() else b"") == before


def test_a_device_that_is_away_answers_when_it_is_back_whoever_is_watching(place):
    """The broker keeps the request; the laptop leaves and looks again with `follow`."""
    with running(place.config, place.folder / "agent.log"):
        status(place.socket, lambda s: s["uplink"]["connected"])  # its session is known to the broker
    code, out, err = ask(place, "ping", "--device", "demo/here", "--no-wait", "--json")
    assert code == 0, out + err
    again = re.search(r"limpet request (follow .*)", err).group(1).split()
    with running(place.config, place.folder / "agent.log"):
        code, out, err = ask(place, *again, "--json")
    assert code == 0, out + err
    assert ends(out)["demo/here"]["status"] == "successful"


def test_a_device_that_never_answers_ends_the_wait_and_says_how_to_look_again(place):
    """Exit status 1 after --timeout; the request is still with the broker."""
    code, out, err = ask(place, "ping", "--device", "demo/here", "--timeout", 4)
    assert code == 1
    assert "no word from the device yet" in out
    assert "1 still under way" in err
    assert "limpet request follow --of ping --id" in err


def test_a_request_that_the_broker_refuses_is_a_failure_at_once(place):
    """Its access list does not know that device: told in words, without a wait."""
    code, out, err = ask(place, "ping", "--device", "demo/ghost", "--timeout", 30)
    assert code == 1
    assert "the broker refused the request: not authorised" in out
    assert "1 failed" in err


def test_an_unknown_device_and_a_missing_key_are_said(place, tmp_path):
    """Before anything is sent; exit status 2."""
    code, _, err = ask(place, "ping", "--device", "nobody")
    assert code == 2
    assert "write SITE/nobody" in err
    bare = tmp_path / "reader.toml"
    bare.write_text(place.reader.read_text().partition("\n[technician]")[0])
    child = limpet("request", "ping", "--device", "demo/here", "--reader", bare)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 2
    assert "limpet keys new technician" in err
