"""The unit files are valid, tight, and allow what the agent needs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.config import Config, read_toml
from agent.strict import build

SYSTEMD = Path(__file__).resolve().parent.parent / "systemd"
UNIT = SYSTEMD / "limpet.service"
DROPINS = sorted((SYSTEMD / "dropins").glob("*.conf"))
MOST_EXPOSED = 2.0

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*words):
    """systemd-analyze's output; fails the test when it does."""
    done = subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def settings(text):
    """Every (key, value) of a unit file, in order."""
    return re.findall(r"(?m)^(\w+)=(.*)$", text)


def unit_with(tmp_path, dropin=None):
    """A copy of the unit that can be verified here: its program is one that exists. Returns its path."""
    copy = tmp_path / "limpet.service"
    copy.write_text(re.sub(r"(?m)^(ExecStart=)\S+", r"\1/bin/true", UNIT.read_text()))
    if dropin is not None:
        (tmp_path / "limpet.service.d").mkdir()
        shutil.copy(dropin, tmp_path / "limpet.service.d")
    return copy


@needs_systemd
@pytest.mark.parametrize("dropin", [None, *DROPINS], ids=lambda path: path.stem if path else "alone")
def test_every_unit_verifies_clean(tmp_path, dropin):
    """No unknown key, no wrong value, with each drop-in too."""
    assert analyze("verify", "--man=no", unit_with(tmp_path, dropin)) == ""


@needs_systemd
def test_the_exposure_is_at_most_2_with_camera_sound_and_serial():
    """systemd's own score, on the file as it is installed."""
    said = analyze("security", "--offline=true", "--no-pager", UNIT)
    assert float(re.search(r"exposure level for limpet\.service: ([\d.]+)", said).group(1)) <= MOST_EXPOSED
    allowed = {value for key, value in settings(UNIT.read_text()) if key == "DeviceAllow"}
    assert {"char-video4linux rw", "char-alsa rw", "char-ttyUSB rw", "char-ttyACM rw", "char-ttyAMA rw"} <= allowed


def test_the_unit_bounds_time_memory_and_processor():
    """Every limit that the operator is promised stands in the file."""
    unit = dict(settings(UNIT.read_text()))
    for key in ("WatchdogSec", "TimeoutStopSec", "MemoryHigh", "MemoryMax", "CPUQuota", "TasksMax", "LimitNOFILE"):
        assert unit[key], key
    assert unit["Type"] == "notify"
    assert unit["LimitCORE"] == "0"
    assert unit["SupplementaryGroups"].split() == ["video", "audio", "dialout"]


def test_no_secret_stands_in_a_unit_or_in_the_shipped_configuration():
    """Keys and passwords are names of credentials."""
    config = (SYSTEMD / "limpet.toml").read_text()
    credentials = {value for key, value in settings(UNIT.read_text()) if key == "LoadCredential"}
    for name in re.findall(r'"(?:/run/credentials/limpet\.service/)?(limpet\.[a-z.]+(?<!\.service))"', config):
        assert name in credentials
    assert not re.search(r"(?i)(password|secret|token)\s*=", config)


def test_the_shipped_configuration_is_understood():
    """The strict loader takes every key of it."""
    config = build(Config, read_toml(SYSTEMD / "limpet.toml"), "limpet.toml")
    assert config.metrics.listen == "127.0.0.1:9464"
    assert config.envelope.mode == "sealed"
