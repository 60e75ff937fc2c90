"""A source that breaks comes back by itself: lane, supervisor, backoff and a real command together."""

import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from agent.backoff import Backoff
from agent.capture import EndOfStream, inbox_limits, open_source
from agent.clock import SystemClock
from agent.inbox import Inbox
from agent.lanes import CaptureLane
from agent.meters import Meters
from agent.metrics import Registry
from agent.settings.capture import ExecConfig
from agent.supervisor import Lane, Supervisor

ROOT = Path(__file__).resolve().parent.parent
THREE_FRAMES = "import sys; sys.stdout.buffer.write(bytes(3 * 192)); sys.stdout.flush(); sys.exit({status})"


class _Attempts:
    """Opens the source and notes when."""

    def __init__(self, config):
        self.config, self.at_s, self.clock = config, [], SystemClock()

    def open(self, first_seq):
        self.at_s.append(time.monotonic())
        return open_source("cam", self.config, self.clock, first_seq)


def _run(config, until, limit_s=20.0):
    attempts, inbox = _Attempts(config), Inbox(200, "block")
    lane = CaptureLane("cam", attempts.open, EndOfStream, [inbox], Meters(Registry()))
    supervisor = Supervisor(
        [Lane("cam", lane.run)], lambda: Backoff(random.Random(1), first_s=0.1, cap_s=0.4), time.monotonic
    )
    end_s = time.monotonic() + limit_s
    state = supervisor.reconcile()[0]
    while not until(attempts, inbox, state) and time.monotonic() < end_s:
        state = supervisor.reconcile()[0]
        time.sleep(0.01)
    assert supervisor.stop(5.0) == ()
    samples = []
    while (sample := inbox.get(0)) is not None:
        samples.append(sample)
    return attempts, samples, state


def test_a_command_that_dies_again_and_again_is_started_again_and_numbers_go_on():
    """Four lives of three frames: one sequence from 0 to 11, a gap at the start of every later life."""
    config = ExecConfig(argv=(sys.executable, "-c", THREE_FRAMES.format(status=1)), width=8, height=8)
    _, samples, state = _run(config, lambda a, inbox, _: inbox.counts().waiting >= 12 and len(a.at_s) >= 4)
    assert [s.seq for s in samples[:12]] == list(range(12))
    assert [s.gap for s in samples[:12]] == [False, False, False, *[True, False, False] * 3]
    assert state.failures >= 3
    assert "ended with status 1" in state.error


def test_a_source_that_cannot_be_opened_is_tried_ever_more_slowly():
    """A program that is not there: no storm of tries, and the error stays visible."""
    attempts, samples, state = _run(ExecConfig(argv=("no-such-tool",), output="y4m"), lambda a, *_: len(a.at_s) >= 8)
    assert not samples
    waits = [b - a for a, b in pairwise(attempts.at_s)]
    assert min(waits) >= 0.01
    assert max(waits) <= 0.6
    assert "no-such-tool: is not installed" in state.error


def test_a_command_that_may_end_ends_its_lane():
    """on_exit = end: after exit status 0 the lane is over and is not started again."""
    config = ExecConfig(
        argv=(sys.executable, "-c", THREE_FRAMES.format(status=0)), width=8, height=8, on_exit="end"
    )
    attempts, samples, state = _run(config, lambda _a, _i, state: state.phase == "ended")
    assert [s.seq for s in samples] == [0, 1, 2]
    assert (state.phase, len(attempts.at_s)) == ("ended", 1)


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        ("LoadConfig()", set()),
        ("ExecConfig(argv=('true',), output='pcm')", {"cv2"}),
        ("ExecConfig(argv=('true',), output='y4m')", {"cv2"}),
    ],
)
def test_opening_a_source_imports_no_package_that_it_does_not_use(config, allowed):
    """A sensor costs no OpenCV, a camera no PortAudio."""
    code = (
        "import sys\nfrom agent.capture import open_source\nfrom agent.clock import SystemClock\n"
        "from agent.settings.capture import *\n"
        f"open_source('x', {config}, SystemClock()).close()\n"
        "print(*({'cv2', 'sounddevice', 'serial'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= allowed


def test_each_kind_has_an_inbox_that_holds_two_seconds_of_sound():
    """Sound at 0.1 s per sample waits in an inbox of 20."""
    assert inbox_limits(ExecConfig(argv=("arecord",), output="pcm")) == (20, "drop_oldest")
