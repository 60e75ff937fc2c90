"""The unit files are valid, tight, and allow what each part needs and no more."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.config import Config, read_toml
from agent.strict import build
from agent.updates.jobs import waiting

SYSTEMD = Path(__file__).resolve().parent.parent / "systemd"
UNIT = SYSTEMD / "limpet.service"
UNITS = sorted(path for path in SYSTEMD.glob("limpet*.*") if path.suffix in (".service", ".path", ".timer"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
DROPINS = sorted((SYSTEMD / "dropins").glob("*.conf"))
MOST_EXPOSED = {
    "limpet": 2.0, "limpet-update": 1.9, "limpet-update-timer": 1.0, "limpet-try": 1.0, "limpet-switch": 2.5,
}  # fmt: skip
"""systemd's own score, at most; the updater's is no worse than the agent's."""
SECRETS = {"signing", "store", "tls", "mqtt", "camera"}
"""The agent's alone."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*words):
    """systemd-analyze's output; fails the test when it does."""
    done = subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def settings(path):
    """Every (key, value) of a unit file, in order."""
    return re.findall(r"(?m)^(\w+)=(.*)$", path.read_text())


def values(path, key):
    """Every word that a unit gives to `key`."""
    return [word for name, value in settings(path) if name == key for word in value.split()]


def verifiable(folder, dropin=None):
    """Copies of all units that can be verified here: their programs are some that exist. Returns the folder."""
    for unit in UNITS:
        text = re.sub(r"(?m)^(ExecStart=)/opt\S+", r"\1/bin/true", unit.read_text())
        (folder / unit.name).write_text(text)
    if dropin is not None:
        (folder / "limpet.service.d").mkdir()
        shutil.copy(dropin, folder / "limpet.service.d")
    return folder


@needs_systemd
@pytest.mark.parametrize("dropin", [None, *DROPINS], ids=lambda path: path.stem if path else "alone")
def test_every_unit_verifies_clean(tmp_path, dropin):
    """No unknown key, no wrong value, no unit that is missing, with each drop-in too."""
    folder = verifiable(tmp_path, dropin)
    assert analyze("verify", "--man=no", *(folder / unit.name for unit in UNITS)) == ""


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.stem)
def test_no_service_is_more_exposed_than_it_must_be(unit):
    """systemd's own score, on the file as it is installed."""
    said = analyze("security", "--offline=true", "--no-pager", unit)
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", said).group(1)) <= MOST_EXPOSED[unit.stem]


def test_the_agent_reaches_camera_sound_and_serial():
    """And the updater reaches no device at all."""
    allowed = {value for key, value in settings(UNIT) if key == "DeviceAllow"}
    assert {"char-video4linux rw", "char-alsa rw", "char-ttyUSB rw", "char-ttyACM rw", "char-ttyAMA rw"} <= allowed
    assert all(not values(unit, "DeviceAllow") for unit in SERVICES if unit != UNIT)


def test_the_updater_is_caged_at_least_as_tightly_as_the_agent():
    """Every wall of the agent's is one of the updater's; its calls are the agent's and those for the probe's limits."""
    walls = ("Protect", "Private", "Restrict", "NoNew", "Capability", "Ambient", "Lock", "MemoryDeny", "RemoveIPC")
    for unit in ("limpet-update.service", "limpet-try.service"):
        mine = dict(settings(SYSTEMD / unit))
        for key, value in settings(UNIT):
            if key.startswith(walls) and key != "RestrictAddressFamilies":
                assert mine.get(key) == value, f"{unit}: {key}"
        assert set(values(SYSTEMD / unit, "RestrictAddressFamilies")) <= set(values(UNIT, "RestrictAddressFamilies"))
    extra = set(values(SYSTEMD / "limpet-update.service", "SystemCallFilter")) - set(values(UNIT, "SystemCallFilter"))
    assert extra == {"setrlimit", "prlimit64"}


@pytest.mark.parametrize("unit", ["limpet.service", "limpet-update.service"])
def test_the_unit_bounds_time_memory_and_processor(unit):
    """Every limit that the operator is promised stands in the file."""
    told = dict(settings(SYSTEMD / unit))
    keys = {"TimeoutStopSec", "MemoryHigh", "MemoryMax", "CPUQuota", "TasksMax", "LimitNOFILE"}
    for key in keys | ({"WatchdogSec"} if unit == UNIT.name else {"TimeoutStartSec"}):
        assert told[key], key
    assert told["LimitCORE"] == "0"


def test_each_unit_has_its_own_credentials_only():
    """The updater opens encrypted models and has none of the agent's keys; try counter and root step have nothing."""
    told = {unit.stem: values(unit, "LoadCredential") for unit in SERVICES}
    assert {name.split(".")[1] for name in told["limpet"]} == SECRETS | {"model"}
    assert told["limpet-update"] == ["limpet.model.key"]
    assert told["limpet-try"] == told["limpet-switch"] == told["limpet-update-timer"] == []


def test_what_leads_back_runs_from_the_committed_release():
    """Only the agent itself runs what may be on probation."""
    for unit in SERVICES:
        links = set(re.findall(r"/opt/limpet/(current|good)/", unit.read_text()))
        assert links <= ({"current"} if unit == UNIT else {"good"}), unit


def test_root_is_left_for_the_switch_alone():
    """Every other service has a user; the root step has no network."""
    users = {unit.stem: dict(settings(unit)).get("User") for unit in SERVICES}
    assert {name for name, user in users.items() if user is None} == {"limpet-switch"}
    assert users["limpet"] == "limpet"
    assert {users[name] for name in users if name not in ("limpet", "limpet-switch")} == {"limpet-update"}
    assert ("PrivateNetwork", "yes") in settings(SYSTEMD / "limpet-switch.service")


def test_no_secret_stands_in_a_unit_or_in_the_shipped_configuration():
    """Keys and passwords are names of credentials."""
    config = (SYSTEMD / "limpet.toml").read_text()
    for name in re.findall(r'"(?:/run/credentials/limpet\.service/)?(limpet\.[a-z.]+(?<!\.service))"', config):
        assert name in values(UNIT, "LoadCredential")
    assert not re.search(r"(?i)(password|secret|token)\s*=", config)


def test_the_shipped_configuration_is_understood():
    """The strict loader takes every key of it."""
    config = build(Config, read_toml(SYSTEMD / "limpet.toml"), "limpet.toml")
    assert config.metrics.listen == "127.0.0.1:9464"
    assert config.envelope.mode == "sealed"


def test_the_timer_leaves_its_job_whatever_lies_in_the_spool(tmp_path):
    """A pipe, a folder or a link under a name that it could use: it neither waits, nor fails, nor follows."""
    (tmp_path / "precious").write_text("kept")
    spool = tmp_path / "spool"
    spool.mkdir()
    os.mkfifo(spool / "timer.json.new")
    (spool / "timer.json").mkdir()
    (spool / "new").symlink_to(tmp_path / "precious")
    (line,) = [value for key, value in settings(SYSTEMD / "limpet-update-timer.service") if key == "ExecStart"]
    command = line.removeprefix("/bin/sh -c '").removesuffix("'").replace("$$", "$").replace('\\\\"', '\\"')
    subprocess.run(["/bin/sh", "-c", command], cwd=spool, check=True, timeout=10)
    jobs = [job for path, job in waiting(spool) if path.is_file()]
    assert [job.do for job in jobs] == ["timer"]
    assert (tmp_path / "precious").read_text() == "kept"
    assert [path.stat().st_mode & 0o777 for path in spool.glob("timer-*")] == [0o600]


def test_nobody_takes_the_jobs_of_others_away():
    """The spool belongs to the updater, is written by the group, and is sticky."""
    text = (SYSTEMD / "limpet.tmpfiles").read_text()
    assert re.search(r"(?m)^d /run/limpet-update +3770 limpet-update limpet -$", text)
