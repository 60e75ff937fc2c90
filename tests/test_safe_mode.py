"""When the configuration cannot be used: the last good one, or its good parts, never a wrong name or a wrong key."""

import pytest

from agent.layers.allowed import Layer
from agent.layers.record import Record, Remote
from agent.reconfigure import start
from tests.agents import limpet, running, status
from tests.remote import device, files, good_copy, in_mode


@pytest.fixture
def place(tmp_path):
    with device(tmp_path) as made:
        yield made


@pytest.fixture
def once_good(place, tmp_path):
    """An agent that was healthy with its limpet.toml, and stopped."""
    made, config = place
    with running(config, tmp_path / "agent.log"):
        good_copy(config)
    return made, config


@pytest.mark.parametrize("broken", ["schema = 1\n[device\n", "", "\0" * 4096], ids=["edited", "empty", "zeros"])
def test_a_broken_file_leads_to_the_last_good_copy(once_good, tmp_path, broken):
    """After a bad edit, or a power cut in the middle of one: samples, MQTT and store go on, and everybody is told."""
    made, config = once_good
    config.write_text(broken)
    with running(config, tmp_path / "agent.log"):
        said = in_mode(made.socket, "safe")
        told = status(made.socket, lambda s: s["uplink"]["acked_events"] >= 3)
        asked = limpet("status", "--config", config)
        words, _ = asked.communicate(timeout=20)
        outbox = limpet("outbox", "stats", "--config", config)
        assert outbox.communicate(timeout=20)
    assert outbox.returncode == 0
    assert said["health"] == "degraded"
    (reason,) = [reason for reason in told["reasons"] if reason.startswith("configuration: ")]
    assert "safe mode" in reason
    assert str(config) in reason
    assert "the last good copy is used" in reason
    assert asked.returncode == 1
    assert "safe mode" in words
    check = limpet("check", "--config", config)
    assert check.communicate(timeout=30)
    assert check.returncode == 2, "check stays strict"


def test_without_a_copy_the_good_parts_run(place, tmp_path):
    """Keys whose defaults expose nothing fall back one by one; the rest of the file counts as it stands."""
    made, config = place
    text = config.read_text().replace("budget_mib = 32", 'budget_mib = "much"')
    config.write_text(text + '\n[log]\nlevel = "loud"\nburst = 20\n[cache]\nentrys = 3\n')
    with running(config, tmp_path / "agent.log"):
        said = in_mode(made.socket, "safe")
    (reason,) = [reason for reason in said["reasons"] if reason.startswith("configuration: ")]
    for words in ("[log]: key 'level': 'loud'", "[store]: key 'budget_mib'", "unknown key 'entrys'"):
        assert words in reason
    assert "its default is used" in reason
    kept = start(config, {}, 0.0).effective.config
    assert (kept.log.level, kept.log.burst, kept.store.budget_mib) == ("info", 20, 256)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[device]", "[device]\nnam = 1", "unknown key 'nam'"),
        ("[device]", "[devise]", "unknown key 'devise'"),
        ("schema = 1", "schema = 7", "key 'schema'"),
        ("[envelope]", "[envelope]\nmode = 3", "key 'mode'"),
        ("ca_file", "ca_fil", "unknown key 'ca_fil'"),
        ("signing.key", "nothing.key", "key file cannot be read"),
    ],
)
def test_what_is_wrong_in_identity_keys_or_trust_ends_the_start_even_with_a_copy(once_good, old, new, words):
    """An agent under a wrong name, or that still seals for a reader that was taken away, is worse than none."""
    _, config = once_good
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    child = limpet("run", "--config", config)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 2
    assert words in errors
    assert "Traceback" not in errors


def test_a_copy_of_another_file_is_no_copy(once_good, tmp_path):
    """A second limpet.toml beside the first does not inherit its identity."""
    _, config = once_good
    other = tmp_path / "other.toml"
    other.write_text("[")
    child = limpet("run", "--config", other)
    assert "is not TOML" in child.communicate(timeout=30)[1]
    assert child.returncode == 2
    assert config.exists()


def test_a_layer_that_no_longer_fits_is_left_out_and_the_others_stay(place, tmp_path):
    """The operator's own file counts: a source that is gone takes only the layer along that speaks of it."""
    _, config = place
    layers = (Layer("base", {"log": {"burst": 3}}), Layer("device-x", {"sources": {"gone": {"fps": 1.0}}}))
    files(config).write(Record(1, Remote(layers, {"log": {"level": "debug"}})), Record())
    made = start(config, {}, 0.0)
    assert [layer.name for layer in made.layers] == ["base", "set-config"]
    assert (made.effective.config.log.burst, made.effective.config.log.level) == (3, "debug")
    assert "layer device-x is left out: layer device-x [sources.gone]" in made.alarms["remote-configuration"]
    assert not made.safe
    check = limpet("check", "--config", config)
    words, _ = check.communicate(timeout=30)
    assert check.returncode == 2
    assert "layer device-x" in words


def test_a_damaged_record_is_set_aside_and_its_precious_part_comes_back(place, tmp_path):
    """Corrupt is not empty: what was committed is in the good copy, and the damage is told."""
    made, config = place
    files(config).write(Record(1, Remote((), {"log": {"burst": 7}})), Record())
    with running(config, tmp_path / "agent.log"):
        good_copy(config)
    folder = files(config).folder
    (folder / "record.json").write_bytes((folder / "record.json").read_bytes()[:-30])
    with running(config, tmp_path / "agent.log"):
        said = status(made.socket, lambda s: s["health"] == "degraded")
    assert any("is damaged" in r and "record.json.damaged" in r for r in said["reasons"])
    assert files(config).read().committed.settings == {"log": {"burst": 7}}
    again = start(config, {}, 0.0)
    assert again.alarms == {}
    assert again.effective.config.log.burst == 7


def test_a_copy_that_was_tampered_with_is_not_used(once_good):
    """Its sum no longer fits, so the start ends as without one."""
    _, config = once_good
    path = files(config).folder / "good.json"
    path.write_text(path.read_text().replace("plant", "plane").replace("demo", "dema"))
    config.write_text("[")
    child = limpet("run", "--config", config)
    assert "is not TOML" in child.communicate(timeout=30)[1]
    assert child.returncode == 2
