"""OpenStack Swift for a test: a real S3 server, where Debian's python3-swift is installed or unpacked.

LIMPET_SWIFT names a folder into which the packages were unpacked (`dpkg -x`), for machines where nothing is installed.
"""

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("swift_server.py")


@dataclass(frozen=True)
class Swift:
    """Where it listens, and who may come in."""

    url: str
    user: str = "test:tester"
    password: str = "testing"


@contextlib.contextmanager
def swift(folder):
    """A server with its disks in `folder`; skips the test, with the reason, where there is none to run."""
    environment = _environment()
    folder.mkdir()
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", "import swift.proxy"], env=environment, check=False,
                                                   capture_output=True).returncode:  # fmt: skip
        pytest.skip("OpenStack Swift is not here: apt-get install python3-swift, or LIMPET_SWIFT=DIR of its packages")
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [PYTHON, "-P", SERVER, folder], env=environment, stdout=subprocess.PIPE, stderr=said, text=True
        )
    try:
        port = process.stdout.readline().strip()
        assert port, (folder / "said").read_text()
        yield Swift(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _environment():
    """What the system's own Python needs, and nothing of the environment that runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    if unpacked := os.environ.get("LIMPET_SWIFT"):
        kept["PYTHONPATH"] = f"{unpacked}/usr/lib/python3/dist-packages"
        kept["LD_LIBRARY_PATH"] = f"{unpacked}/usr/lib/{os.uname().machine}-linux-gnu"
    return kept
