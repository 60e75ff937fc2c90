"""The model of `vendors` behind a runner host: opened, asked, and its processes counted.

A test file makes the fixture its own: `vendor = pytest.fixture(hosts.vendor)`.
"""

import time
from pathlib import Path

import numpy as np

from agent.runtime.remote import RemoteRunner
from agent.settings.runtime import RuntimeOptions
from tests.clocks import FakeClock
from tests.vendors import vendor_model, vendor_python


class Vendor:
    """Called with options, it opens the model; the waits after a crash pass when the test turns the clock."""

    def __init__(self, folder):
        self.folder, self.clock, self._opened = folder, FakeClock(), []

    def __call__(self, python=None, **options):
        given = RuntimeOptions(isolation="process", python=python or vendor_python(self.folder), **options)
        manifest = vendor_model(self.folder / "model")
        path = manifest.folder / "net.tflite"
        self._opened.append(RemoteRunner(manifest, manifest.artifacts[0], given, path, mono_s=self.clock.mono_s))
        return self._opened[-1]

    def close(self):
        for runner in self._opened:
            runner._revival.close()  # first: a run that has not ended would hold the runner
            runner.close()


def vendor(tmp_path):
    made = Vendor(tmp_path)
    yield made
    made.close()


def fed(first):
    return {"x": np.array([[first, 0, 0, 0]], np.float32)}


def works(runner):
    return runner.run(fed(1))["y"].tolist() == [[2, 1, 1, 1]]


def pids(runner):
    """The host, then its workers."""
    top = runner._revival._hosting.pid
    return [top, *map(int, Path(f"/proc/{top}/task/{top}/children").read_text().split())]


def gone(pid, limit_s=10.0):
    """Whether the process ends in time."""
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
