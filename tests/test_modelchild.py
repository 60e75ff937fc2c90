"""Children that look at a model: whatever one does, its parent goes on in time and in small memory."""

import time
import tracemalloc

import pytest

from agent.modelchild import Ended, run_child

TELLS = "import os, sys, time, signal\nfrom agent.modelchild import teller\ntell = teller()\ntell(begun=True)\n"
LEAVES = """if os.fork() == 0:
    os.setsid()
    time.sleep(30)
    os._exit(0)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Runs a module of this text."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(text, time_s=20.0):
        (tmp_path / "told_model.py").write_text(TELLS + text)
        begin_s = time.monotonic()
        ended = run_child("told_model", "", time_s)
        return ended, time.monotonic() - begin_s

    return run


HANGS_UP = "os.close(tell.__closure__[0].cell_contents.fileno()); time.sleep(0.5); os._exit(3)"


@pytest.mark.parametrize(("text", "status"), [("tell(b=1)", 0), (LEAVES, 0), (HANGS_UP, 3)])
def test_the_end_of_a_child_is_its_own(child, text, status):
    """A process that it left behind in a session of its own, with the pipe open, keeps nobody waiting."""
    ended, took_s = child(text)
    assert (ended.status, ended.said.splitlines()[0]) == (status, b'{"begun": true}')
    assert took_s < 10


@pytest.mark.parametrize("text", ["time.sleep(30)", f"{LEAVES}time.sleep(30)", "while True: tell(x='y' * 100_000)"])
def test_a_deadline_is_kept_whatever_a_child_leaves_or_tells(child, text):
    """It hangs, alone or with somebody who holds the pipe, or it talks without end."""
    tracemalloc.start()
    try:
        ended, took_s = child(text, 2.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ended.status is None
    assert took_s < 8
    assert peak < 5_000_000


def test_all_that_was_told_before_the_end_is_heard(child):
    """Also what lies in the pipe when the child has ended already."""
    ended, _ = child("for i in range(2000): tell(i=i)")
    assert ended.said.splitlines()[-1] == b'{"i": 1999}'


def test_every_signal_has_words():
    """Those without a name, too."""
    assert [Ended(b"", status).how for status in (-11, -40, 3, None)] == [
        "with SIGSEGV", "with signal 40", "with status 3", "at its deadline",
    ]  # fmt: skip
