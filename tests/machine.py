"""A Debian machine with a real systemd as process 1, made of this one's files, for tests of the installed service.

systemd-nspawn boots an overlay of / whose upper layer is memory, in a mount namespace of its own: nothing of it reaches
the disk or outlives the process. Limpet is put there by tools/install.sh; the Python packages are this environment's.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOT_S = 60.0
CHECKOUT = "/opt/checkout"
"""Where the machine has this checkout: it mounts its own /tmp and /root over whatever lies there outside."""
PACKAGES = "PYTHONPATH=/opt/packages"
"""Where the machine finds the Python packages: an environment variable for the service and for commands."""

_BOOT = """
set -euo pipefail
mount -t tmpfs -o size=1G,mode=755 tmpfs "$1"
mkdir "$1"/up "$1"/work "$1"/root
mount -t overlay overlay -o lowerdir=/,upperdir="$1/up",workdir="$1/work" "$1/root"
rm -rf "$1"/root/etc/systemd/system/*.wants "$1"/root/etc/limpet "$1"/root/opt/limpet
: >"$1/root/etc/machine-id"
"$2/tools/install.sh" --root "$1/root" --no-deps
mkdir -p "$1/root/opt/packages" "$1/root/opt/checkout" "$1/root/etc/systemd/system.conf.d"
printf '[Manager]\nDefaultEnvironment=PYTHONPATH=/opt/packages\n' >"$1/root/etc/systemd/system.conf.d/packages.conf"
cd "$2" && cp -a agent pipelines models systemd tools docs pyproject.toml README.md LICENSE "$1/root/opt/checkout/"
again=yes
while [ "$again" ]; do
    rm -f "$4"
    systemd-nspawn -q -D "$1/root" -b --register=no --keep-unit --private-network \\
        --bind-ro="$3:/opt/packages" systemd.unit=multi-user.target || true
    again=$(cat "$4" 2>/dev/null || true)
done
"""


_OWN_WAY = r"(?m)^(Type|Restart|WatchdogSec|Exec\w+)=(.*\\\n)*.*$"
_ONCE = """[Service]
Type=oneshot
Restart=no
StandardOutput=truncate:/run/probe.txt
StandardError=inherit
ExecStart=/opt/limpet/current/bin/python -P /opt/limpet/probe.py"""


class Machine:
    """The booted machine; `run` runs a shell line in it, `root` is its file system."""

    def __init__(self, child, log, again):
        self._child, self._log, self._again = child, log, again
        self.leader = _ready(child, log)

    @property
    def root(self):
        """Its file system, as seen from here."""
        return Path(f"/proc/{self.leader}/root")

    def cut(self):
        """Cut the power, and boot again: everything that ran is gone, and so is /run. What was written is there."""
        self._again.write_text("yes")
        os.kill(self.leader, signal.SIGKILL)
        gone = self.leader
        until_s = time.monotonic() + BOOT_S
        while Path(f"/proc/{gone}").exists():
            assert time.monotonic() < until_s, "the machine did not end"
            time.sleep(0.02)
        self.leader = _ready(self._child, self._log)

    def run(self, line, check=True, timeout_s=60):
        """The output of a shell line in the machine, both streams; fails the test when the line fails."""
        done = _inside(self.leader, line, timeout_s)
        assert not check or done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}\n{self.journal()}"
        return done.stdout.strip()

    def show(self, name, unit="limpet.service"):
        """One property of a unit."""
        return self.run(f"systemctl show -P {name} {unit}")

    def journal(self):
        """The last lines of our units."""
        return self.run("journalctl -u 'limpet*' -o cat --no-pager | tail -60", check=False)

    def caged(self, script, unit="limpet.service"):
        """The output of a Python script that runs with every restriction of a unit, as its user."""
        (self.root / "opt/limpet/probe.py").write_text(script)
        text = (self.root / "etc/systemd/system" / unit).read_text()
        once = re.sub(_OWN_WAY, "", text).replace("[Service]", _ONCE)
        (self.root / "etc/systemd/system/probe.service").write_text(once)
        self.run("rm -f /run/probe.txt; systemctl daemon-reload; systemctl start probe", check=False)
        return (self.root / "run/probe.txt").read_text()

    def until(self, line, value, timeout_s=30.0):
        """Wait until a shell line prints `value`; returns the seconds that took."""
        begin_s = time.monotonic()
        while (said := self.run(line, check=False)) != value:
            assert time.monotonic() - begin_s < timeout_s, f"{line}: {said!r}, not {value!r}\n{self.journal()}"
            time.sleep(0.1)
        return time.monotonic() - begin_s

    def wait(self, name, value, timeout_s=20.0):
        """Wait until a property has a value; returns the seconds that took."""
        begin_s = time.monotonic()
        while self.show(name) != value:
            assert time.monotonic() - begin_s < timeout_s, f"{name} is {self.show(name)}\n{self.journal()}"
            time.sleep(0.02)
        return time.monotonic() - begin_s


@contextlib.contextmanager
def booted(folder):
    """A booted machine with Limpet installed and not started; skips where that cannot be."""
    _require()
    log = folder / "boot.log"
    base, again = folder / "base", folder / "again"
    base.mkdir()
    packages = sysconfig.get_path("purelib")
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [
                "unshare", "--mount", "--propagation", "private", "bash", "-c", _BOOT, "boot", base, ROOT, packages,
                again,
            ],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
        )  # fmt: skip
    try:
        yield Machine(child, log, again)
    finally:
        for nspawn in _children(child.pid):
            os.kill(nspawn, signal.SIGTERM)  # it asks its init to power off
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _inside(leader, line, timeout_s=60):
    command = ["nsenter", "-t", str(leader), "-a", "-r", "-w", "env", PACKAGES, "bash", "-c", line]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
    )


def _children(pid):
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _leaders(pid):
    """The first process of each machine that `pid` has booted: one, or none while it boots."""
    for nspawn in _children(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{nspawn}/comm").read_text().strip() == "systemd-nspawn":
                yield from _children(nspawn)


def _ready(child, log):
    """Wait until the machine has booted; its first process."""
    until_s = time.monotonic() + BOOT_S
    while time.monotonic() < until_s and child.poll() is None:
        for leader in _leaders(child.pid):
            if _inside(leader, "systemctl is-active multi-user.target").stdout.strip() == "active":
                return leader
        time.sleep(0.1)
    words = log.read_text(errors="replace").strip()
    if child.poll() is not None and ("install: release" in words or "install:" not in words):
        pytest.skip(f"no machine can be booted here: {words.splitlines()[-1] if words else 'it ended at once'}")
    raise AssertionError(f"the machine did not boot:\n{words[-3000:]}")


def _require():
    """Skip with the reason where a machine cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("booting a machine needs root")
    for tool in ("systemd-nspawn", "unshare", "nsenter", "systemd-sysusers"):
        if shutil.which(tool) is None:
            pytest.skip(f"booting a machine needs {tool} (Debian: systemd-container)")
    other = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys, venv; print(*sys.version_info[:2])"],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    if other != [str(n) for n in sys.version_info[:2]]:
        there = ".".join(other) or "missing"
        pytest.skip(f"/usr/bin/python3 is {there}, the packages at hand are for {sys.version[:4]}")
