"""Releases of the agent under a real systemd: good ones stay, broken ones go back by themselves, keys stay apart.

The machine fetches from a web server of its own on loopback, with every unit as it is installed. The releases hold the
agent's own wheel; its dependencies are this environment's (tests/machine.py).
"""

import json
import re
import shutil
import time

import pytest

from agent.release.place import release_id
from tests.machine import booted
from tests.releases import Shop, replace

CONFIG = """
[updates]
repository = "http://127.0.0.1:8000"
root = "/etc/limpet/root.json"
release_probation_s = 2
models = ["@agent"]
"""
QUICK = "[Service]\nTimeoutStartSec=3\nRestartSec=200ms\n"
"""Sorts after the drop-in of a trial, so that a release that hangs does not hold the tests up."""


def crash_at_start(source):
    """Fine wherever it is looked at, and dead as soon as systemd starts it."""
    replace(source / "agent/cli/run.py", "    app = App", "    os.abort()\n    app = App")


def crash_at_import(source):
    """Dead on arrival: the step that installs it finds out."""
    app = source / "agent/app/app.py"
    replace(app, "\nimport logging\n", "\nimport logging\n\nraise RuntimeError('broken release')\n")


def hang_at_start(source):
    """Alive, and never ready."""
    replace(source / "agent/cli/run.py", "    app = App", "    import time\n\n    time.sleep(3600)\n    app = App")


def break_the_unit(source):
    """A limpet.service that systemd cannot load: nothing of it would ever be started, or tried again."""
    replace(source / "systemd/limpet.service", "ExecStart=/opt", "ExecStart=opt")


def break_the_program(source):
    """A limpet.service that names a program which is not there, and that would never be started again."""
    path = source / "systemd/limpet.service"
    replace(path, "ExecStart=/opt/limpet/current/bin/python", "ExecStart=/opt/limpet/nowhere")
    replace(path, "Restart=always", "Restart=no")
    replace(path, "Wants=limpet-try.service", "Documentation=file:/nowhere")


BROKEN = {
    "0.3.1": crash_at_start, "0.3.2": crash_at_import, "0.3.3": hang_at_start, "0.3.4": break_the_unit,
    "0.3.5": break_the_program,
}  # fmt: skip
RELEASES = {"0.3.0": None, **BROKEN, "0.3.6": None}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A publisher with all releases; `names` has what each is called on a device."""
    it = Shop(tmp_path_factory.mktemp("shop"))
    it.names = {version: release_id(version, pick.sha256) for version, pick in it.add_all(RELEASES).items()}
    return it


@pytest.fixture(scope="module")
def machine(tmp_path_factory, shop):
    """An installed and running agent that trusts the publisher; the installer's release is 0.1.0."""
    with booted(tmp_path_factory.mktemp("machine")) as it:
        it.run("limpet keys new device --out /tmp/k && limpet keys new reader --out /tmp/k")
        it.run("install -m 600 /tmp/k/device.key /etc/credstore/limpet.signing.key")
        it.run("head -c 32 /dev/urandom >/etc/credstore/limpet.model.key; chmod 600 /etc/credstore/limpet.*")
        it.run("install -m 644 /tmp/k/reader.pub /etc/limpet/readers/reader.pub")
        it.run("sed -i '/^.updates.$/,/^$/d' /etc/limpet/limpet.toml")
        with (it.root / "etc/limpet/limpet.toml").open("a") as file:
            file.write(CONFIG)
        shutil.copyfile(shop.anchor, it.root / "etc/limpet/root.json")
        dropin = it.root / "etc/systemd/system/limpet.service.d"
        dropin.mkdir()
        (dropin / "zzz-quick.conf").write_text(QUICK)
        shutil.copytree(shop.public, it.root / "srv/repository")
        start_web(it)
        it.run("systemctl daemon-reload; systemctl enable --now limpet")
        yield it


def start_web(machine):
    """The publisher's static files, on the machine's own loopback."""
    command = "/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /srv/repository 8000"
    machine.run(f"systemctl -q is-active web || systemd-run -q --unit=web {command}")
    machine.until("(echo >/dev/tcp/127.0.0.1/8000) 2>/dev/null && echo up", "up")


def ask(machine, version, job=None):
    """What the agent does for a command: it leaves a job in the spool, as its own user."""
    job = job or version
    text = json.dumps({"schema": 1, "id": job, "do": "release", "model": "@agent", "version": version})
    (machine.root / "tmp/job").write_text(text)
    machine.run(f"install -o limpet -g limpet -m 640 /tmp/job /run/limpet-update/{job}.json")


def progress(machine, version):
    """How far the job has come."""
    return json.loads(machine.run(f"cat /var/lib/limpet-models/jobs/{version}.json"))


def status_line(version):
    """A shell line that prints the state of a job."""
    return f"sed -E 's/.*\"status\":\"([a-z]+)\".*/\\1/' /var/lib/limpet-models/jobs/{version}.json"


LINKS = "readlink /opt/limpet/current /opt/limpet/good | xargs -n1 basename | xargs"


def settled(machine, release):
    """Wait until `release` is current and good, and the agent runs it in good health."""
    machine.until(LINKS, f"{release} {release}", 90)
    machine.wait("ActiveState", "active", 30)
    assert machine.run("readlink /proc/$(systemctl show -P MainPID limpet)/exe | head -c 5") == "/usr/"
    machine.until("systemctl is-active limpet-switch.service", "inactive")
    assert not (machine.root / "etc/systemd/system/limpet.service.d/zz-limpet-trial.conf").exists()


@pytest.fixture(scope="module")
def second(machine, shop):
    """Release 0.3.0, asked for, tried and committed."""
    ask(machine, "0.3.0")
    machine.until(status_line("0.3.0"), "successful", 120)
    settled(machine, shop.names["0.3.0"])
    return shop.names["0.3.0"]


def test_a_good_release_is_fetched_tried_and_committed(machine, second):
    """From the job to the commit without a hand: the running process is the new one, the old release is kept."""
    assert '"version": "0.3.0"' in machine.run("limpet status --json")
    assert machine.run("readlink /opt/limpet/previous | xargs basename") != second
    record = json.loads((machine.root / "var/lib/limpet-models/state.json").read_text())
    assert record["agent"]["active"]["version"] == "0.3.0"
    assert record["agent"]["trial"] is None
    assert machine.run("stat -c '%U %a' /opt/limpet/releases/" + second) == "root 755"
    assert machine.run("limpet --version") == "limpet 0.3.0"


@pytest.mark.parametrize("version", list(BROKEN))
def test_a_broken_release_goes_back_by_itself(machine, second, version):
    """However it is broken: the committed one runs again, the broken one is remembered and never tried again."""
    ask(machine, version)
    machine.until(status_line(version), "failed", 150)
    settled(machine, second)
    assert progress(machine, version)["reason"] in ("ROLLED_BACK", "VERIFY_FAILED", "PROBATION_FAILED")
    assert '"version": "0.3.0"' in machine.run("limpet status --json")
    ask(machine, version, job="again")
    machine.until(status_line("again"), "failed", 60)
    assert "went wrong on this device before" in progress(machine, "again")["text"]
    machine.run("rm /var/lib/limpet-models/jobs/again.json")
    assert machine.run(LINKS) == f"{second} {second}"


def test_power_cuts_in_a_switch_and_on_probation_lose_nothing(machine, shop, second):
    """Cut while root builds, the committed one runs after the boot and the try goes on; cut on probation, that does."""
    (machine.root / "etc/limpet/conf.d/slow.toml").write_text("[updates]\nrelease_probation_s = 10\n")
    release = shop.names["0.3.6"]
    ask(machine, "0.3.6")
    machine.until(f"ls -d /opt/limpet/releases/{release}/lib", f"/opt/limpet/releases/{release}/lib", 60)
    machine.cut()
    assert machine.run(LINKS).split()[1] == second
    start_web(machine)
    machine.until(LINKS, f"{release} {second}", 60)
    machine.until("systemctl is-active limpet-switch.service", "inactive")
    machine.wait("ActiveState", "active")
    machine.cut()
    assert machine.run(LINKS) == f"{release} {second}"
    settled(machine, release)
    machine.until(status_line("0.3.6"), "successful", 30)
    machine.run("rm /etc/limpet/conf.d/slow.toml")


def test_a_committed_release_is_taken_back_on_request(machine, shop, second):
    """One command, and what ran before it runs again, with its own units."""
    job = {"schema": 1, "id": "back", "do": "rollback", "model": "@agent", "text": "it prints in green"}
    (machine.root / "tmp/job").write_text(json.dumps(job))
    machine.run("install -o limpet -g limpet -m 640 /tmp/job /run/limpet-update/back.json")
    settled(machine, second)
    assert '"version": "0.3.0"' in machine.run("limpet status --json")
    record = json.loads((machine.root / "var/lib/limpet-models/state.json").read_text())
    assert record["agent"]["active"]["version"] == "0.3.0"
    assert "green" in record["agent"]["bad"][-1]["reason"]


BEGIN = """
import time
from pathlib import Path
from agent.depot import Pick, Writer
with Writer(Path("/var/lib/limpet-models")) as writer:
    pick = Pick("9.0.0", "ab" * 32)
    writer.save(writer.state.begin_trial("keywords", pick, tries=3, mode="live", job="b7", now_s=time.time()))
"""
KILLER = """#!/bin/sh
# What a model does that brings its process down: as long as the record has one on probation.
if grep -Eq '"trial": ?[{]' /var/lib/limpet-models/state.json; then kill -9 "$MAINPID"; fi
"""


def test_a_model_that_kills_the_agent_goes_back_by_the_try_counter(machine):
    """Every start dies while it is on probation; after its tries the agent runs with the model before, and stays up."""
    (machine.root / "opt/killer").write_text(KILLER)
    dropin = machine.root / "etc/systemd/system/limpet.service.d/killer.conf"
    dropin.write_text("[Service]\nExecStartPost=/bin/sh /opt/killer\n")
    (machine.root / "opt/begin.py").write_text(BEGIN)
    machine.run("runuser -u limpet-update -- /opt/limpet/current/bin/python -P /opt/begin.py")
    machine.run("systemctl daemon-reload; systemctl restart limpet", check=False)
    machine.until("grep -Ec 'trial.: ?[{]' /var/lib/limpet-models/state.json", "0", 30)
    machine.wait("ActiveState", "active", 30)
    restarts = int(machine.show("NRestarts"))
    assert 1 <= restarts <= 4
    time.sleep(3)
    assert (int(machine.show("NRestarts")), machine.show("ActiveState")) == (restarts, "active")
    record = json.loads((machine.root / "var/lib/limpet-models/state.json").read_text())
    assert [bad["version"] for bad in record["models"]["keywords"]["bad"]] == ["9.0.0"]
    dropin.unlink()
    machine.run("systemctl daemon-reload")


TOUCH = """
import os, resource, socket
def tried(name, act):
    try:
        act()
    except OSError as exc:
        print(name, "refused")
    else:
        print(name, "allowed")
def ask():
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect("/run/limpet/control.sock")
        line.sendall(b'{"ask": "status"}\\n')
        if not line.recv(100):
            raise OSError("no answer")
def net():
    with socket.socket() as line:
        line.settimeout(5)
        line.connect(("127.0.0.1", 8000))
for path in ("/etc/credstore", "/run/credentials/limpet.service", "/run/credentials/limpet-update.service",
             "/var/lib/limpet", "/var/lib/limpet-models", "/etc/limpet", "/root"):
    tried("list " + path, lambda: os.listdir(path))
for path in ("/etc/credstore/limpet.signing.key", "/var/lib/limpet/store.key"):
    tried("read " + path, lambda: open(path).close())
for path in ("/var/lib/limpet-models", "/run/limpet-update", "/run/limpet-switch", "/run/limpet-try", "/run/limpet",
             "/var/lib/limpet", "/var/lib/limpet-switch", "/opt/limpet", "/etc/limpet", "/etc/systemd/system"):
    tried("write " + path, lambda: open(path + "/probe", "x").close() or os.unlink(path + "/probe"))
tried("ask the agent", ask)
tried("network", net)
tried("limit itself", lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)))
print("credentials", *sorted(os.listdir(os.environ.get("CREDENTIALS_DIRECTORY", "/proc/self/attr"))))
"""

MAY = {
    "limpet.service": {
        "list /var/lib/limpet", "list /var/lib/limpet-models", "list /etc/limpet", "read /var/lib/limpet/store.key",
        "write /run/limpet-update", "write /run/limpet", "write /var/lib/limpet", "ask the agent", "network",
        "limit itself",
    },
    "limpet-update.service": {
        "list /var/lib/limpet-models", "list /etc/limpet", "write /var/lib/limpet-models", "write /run/limpet-update",
        "write /run/limpet-switch", "write /run/limpet-try", "network", "limit itself",
    },
    "limpet-try.service": {
        "list /var/lib/limpet-models", "list /etc/limpet", "write /var/lib/limpet-models", "write /run/limpet-switch",
        "write /run/limpet-try", "write /run/limpet-update", "limit itself",
    },
}  # fmt: skip
"""All that each unit may do of what the probe tries. The folders of /run belong to the updater's user; in a container
ProtectKernelTunables= undoes ProtectSystem= for /run (seen with systemd 252), so only owners keep them apart here."""


@pytest.mark.parametrize("unit", list(MAY))
def test_each_unit_reaches_its_own_things_and_no_others(machine, unit):
    """The updater sees none of the agent's keys, the agent cannot write the depot, neither sees the other's secrets."""
    start_web(machine)
    machine.run("test -d /run/limpet-try || install -d -o limpet-update -g limpet -m 750 /run/limpet-try")
    said = machine.caged(TOUCH, unit)
    assert set(re.findall(r"(?m)^(.*) allowed$", said)) == MAY[unit], said
    assert said.count("allowed") + said.count("refused") == 22
    shown = re.search(r"(?m)^credentials(.*)$", said).group(1).split()
    if unit == "limpet-update.service":
        assert shown == ["limpet.model.key"]
    if unit == "limpet.service":
        assert shown == ["limpet.model.key", "limpet.signing.key"]


def test_the_try_step_comes_before_every_start(machine):
    """By hand, after a crash and at a restart; what it said about one start is gone before the next."""
    machine.run("systemctl restart limpet; kill -9 $(systemctl show -P MainPID limpet)")
    machine.wait("NRestarts", "1")
    machine.wait("ActiveState", "active")
    machine.run("systemctl restart limpet")
    told = machine.run("journalctl -b -u limpet -u limpet-try -o cat --no-pager")
    steps = re.findall(r"(?m)^(Starting limpet-try|Starting limpet)\.service", told)
    assert steps.count("Starting limpet") >= 3
    before = {steps[number - 1] for number, step in enumerate(steps) if step == "Starting limpet"}
    assert before == {"Starting limpet-try"}, told
    assert machine.run("systemctl stop limpet; ls /run/limpet-try; systemctl start limpet") == ""
