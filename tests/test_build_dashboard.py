"""`tools/build_dashboard.py` where the network is not: it says so once, and `make run` does not wait for it again."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.agents import ROOT


@pytest.fixture
def build(tmp_path):
    """The tool in a checkout of its own, whose npm and pip find nobody."""
    for name in ("tools/build_dashboard.py", "tools/dashboard/package.json", "tools/dashboard/package-lock.json",
                 "tools/locks/node.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    nobody = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_cache": str(tmp_path / "cache"),
              "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}  # fmt: skip

    def run(*words):
        command = [sys.executable, tmp_path / "tools/build_dashboard.py", *words]
        told = {"env": os.environ | nobody, "capture_output": True, "text": True}
        return subprocess.run(command, timeout=120, check=False, **told)

    return run


def test_what_failed_once_is_not_waited_for_again(build, tmp_path):
    """One line instead, with the reason and the command that tries again; another lock is tried."""
    first = build("--once")
    assert (first.returncode, first.stdout.count("Building the dashboard")) == (1, 1)
    for said in ("failed, see the network", "without the browser page; the terminal view needs", "make dashboard"):
        assert said in first.stderr
    assert re.search(r"reason: .*ECONNREFUSED|ERROR: ", first.stderr), "what the network said"
    assert first.stderr.count("\n") <= 4
    again = build("--once")
    assert (again.returncode, again.stderr, again.stdout.count("\n")) == (1, "", 1)
    for said in ("without the browser page", "before: ", "failed, see the network", "make dashboard tries again"):
        assert said in again.stdout
    lock = tmp_path / "tools/dashboard/package-lock.json"
    lock.write_text(lock.read_text() + "\n")
    assert "Building the dashboard" in build("--once").stdout


def test_make_dashboard_always_tries(build):
    """As does `make test`."""
    for _ in range(2):
        done = build()
        assert (done.returncode, "Building the dashboard" in done.stdout) == (1, True)
