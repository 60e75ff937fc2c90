"""What `limpet check` says of folders that the agent, as its own user, must be able to write."""

import dataclasses
import json
import os
import pwd
from pathlib import Path

import pytest

from agent.cli import main, writable
from agent.cli.writable import judged, places
from agent.config import load_config
from tests.test_attacks import PLAIN, powerless, said_well

NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users: needs root")


@pytest.fixture
def config(tmp_path):
    """All that can be written is asked for, below one folder that everybody may reach."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "pipes").mkdir()
    path = tmp_path / "limpet.toml"
    more = '[commands]\nenabled = true\njournal = "journal/commands.db"\n'
    more += '[identity]\nenabled = true\nfolder = "identity"\n'
    updates = '[updates]\nroot = "root.json"\nfolder = "depot"\nspool = "spool"\nring_mb = 1\nring_folder = "ring"\n'
    path.write_text(PLAIN + more + updates)
    return path


@pytest.fixture
def service(config, monkeypatch):
    """The same as an installation's, whose service runs as `nobody`: place by what it is for."""
    monkeypatch.setattr(writable, "AGENT_USER", "nobody")
    monkeypatch.setattr(writable, "UPDATER", "nobody")
    monkeypatch.setattr(writable, "UNIT_MADE", (str(config.parent / "run"), str(config.parent / "state")))

    def look():
        return {place.what: judged(place) for place in places(load_config(config), config, service_at=config)}

    return look


def test_every_folder_that_is_written_is_looked_at(config, capsys):
    """Each by its setting; none is made by looking."""
    main(["check", "--config", str(config), "--json"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    here = {line["what"]: line["ok"] for line in told if f" in {config.parent}" in line["what"]}
    names = ("the outbox", "the outbox's key", "the control socket", "the journal of commands",
             "keys and certificates", "settings from afar", "recent inputs")  # fmt: skip
    assert [what.partition(" in ")[0] for what in here] == list(names)
    assert all(here.values())
    assert sorted(file.name for file in config.parent.iterdir()) == ["limpet.toml", "pipes"]
    config.write_text(config.read_text().replace('root = "root.json"', 'root = "root.json"\nupdater = "child"'))
    more = [place.what for place in places(load_config(config), config)]
    assert more == [*names, "the depot", "the spool"]


@pytest.mark.parametrize(("name", "setting"), [("outbox", "[store] folder"), ("journal", "[commands] journal")])
def test_a_folder_that_cannot_be_written_is_wrong(config, name, setting):
    """Which, whose it is, and two remedies."""
    (config.parent / name).mkdir(mode=0o500)
    said_well(powerless("check", "--config", config), 2, f"{config.parent / name} cannot be written by",
              "mode 0500", f"sudo chown -R {pwd.getpwuid(os.geteuid()).pw_name}:", setting)  # fmt: skip


def test_a_folder_that_cannot_be_made_or_reached_is_wrong(config):
    """Above it there is one that may not be written, or not be entered."""
    above = config.parent / "above"
    above.mkdir(mode=0o500)
    config.write_text(config.read_text().replace('"outbox"', '"above/deep/outbox"'))
    said_well(powerless("check", "--config", config), 2, "above/deep/outbox is not there and", "cannot make it in")
    above.chmod(0o600)
    said_well(powerless("check", "--config", config), 2, "cannot reach", f"through {above} (")


def test_a_file_in_the_place_of_a_folder_is_wrong(config):
    """Nothing of it is taken away."""
    (config.parent / "outbox").write_text("mine")
    said_well(powerless("check", "--config", config), 2, f"{config.parent}/outbox is no folder: move it away")
    assert (config.parent / "outbox").read_text() == "mine"


def test_a_database_that_cannot_be_written_is_wrong(config):
    """Though its folder can."""
    (config.parent / "journal").mkdir()
    (config.parent / "journal" / "commands.db-wal").touch(mode=0o400)
    (config.parent / "journal" / "another").touch(mode=0o400)
    said = powerless("check", "--config", config)
    said_well(said, 2, "journal/commands.db-wal (", "cannot write it: sudo chown -R")
    assert "another" not in said.stdout


@needs_root
def test_root_judges_by_the_services_user(config, service):
    """What root made by a run by hand, the agent cannot write; what is its own, it can."""
    (config.parent / "outbox").mkdir(mode=0o700)
    problem, _ = service()["the outbox"]
    assert f"{config.parent}/outbox cannot be written by nobody: {config.parent}/outbox (root's, mode 0700)" in problem
    os.chown(config.parent / "outbox", NOBODY.pw_uid, NOBODY.pw_gid)
    (config.parent / "outbox" / "outbox.db").touch(mode=0o600)
    problem, _ = service()["the outbox"]
    assert "outbox.db (root's, mode 0600): nobody cannot write it: sudo chown -R nobody:" in problem
    os.chown(config.parent / "outbox" / "outbox.db", NOBODY.pw_uid, NOBODY.pw_gid)
    assert service()["the outbox"][0] == ""
    assert "nobody cannot make it" in service()["the spool"][0]
    assert "nobody cannot make it" in service()["the depot"][0]


@needs_root
def test_groups_count_and_closed_ways_are_named(config, service):
    """The spool is its group's; a folder behind root's own cannot be reached."""
    spool = config.parent / "spool"
    spool.mkdir()
    os.chown(spool, 0, NOBODY.pw_gid)
    spool.chmod(0o3770)
    assert service()["the spool"][0] == ""
    config.parent.chmod(0o700)
    assert f"nobody cannot reach {spool} through {config.parent} (root's, mode 0700)" in service()["the spool"][0]


def test_what_systemd_makes_is_left_to_it_and_what_it_forbids_is_said(config, service):
    """Before the first start its folders are not there, or are root's; elsewhere the unit must be told."""
    config.write_text(config.read_text().replace('"outbox"', '"state/outbox"'))
    assert service()["the outbox"] == ("", "")
    assert service()["the control socket"] == ("", "")
    (config.parent / "state" / "outbox").mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        assert service()["the outbox"] == ("", "")
        os.chown(config.parent / "state", NOBODY.pw_uid, NOBODY.pw_gid)
        assert "outbox cannot be written by nobody" in service()["the outbox"][0], "then it is left as it is"
    (config.parent / "identity").mkdir()
    (config.parent / "identity").chmod(0o777)
    assert service()["keys and certificates"][0] == ""
    assert "ReadWritePaths=" in service()["keys and certificates"][1]


@needs_root
def test_a_disk_that_can_only_be_read_is_named(config):
    """Rights are not what is missing there: /proc and /sys of a container are often so."""
    seen = [path for path in map(Path, ("/sys", "/proc/sys", "/sys/fs/cgroup")) if path.is_dir()]
    readonly = [path for path in seen if os.statvfs(path).f_flag & os.ST_RDONLY]
    if not readonly:
        pytest.skip("nothing is mounted read-only here")
    place = next(iter(places(load_config(config), config)))
    assert "can only be read" in judged(dataclasses.replace(place, path=readonly[0]))[0]


def test_only_a_key_that_will_be_made_needs_a_place(config, monkeypatch):
    """Not one that is there, nor a credential of the service manager."""
    (config.parent / "store.key").write_bytes(bytes(32))
    assert "the outbox's key" not in [place.what for place in places(load_config(config), config)]
    (config.parent / "store.key").rename(config.parent / "limpet.store.key")
    assert "the outbox's key" in [place.what for place in places(load_config(config), config)]
    config.write_text(config.read_text().replace('"store.key"', '"limpet.store.key"'))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(config.parent))
    assert "the outbox's key" not in [place.what for place in places(load_config(config), config)]
