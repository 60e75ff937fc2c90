"""Changes from afar on real agents: validated whole, tried, kept when healthy, taken back by themselves when not."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from agent.app.assembly import examine
from agent.app.shelf import Shelf
from agent.clock import SystemClock
from agent.config import make_config, read_tables
from agent.errors import CommandError
from agent.health import Health
from agent.layerfiles import LayerFiles
from agent.layers.record import Record, Remote
from agent.reconfigure import Now, Reconfiguration, start
from agent.reconfigure.change import RESTARTS
from tests.agents import COUNTING, ROOT, running, status
from tests.clocks import FakeClock
from tests.remote import device, files, fleet, in_mode, record, until

WELL = Now(Health("ok"), ("count",), connected=True)
GOOD = '[log]\nburst = 21\n[pipelines.count.detector]\nthreshold = 4.5\n'
BREAKS = '[pipelines.count.gate]\nstep = "motion"\n'
"""Valid by itself, and fails on the first row: a gate for pictures."""


@pytest.fixture
def place(tmp_path):
    with device(tmp_path) as made:
        yield made


# --- fleet layers on a real agent --------------------------------------------------------------------------------


def test_a_fleet_layer_is_tried_and_kept(place, tmp_path):
    """The agent notices it, starts anew with it, is healthy, and keeps it for every start that follows."""
    made, config = place
    with running(config, tmp_path / "agent.log") as child:
        in_mode(made.socket, "normal")
        fleet(tmp_path, "base", GOOD)
        tried = in_mode(made.socket, "provisional")
        assert tried["configuration"]["layers"] == ["base"]
        assert tried["up_s"] < 20, "it is a new start"
        until(lambda: record(config).committed.fleet)
        said = in_mode(made.socket, "normal")
        assert said["configuration"]["layers"] == ["base"]
        assert said["health"] == "ok"
        assert child.poll() is None, "from a checkout the process starts itself anew"
    assert record(config).provisional is None
    again = start(config, {}, 0.0)
    assert again.effective.config.log.burst == 21
    assert again.effective.pipelines[0].config.detector["threshold"] == 4.5


def test_a_change_that_breaks_a_pipeline_is_taken_back_within_its_deadline(place, tmp_path):
    """Nobody has to ask: the old configuration runs again, why is told, and the same layer is not tried again."""
    made, config = place
    with running(config, tmp_path / "agent.log"):
        in_mode(made.socket, "normal")
        fleet(tmp_path, "device-demo-here", BREAKS)
        status(made.socket, lambda s: s["configuration"]["mode"] == "provisional", 30)
        begin_s = time.monotonic()
        until(lambda: record(config).refused, 20)
        took_s = time.monotonic() - begin_s
        said = status(made.socket, lambda s: any("fleet-configuration" in r for r in s["reasons"]), 30)
        results = said["pipelines"]["count"]["results"]
        status(made.socket, lambda s: s["pipelines"]["count"]["results"] > results)
        assert said["configuration"]["mode"] == "normal"
        assert said["configuration"]["layers"] == []
        up_s = said["up_s"]
        assert status(made.socket, lambda s: s["up_s"] > up_s + 7)["configuration"]["mode"] == "normal"
    assert took_s < 6.0 + 5.0, "its deadline is 6 s"
    kept = record(config)
    assert kept.committed == Remote()
    assert kept.provisional is None
    assert kept.ended[-1].reason == "PROBATION_FAILED"
    assert "count" in kept.ended[-1].text or "degraded" in kept.ended[-1].text
    log = (tmp_path / "agent.log").read_text()
    assert log.count("on-trial") == 1


def test_an_invalid_layer_is_refused_without_a_restart_and_withdrawn_in_silence(place, tmp_path):
    """What is wrong is told with layer, table and key; the agent goes on as if nothing had come."""
    made, config = place
    with running(config, tmp_path / "agent.log"):
        before = in_mode(made.socket, "normal")
        fleet(tmp_path, "base", '[envelope]\nmode = "plain"\n')
        said = status(made.socket, lambda s: s["health"] == "degraded", 30)
        assert any("layer base [envelope]: key 'mode'" in reason for reason in said["reasons"])
        assert said["up_s"] > before["up_s"]
        assert not (files(config).folder / "record.json").exists()
        fleet(tmp_path, "base", None)
        status(made.socket, lambda s: s["health"] == "ok", 30)


def test_under_a_service_manager_the_agent_ends_and_lets_itself_be_started(place, tmp_path, monkeypatch):
    """Exit status 0, which Restart=always answers with the next start: the steps before a start belong to the unit."""
    _, config = place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        fleet(tmp_path, "base", GOOD)
        with running(config, tmp_path / "agent.log") as child:
            assert child.wait(30) == 0
    assert record(config).provisional.tries_left == 2, "not yet used"
    assert start(config, {}, 0.0).trial.tries_left == 1


def test_a_kill_during_the_trial_uses_up_a_try_and_the_last_one_goes_back(place, tmp_path):
    """Two starts die with it; the third runs with what was committed before, and nobody had to decide that."""
    made, config = place
    log = tmp_path / "agent.log"
    with running(config, log) as child:
        in_mode(made.socket, "normal")
        fleet(tmp_path, "base", GOOD)
        status(made.socket, lambda s: s["configuration"]["mode"] == "provisional", 30)
        child.kill()
        child.wait()
    assert record(config).provisional.tries_left == 1
    with running(config, log) as child:
        assert in_mode(made.socket, "provisional")["configuration"]["layers"] == ["base"]
        child.kill()
        child.wait()
    assert record(config).provisional.tries_left == 0
    with running(config, log):
        said = in_mode(made.socket, "normal")
    assert said["configuration"]["layers"] == []
    assert record(config).ended[-1].reason == "ROLLED_BACK"
    assert record(config).committed == Remote()


def test_kills_at_any_moment_leave_the_old_or_the_new(place, tmp_path):
    """Whenever the process dies, the next one starts with a whole configuration."""
    made, config = place
    rng, seen = random.Random(7), set()
    for i in range(5):
        fleet(tmp_path, "base", f"[log]\nburst = {30 + i}\n")
        with running(config, tmp_path / "agent.log") as child:
            time.sleep(rng.uniform(0.3, 6.0))
            assert child.poll() is None, (tmp_path / "agent.log").read_text()[-2000:]
            child.send_signal(signal.SIGKILL)
            child.wait()
        with running(config, tmp_path / "agent.log"):
            said = status(made.socket, lambda s: s["pipelines"]["count"]["results"])
        assert said["configuration"]["mode"] in ("normal", "provisional")
        seen.add(tuple(said["configuration"]["layers"]))
        assert record(config)
    assert seen <= {(), ("base",)}


# --- the order on the disk ----------------------------------------------------------------------------------------

WRITES = """
import sys
from pathlib import Path
from agent.layerfiles import LayerFiles
from agent.layers.record import Baseline, Provisional, Remote
files = LayerFiles(Path(sys.argv[1]))
record = files.read()
change = Provisional(Remote((), {"log": {"burst": 9}}), "set-config", "j", 2, 9.0, Baseline("ok", (), False))
for step in (lambda r: r.propose(change), lambda r: r.burn(), lambda r: r.commit(1.0)):
    after = step(record)
    files.write(after, record)
    record = after
"""


def _writes(folder, *trace):
    return subprocess.run(
        [*trace, sys.executable, "-P", "-c", WRITES, folder], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@needs_strace
def test_every_record_is_synced_before_it_counts_and_its_folder_after(tmp_path):
    """Power may go at any moment: content first, then the name, then the folder that holds the name."""
    made = _writes(tmp_path / "remote", "strace", "-f", "-e", "trace=fsync,rename,renameat,renameat2")
    lines = [line for line in made.stderr.splitlines() if "record.json" in line or "fsync" in line]
    calls = ["rename" if "rename" in line else "fsync" for line in lines]
    assert calls == ["fsync", "rename", "fsync"] * 3


@needs_strace
@pytest.mark.parametrize("call", ["openat", "write", "fsync", "rename"])
def test_a_kill_at_any_system_call_leaves_a_whole_record(tmp_path, call):
    """Of three steps in a row one is on the disk whole, and the steps before it are in it."""
    reached = set()
    for when in range(1, 13):
        folder = tmp_path / f"{call}-{when}"
        folder.mkdir()
        only = ["-P", str(folder / "record.json.new"), "-P", str(folder), "-P", str(folder / "record.json")]
        kill = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
        _writes(folder, "strace", "-f", "-q", *only, *kill)
        reached.add(LayerFiles(folder).read().generation)
    assert len(reached) >= 3, "the kills hit different steps"


# --- one change after another, in this process ------------------------------------------------------------------


class Desk:
    """A running agent's reconfiguration with a clock that is told; restarts are noted."""

    def __init__(self, config):
        self.config = config
        self.restarts, self.alarms = [], {}
        self.boot()

    def boot(self):
        self.clock = FakeClock()
        self.started = start(self.config, {}, self.clock.wall_s())
        shelf = Shelf(self.started.effective.config.models, self.started.effective.config.cache, SystemClock())
        self.it = Reconfiguration(
            self.started, lambda made: examine(made.pipelines, made.sources, shelf), self.clock,
            self.alarms.__setitem__, self.restarts.append,
        )  # fmt: skip
        return self.it

    def live(self, seconds, now=WELL):
        for _ in range(int(seconds)):
            self.it.look(now)
            self.clock.sleep(1.0)


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "count.toml").write_text(COUNTING)
    (tmp_path / "limpet.toml").write_text(
        'schema = 1\n[paths]\npipelines = ["count.toml"]\n[store]\nfolder = "outbox"\n'
        '[updates]\nfolder = "depot"\n[sources.rows]\nkind = "load"\n[sources.tool]\nkind = "exec"\nargv = ["cat"]\n'
        'output = "lines"\n'
    )
    made = Desk(tmp_path / "limpet.toml")
    made.live(2)
    return made


def _asked(desk, args, job="job-1"):
    said = desk.it.set_config(args, job)
    if said == RESTARTS:
        assert desk.restarts
        desk.boot()
    return said


def test_set_config_is_kept_when_the_agent_stays_healthy(desk):
    """On trial after the restart, successful when it has been well for settle_s, and in force ever after."""
    assert _asked(desk, {"set": {"log": {"level": "debug"}}}) == RESTARTS
    assert desk.started.effective.config.log.level == "debug"
    assert desk.it.on_trial("job-1")
    desk.live(5)
    assert desk.it.outcome("job-1") is None
    desk.live(10)
    end = desk.it.outcome("job-1")
    assert end.kept
    assert len(desk.restarts) == 1, "nothing has to restart for it to stay"
    desk.boot()
    assert desk.started.effective.config.log.level == "debug"
    assert desk.it.status()["mode"] == "normal"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Now(Health("degraded", ("lane pipeline:count failed 3 times: x",)), ("count",), True), "degraded, it was ok"),
        (Now(Health("ok"), (), True), "do not: count"),
        (Now(Health("ok"), ("count",), False), "broker"),
    ],
)
def test_set_config_is_taken_back_at_its_deadline(desk, bad, words):
    """Whatever is worse than before: the deadline of the request counts, and why is told."""
    _asked(desk, {"set": {"log": {"level": "debug"}}, "deadline_s": 20.0})
    desk.live(19, bad)
    assert desk.it.outcome("job-1") is None
    desk.live(3, bad)
    end = desk.it.outcome("job-1")
    assert (end.kept, end.reason) == (False, "PROBATION_FAILED")
    assert words in end.text
    assert len(desk.restarts) == 2
    desk.boot()
    assert desk.started.effective.config.log.level == "info"


def test_a_moment_of_health_is_not_enough(desk):
    """Well and unwell by turns never makes settle_s in a row."""
    _asked(desk, {"set": {"log": {"level": "debug"}}})
    for _ in range(12):
        desk.live(4)
        desk.live(1, Now(Health("ok"), (), True))
    desk.live(2)
    assert desk.it.outcome("job-1").reason == "PROBATION_FAILED"


@pytest.mark.parametrize(
    ("args", "reason", "words"),
    [
        ({"set": {"log": {"level": "loud"}}}, "VERIFY_FAILED", "layer set-config [log]: key 'level': 'loud'"),
        ({"set": {"envelope": {"mode": "plain"}}}, "VERIFY_FAILED", "layer set-config [envelope]: key 'mode'"),
        ({"set": {"sources": {"tool": {"argv": ["sh"]}}}}, "VERIFY_FAILED", "of kind exec only none"),
        ({"set": {"pipelines": {"count": {"source": "nowhere"}}}}, "VERIFY_FAILED", "no usable [sources.nowhere]"),
        ({"set": {"pipelines": {"count": {"detector": {"treshold": 1}}}}}, "VERIFY_FAILED", "treshold"),
        ({"set": {"pipelines": {"new": {"source": "rows", "model": {"name": "nomodel"}}}}}, "VERIFY_FAILED", "nomodel"),
        ({"set": {"sources": {"rows": {"interval_s": -1.0}}}}, "VERIFY_FAILED", "interval_s"),
        ({}, "REJECTED_UNSUPPORTED", "nothing is asked for"),
        ({"sett": {}}, "REJECTED_UNSUPPORTED", "unknown key 'sett'"),
        ({"set": {"log": {"burst": 3}}, "deadline_s": 1.0}, "REJECTED_UNSUPPORTED", "deadline_s"),
        ({"unset": ["log.level"]}, "REJECTED_UNSUPPORTED", "changes no 'log.level'"),
    ],
)
def test_nothing_is_written_for_a_change_that_would_not_work(desk, args, reason, words):
    """The whole that would come of it is checked, pipelines put together and models looked for, before anything."""
    with pytest.raises(CommandError) as caught:
        desk.it.set_config(args, "job-1")
    assert caught.value.reason == reason
    assert words in str(caught.value)
    assert desk.restarts == []
    assert not (desk.started.files.folder / "record.json").exists()


def test_a_dry_run_and_a_change_of_nothing_write_nothing(desk):
    """Both are answered at once."""
    assert "valid" in desk.it.set_config({"set": {"log": {"burst": 3}}, "dry_run": True}, "a")
    assert desk.restarts == []
    _asked(desk, {"set": {"log": {"burst": 3}}})
    desk.live(15)
    assert "nothing to change" in desk.it.set_config({"set": {"log": {"burst": 3}}}, "b")


def test_changes_add_up_and_single_ones_can_be_taken_out(desk):
    """set lays over what set-config said before, unset takes a key or table of it out, revert goes one change back."""
    for i, args in enumerate([
        {"set": {"schema": 1, "log": {"burst": 3}, "pipelines": {"count": {"detector": {"threshold": 5.0}}}}},
        {"set": {"log": {"level": "debug"}}},
        {"unset": ["pipelines.count"]},
    ]):  # fmt: skip
        _asked(desk, args, f"job-{i}")
        desk.live(15)
    assert record(desk.config).committed.settings == {"log": {"burst": 3, "level": "debug"}}
    assert desk.it.revert() == RESTARTS
    desk.boot()
    desk.live(15)
    assert "pipelines" in record(desk.config).committed.settings
    desk.it.revert(everything=True)
    desk.boot()
    desk.live(15)
    assert record(desk.config).committed.settings == {}
    assert desk.started.effective.config.log.burst == 10


def test_a_change_is_never_judged_by_the_process_that_does_not_run_with_it(desk):
    """Also when that process has just kept another one: being well now says nothing about what comes next."""
    _asked(desk, {"set": {"log": {"burst": 3}}}, "job-1")
    desk.live(15)
    desk.it.set_config({"set": {"log": {"burst": 4}}}, "job-2")
    desk.live(100)
    assert desk.it.outcome("job-2") is None
    assert desk.it.on_trial("job-2")
    assert record(desk.config).committed.settings == {"log": {"burst": 3}}


def test_one_change_at_a_time_and_not_before_the_agent_knows_how_it_is(desk):
    """A second one would hide whose fault it is."""
    _asked(desk, {"set": {"log": {"burst": 3}}})
    with pytest.raises(CommandError) as caught:
        desk.it.set_config({"set": {"log": {"burst": 4}}}, "job-2")
    assert caught.value.reason == "REJECTED_BUSY"
    desk.live(1)
    with pytest.raises(CommandError, match="ask later"):
        desk.it.set_config({"set": {"log": {"burst": 4}}}, "job-2")
    assert "taken back" in desk.it.revert()
    assert desk.it.outcome("job-1").reason == "CANCELED"


def test_a_disk_that_takes_nothing_leaves_the_old_configuration(desk, monkeypatch):
    """The change is not announced before it is on the disk, and a try that cannot be burnt is not used."""
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("agent.layerfiles.write_durably", full)
        with pytest.raises(CommandError) as caught:
            desk.it.set_config({"set": {"log": {"burst": 3}}}, "job-1")
        assert caught.value.reason == "NO_SPACE"
        assert desk.restarts == []
    desk.it.set_config({"set": {"log": {"burst": 3}}}, "job-1")
    with monkeypatch.context() as patched:
        patched.setattr("agent.layerfiles.write_durably", full)
        desk.boot()
    assert desk.started.effective.config.log.burst == 10
    assert "is not used" in desk.started.alarms["remote-configuration"]
    assert desk.started.trial is None


def test_a_change_that_ends_the_start_is_taken_back_at_once(desk):
    """Exit status 2 would keep systemd from trying again, and the device would stay silent."""
    _asked(desk, {"set": {"log": {"burst": 3}}})
    assert desk.it.cannot_start("no listening address")
    assert desk.it.outcome("job-1").reason == "ROLLED_BACK"
    desk.boot()
    assert not desk.it.cannot_start("a broken key")


def test_the_operator_may_switch_it_off(desk):
    """Neither fleet nor set-config count then, also what was committed before."""
    _asked(desk, {"set": {"log": {"burst": 3}}})
    desk.live(15)
    desk.config.write_text(desk.config.read_text() + "\n[remote]\nenabled = false\n")
    desk.boot()
    desk.live(2)
    assert desk.started.effective.config.log.burst == 10
    with pytest.raises(CommandError) as caught:
        desk.it.set_config({"set": {"log": {"burst": 3}}}, "job-2")
    assert caught.value.reason == "REJECTED_UNAUTHORIZED"


def test_a_change_on_trial_does_not_survive_a_broken_limpet_toml(desk):
    """Two things at once are not judged: safe mode runs what was committed."""
    desk.live(15)
    desk.it.set_config({"set": {"log": {"burst": 3}}}, "job-1")
    desk.config.write_text("[")
    desk.boot()
    assert desk.started.safe
    assert desk.started.trial is None
    assert desk.it.outcome("job-1").reason == "FAILED"


def test_a_fleet_layer_that_was_refused_is_tried_again_with_another_limpet_toml(desk, tmp_path):
    """The operator may have mended what was in its way."""
    fleet(tmp_path, "base", "[log]\nburst = 4\n")
    desk.live(15)
    assert len(desk.restarts) == 1
    desk.boot()
    desk.live(70, Now(Health("ok"), (), True))
    assert len(desk.restarts) == 2
    desk.boot()
    desk.live(30)
    assert len(desk.restarts) == 2
    assert "do not: count" in desk.alarms["fleet-configuration"]
    desk.config.write_text(desk.config.read_text() + '[log]\nlevel = "warning"\n')
    desk.boot()
    desk.live(30)
    assert len(desk.restarts) == 3


def test_a_layer_that_names_a_model_yet_to_come_is_looked_at_again_but_not_all_the_time(desk, tmp_path):
    """Validating costs: once a minute, and at once when the layer changes."""
    asked = []
    desk.it._examine = lambda made: asked.append(made) or {"extra": "no such model yet"} if made.pipelines[1:] else {}
    new = '[pipelines.extra]\nsource = "rows"\n[pipelines.extra.model]\nname = "later"\n'
    fleet(tmp_path, "base", new)
    desk.live(40)
    assert len(asked) == 1
    assert "no such model yet" in desk.alarms["fleet-configuration"]
    desk.live(60)
    assert len(asked) == 2
    fleet(tmp_path, "base", new + 'version = "1.0.0"\n')
    desk.live(10)
    assert len(asked) == 3
    desk.it._examine = lambda made: {}
    desk.live(70)
    assert len(desk.restarts) == 1


def test_a_healthy_record_changes_the_tables_that_it_names_and_no_other(desk):
    """What is not in a layer is as in limpet.toml."""
    _asked(desk, {"set": {"store": {"budget_mib": 64}}})
    local = make_config(read_tables(desk.config), desk.config)
    changed = desk.started.effective.config
    assert changed.store.budget_mib == 64
    assert changed.device == local.device
    assert changed.uplink == local.uplink
    assert changed.envelope == local.envelope
    assert Record().committed == Remote()
