"""A Debian machine with a real systemd as process 1, made of this one's files, for tests of the installed service.

systemd-nspawn boots an overlay of / whose upper layer is memory, in a mount namespace of its own: nothing of it reaches
the disk or outlives the process. Limpet is put there by tools/install.sh; the Python packages are this environment's.
"""

import contextlib
import os
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
exec systemd-nspawn -q -D "$1/root" -b --register=no --keep-unit --private-network \\
    --bind-ro="$3:/opt/packages" systemd.unit=multi-user.target
"""


class Machine:
    """The booted machine; `run` runs a shell line in it, `root` is its file system."""

    def __init__(self, leader):
        self.leader = leader
        self.root = Path(f"/proc/{leader}/root")

    def run(self, line, check=True, timeout_s=60):
        """The output of a shell line in the machine, both streams; fails the test when the line fails."""
        command = ["nsenter", "-t", str(self.leader), "-a", "-r", "-w", "env", PACKAGES, "bash", "-c", line]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
        )
        assert not check or done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}\n{self.journal()}"
        return done.stdout.strip()

    def show(self, name, unit="limpet.service"):
        """One property of a unit."""
        return self.run(f"systemctl show -P {name} {unit}")

    def journal(self):
        """The last lines of our units."""
        return self.run("journalctl -u 'limpet*' -o cat --no-pager | tail -60", check=False)

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
    base = folder / "base"
    base.mkdir()
    packages = sysconfig.get_path("purelib")
    with log.open("wb") as sink:
        child = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", _BOOT, "boot", base, ROOT, packages],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
        )  # fmt: skip
    try:
        yield _ready(child, log)
    finally:
        child.send_signal(signal.SIGTERM)  # nspawn asks its init to power off
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _ready(child, log):
    until_s = time.monotonic() + BOOT_S
    while time.monotonic() < until_s:
        if child.poll() is not None:
            break
        leaders = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        name = Path(f"/proc/{child.pid}/comm").read_text().strip()
        if name == "systemd-nspawn" and leaders:
            machine = Machine(int(leaders[0]))
            state = machine.run("systemctl is-active multi-user.target", check=False)
            if state == "active":
                return machine
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
