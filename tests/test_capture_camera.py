"""V4L2 cameras through the real OpenCV: a driver in user space stands where the hardware is missing."""

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from agent.capture import open_source
from agent.clock import SystemClock
from agent.errors import CaptureError
from agent.settings.capture import V4l2Config

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "/dev/full"
"""A device node that every machine has and nobody opens; the driver in user space takes its place."""

WATCH = """
import json, sys, time
from agent.capture import open_source
from agent.clock import SystemClock
from agent.errors import CaptureError
from agent.settings.capture import V4l2Config
from agent.strict import build

config = build(V4l2Config, json.loads(sys.argv[1]), "test")
limit_s, seen, error = float(sys.argv[2]), [], ""
began = heard = time.monotonic()
counts = {}
try:
    with open_source("cam", config, SystemClock()) as source:
        while time.monotonic() - began < limit_s:
            sample = source.read(0.2)
            if sample is not None:
                heard = time.monotonic()
                seen.append((sample.t_s - began, sample.data.shape, int(sample.data[24, 32, 1])))
                print("frame", flush=True)
        counts = source.counts()
except CaptureError as exc:
    error = str(exc)
print(json.dumps({"seen": seen, "error": error, "silent_s": time.monotonic() - heard, "counts": dict(counts)}))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The compiled driver."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: apt install gcc libc6-dev")
    library = tmp_path_factory.mktemp("v4l2") / "fake_v4l2.so"
    source = Path(__file__).with_name("fake_v4l2.c")
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *warnings, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def camera(driver, tmp_path):
    """Starts a watcher of the camera; returns it and the file that rules the camera's fate."""
    fate = tmp_path / "fate"

    def watch(limit_s, **config):
        env = os.environ | {"LD_PRELOAD": str(driver), "FAKE_V4L2": DEVICE, "FAKE_V4L2_STATE": str(fate)}
        command = [sys.executable, "-c", WATCH, json.dumps({"device": DEVICE} | config), str(limit_s)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=env, cwd=ROOT, text=True, **pipes)

    return watch, fate


def _end(watcher):
    return json.loads(watcher.communicate(timeout=30)[0].splitlines()[-1])


def test_a_camera_delivers_every_frame_at_its_rate(camera):
    """25 frames per second for 1.6 s, converted to BGR, each brighter than the one before."""
    watch, _ = camera
    with watch(1.6) as watcher:
        end = _end(watcher)
    assert end["error"] == ""
    assert 30 <= len(end["seen"]) <= 41
    assert all(shape == [48, 64, 3] for _, shape, _ in end["seen"])
    values = [value for _, _, value in end["seen"]]
    # 5 steps of luma are 5 * 255/219 steps of brightness; every 40 frames it begins again
    steps = [b - a for a, b in pairwise(values)]
    assert sum(4 <= step <= 7 for step in steps) >= len(steps) - 2


def test_fps_takes_a_share_and_the_rest_is_drained(camera):
    """Held to 5 per second the frames that pass are new ones: brightness shows that those between were taken too."""
    watch, _ = camera
    with watch(2.5, fps=5) as watcher:
        end = _end(watcher)
    assert 10 <= len(end["seen"]) <= 14
    assert end["counts"]["paced"] >= 35
    values = [value for _, _, value in end["seen"]]
    steps = [b - a for a, b in pairwise(values)]
    assert sum(22 <= step <= 37 for step in steps) >= len(steps) - 3


def test_a_camera_that_is_pulled_out_breaks_at_once(camera):
    """The poll reports an error: the message says to plug it in; opening fails as plainly, until it is back."""
    watch, fate = camera
    with watch(20.0) as watcher:
        assert watcher.stdout.readline() == "frame\n"
        fate.write_text("unplug")
        end = _end(watcher)
    assert end["error"].startswith(f"{DEVICE}: the camera is gone: plug it in again")
    assert end["silent_s"] < 1
    with watch(1.0) as watcher:
        assert "is no camera that OpenCV can open" in _end(watcher)["error"]
    fate.unlink()
    with watch(1.0) as watcher:
        end = _end(watcher)
    assert end["error"] == ""
    assert len(end["seen"]) > 10


def test_a_camera_that_falls_silent_breaks_at_its_deadline(camera):
    """No frame for 1 s: the read deadline is kept although OpenCV's own is ten seconds."""
    watch, fate = camera
    with watch(20.0, read_timeout_s=1.0) as watcher:
        assert watcher.stdout.readline() == "frame\n"
        fate.write_text("stall")
        began = time.monotonic()
        end = _end(watcher)
    assert time.monotonic() - began < 4
    assert end["error"] == f"{DEVICE}: no frame for 1 s: unplug the camera and plug it in again"


def test_no_camera_is_told_apart_from_no_right_to_it(tmp_path):
    """Nothing there, a file instead of a device, a device that is no camera."""
    with pytest.raises(CaptureError, match="there is no such camera: plug it in, or look at ls /dev/v4l/by-id"):
        open_source("cam", V4l2Config(device=tmp_path / "video9"), SystemClock())
    (tmp_path / "video.mp4").touch()
    with pytest.raises(CaptureError, match="is not a device: for a recording use kind = 'replay'"):
        open_source("cam", V4l2Config(device=tmp_path / "video.mp4"), SystemClock())
    with pytest.raises(CaptureError, match="is no camera that OpenCV can open"):
        open_source("cam", V4l2Config(device=Path("/dev/null")), SystemClock())
