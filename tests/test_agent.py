"""The agent as a process: starts degraded, resumes after a kill, stops in time, imports only what it needs."""

import json
import re
import shutil
import signal
import subprocess
import sys

import jsonschema
import pytest

from tests.agents import COUNTING, PIPELINES, ROOT, limpet, running, site, status, stop

SCHEMA = json.loads((ROOT / "docs" / "cli.schema.json").read_text())


@pytest.fixture
def place(tmp_path):
    with site(tmp_path) as made:
        made.count()
        yield made


def test_a_bad_pipeline_does_not_stop_the_good_ones(place, tmp_path):
    """The agent starts degraded and says so; `status` and `check` fail, with the reasons."""
    (tmp_path / "bad.toml").write_text('schema = 1\nname = "bad"\nsource = "rows"\n[model]\nname = "nowhere"\n')
    place.add("eye", tmp_path / "bad.toml", kind="webcam")
    config, _ = place.write()
    with running(config, tmp_path / "agent.log"):
        said = status(place.socket, lambda s: s["pipelines"]["count"]["events"] > 3)
        asked = limpet("status", "--config", config)
        words, _ = asked.communicate(timeout=20)
    assert said["health"] == "degraded"
    assert any("'webcam'" in reason for reason in said["reasons"])
    assert any("nowhere" in reason for reason in said["reasons"])
    assert asked.returncode == 1
    assert "degraded" in words
    assert f"connected to {said['uplink']['broker']}" in words
    assert "{" not in words, "what people read shows no dictionaries"
    assert not re.search(r"(^|[ (])1 (events|results|messages|models|times|faults)", words), words
    check = limpet("check", "--config", config, "--json")
    lines = [json.loads(line) for line in check.communicate(timeout=30)[0].splitlines()]
    assert check.returncode == 2
    assert {line["what"] for line in lines if not line["ok"]} == {"source eye", "pipeline bad"}
    assert any(line["what"] == "pipeline count" and line["ok"] for line in lines)


def test_check_is_content_with_a_good_configuration(place):
    """Everything in order: exit status 0. A source that nothing reads is said to be so."""
    config, _ = place.write()
    config.write_text(config.read_text() + '\n[sources.spare]\nkind = "load"\n')
    check = limpet("check", "--config", config)
    words, errors = check.communicate(timeout=30)
    assert check.returncode == 0, words + errors
    assert "WRONG" not in words
    assert "source rows\n" in words
    assert "source spare: no pipeline names it\n" in words


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema = 1", "schema = 7", "key 'schema'"),
        ("[device]", "[device]\nnam = 1", "unknown key 'nam'"),
        ("signing.key", "nothing.key", "key file cannot be read"),
    ],
)
def test_a_wrong_configuration_ends_the_start_with_a_clear_word(place, old, new, words):
    """Exit status 2 and one line that says what, where and what to do; never a traceback."""
    config, _ = place.write()
    config.write_text(config.read_text().replace(old, new))
    child = limpet("run", "--config", config)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 2
    assert words in errors
    assert "Traceback" not in errors


def test_an_unreadable_key_is_refused(place):
    """A private key that others can read is no secret: the agent does not start with it."""
    config, _ = place.write()
    place.keys.device.key.chmod(0o644)
    child = limpet("run", "--config", config)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 2
    assert "chmod 600" in errors


def test_after_a_kill_the_agent_resumes_with_its_outbox(place, tmp_path):
    """kill -9, start again: events flow again, numbers go on."""
    config, _ = place.write()
    with running(config, tmp_path / "agent.log") as first:
        before = status(place.socket, lambda s: s["uplink"]["acked_events"] >= 10)
        first.kill()
        first.wait()
    with running(config, tmp_path / "agent.log"):
        past = before["outbox"]["streams"]["count"]["next_seq"]
        after = status(
            place.socket,
            lambda s: s["uplink"]["acked_events"] >= 1 and s["outbox"]["streams"]["count"]["next_seq"] > past,
        )
    assert after["outbox"]["streams"]["count"]["next_seq"] > before["uplink"]["acked_events"]


HUNG = """
import ctypes, sys
from pathlib import Path
from agent.app.app import App
from agent.cli import run as command
from agent.supervisor import Lane
import agent.app.app

class Hung(App):
    def _looking(self, store):
        yield from super()._looking(store)
        yield Lane("hung", lambda stop, beat: ctypes.CDLL(None).sleep(120), deadline_s=1.0)

agent.app.app.App = Hung
from agent.cli import main
sys.exit(main(["run", "--config", sys.argv[1]]))
"""


def test_a_stop_takes_less_than_ten_seconds_with_a_lane_stuck_in_c(place, tmp_path):
    """The lane is reported as stuck, left behind, and everything accepted is kept."""
    config, _ = place.write()
    script = tmp_path / "hung.py"
    script.write_text(HUNG)
    with (tmp_path / "agent.log").open("w") as sink:
        child = subprocess.Popen(
            [sys.executable, "-P", str(script), str(config)],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}, stdout=sink, stderr=sink,
        )  # fmt: skip
        said = status(place.socket, lambda s: any(lane["phase"] == "stuck" for lane in s["lanes"]))
        code, took_s = stop(child)
    assert said["health"] == "degraded"
    assert code == 0
    assert took_s < 10
    assert "stuck=hung" in (tmp_path / "agent.log").read_text()


def test_the_outbox_can_be_looked_into_while_the_agent_runs_and_when_it_does_not(place, tmp_path):
    """The same rows by the socket and from the file, in the shape of docs/cli.schema.json."""
    config, _ = place.write()
    place.broker.stop()
    with running(config, tmp_path / "agent.log"):
        status(place.socket, lambda s: s["outbox"]["events"] >= 5)
        alive = limpet("outbox", "export", "--config", config, "--limit", 5).communicate(timeout=30)[0]
    still = limpet("outbox", "export", "--config", config, "--limit", 5).communicate(timeout=30)[0]
    rows = [json.loads(line) for line in still.splitlines()]
    assert [json.loads(line) for line in alive.splitlines()] == rows
    assert len(rows) == 5
    for row in rows:
        jsonschema.validate(row, {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/outbox_row"})
    assert rows[0]["event"]["stream"] == "count"


def test_no_secret_reaches_a_log(place, tmp_path):
    """Neither the broker's password nor a key shows, whatever the level."""
    config, _ = place.write()
    place.extra = '[log]\nlevel = "debug"\n'
    secret = place.keys.passwords["device"].read_text()
    login = f'username = "device"\npassword_file = "{place.keys.passwords["device"]}"\n'
    config.write_text(config.read_text().replace("[uplink]", f"[uplink]\n{login}") + place.extra)
    with running(config, tmp_path / "agent.log"):
        status(place.socket, lambda s: s["uplink"]["acked_events"] >= 1)
    log = (tmp_path / "agent.log").read_text()
    assert "ready" in log or "health" in log
    assert secret not in log
    assert "PRIVATE KEY" not in log


def test_a_full_disk_raises_an_alarm_that_readers_see(tmp_path):
    """The agent goes on looking; status degrades; the alarm arrives sealed and signed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here: needs root")
    try:
        with site(tmp_path) as made:
            made.count(COUNTING.replace("0.05", "0.02"))
            config, reader = made.write()
            config.write_text(config.read_text().replace(str(tmp_path / "outbox"), str(disk / "outbox")))
            watcher = limpet("watch", "--reader", reader, "--for", 900, "--json", "--all")
            with running(config, tmp_path / "agent.log"):
                status(made.socket, lambda s: s["uplink"]["acked_events"] >= 3, 30)
                (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
                said = status(made.socket, lambda s: s["health"] == "degraded", 40)
                seen = said["pipelines"]["count"]["events"]
                status(made.socket, lambda s: s["pipelines"]["count"]["events"] > seen + 20, 40)
                (disk / "filler").unlink()
                status(made.socket, lambda s: s["health"] == "ok", 60)
            watcher.send_signal(signal.SIGTERM)
            lines = [json.loads(line) for line in watcher.communicate(timeout=60)[0].splitlines()]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert any("store" in reason for reason in said["reasons"])
    alarms = [line for line in lines if line["type"] == "alarm" and line["body"]["active"]]
    assert alarms
    assert "full" in alarms[0]["body"]["text"] or "space" in alarms[0]["body"]["text"]


def test_a_clean_stop_is_quick_and_loses_nothing(place, tmp_path):
    """SIGTERM: exit status 0, and the next start finds no gap."""
    config, _ = place.write()
    with running(config, tmp_path / "agent.log") as child:
        status(place.socket, lambda s: s["uplink"]["acked_events"] >= 3)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
    with running(config, tmp_path / "agent.log"):
        assert status(place.socket, lambda s: s["uplink"]["connected"])["outbox"]["gaps_open"] == 0


def test_the_agent_accepts_while_the_broker_is_away(place, tmp_path):
    """Without a broker events are kept, offline is healthy; with it they leave."""
    config, _ = place.write()
    place.broker.stop()
    with running(config, tmp_path / "agent.log"):
        away = status(place.socket, lambda s: s["pipelines"]["count"]["events"] >= 10)
        assert away["health"] == "ok"
        assert not away["uplink"]["connected"]
        place.broker.start()
        status(place.socket, lambda s: s["uplink"]["acked_events"] >= 10, 30)


def test_start_up_imports_nothing_that_the_configuration_does_not_use(tmp_path):
    """A sensor with a statistic needs neither OpenCV nor a model runtime nor sound."""
    script = """
import sys
from pathlib import Path
from agent.app.app import App
App(Path(sys.argv[1]))._assemble()
heavy = {"cv2", "onnxruntime", "ai_edge_litert", "tflite_runtime", "sounddevice", "serial", "rich", "sqlite_utils"}
print(sorted(heavy & set(sys.modules)))
"""
    with site(tmp_path) as made:
        made.add("load", PIPELINES / "machine.toml", kind="load")
        config, _ = made.write()
        config.write_text(config.read_text().replace("[sources.load]", "[sources.machine]"))
        out = subprocess.run(
            [sys.executable, "-c", script, str(config)],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    assert out.stdout.strip() == "[]"
