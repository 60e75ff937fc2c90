"""`limpet models add` that is killed, or finds no room: a whole model or none, and the next one mends it."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.catalogue import add as add_entry
from agent.catalogue import load_entry, state_of
from agent.catalogue.carrier import opened
from agent.registry import installed
from tests import shops
from tests.console import limpet
from tests.fault_server import Fault
from tests.shops import BALLAST, PLACE, left, make_entry

ROOT = Path(__file__).resolve().parent.parent
shop, mirror, add = pytest.fixture(shops.shop), pytest.fixture(shops.mirror), pytest.fixture(shops.add)


def test_killed_in_the_middle_it_leaves_no_model_and_goes_on(capsys, tmp_path, mirror):
    """SIGKILL while bytes come: nothing that could be taken for a model, nobody else gets in; the next add goes on."""
    catalogue, root, ballast = tmp_path / "large", tmp_path / "models", os.urandom(400_000)
    mirror.files |= {PLACE: make_entry(catalogue, ballast=ballast), BALLAST: ballast}
    mirror.faults[BALLAST] = Fault(trickle_s=0.05, trickle_after=300_000, times=1)
    words = [str(word) for word in ("add", "tiny", "--catalogue", catalogue, "--into", root, "--mirror", mirror.url)]
    child = subprocess.Popen([sys.executable, "-m", "agent", "models", *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _wait_for(root / ".parts" / "tiny", size_bytes=200_000)
    status, _, err = limpet(capsys, *words)
    assert (status, "somebody is adding a model there already" in err) == (2, True)
    child.kill()
    child.wait(10)
    assert not list(installed([root]))
    mirror.requests.clear()
    assert limpet(capsys, *words)[0] == 0
    (rest,) = mirror.requests
    assert int(rest.range.removeprefix("bytes=").rstrip("-")) >= 200_000
    assert (root / "tiny" / "ballast.bin").read_bytes() == ballast


STEPS = ("os.rename", "os.fsync", "os.chmod", "os.mkdir", "os.unlink", "os.rmdir", "shutil.copyfile")


@pytest.mark.parametrize(
    ("step", "replace"), [*((step, False) for step in STEPS), ("os.rename", True), ("os.unlink", True)]
)
def test_killed_at_any_step_there_is_a_whole_model_or_none(tmp_path, shop, step, replace):
    """SIGKILL at the first, second, ... call of each kind, until a run gets through; the next add mends everything."""
    entry, stick = load_entry(shop[0] / "tiny"), tmp_path / "stick"
    (stick / PLACE).parent.mkdir(parents=True)
    (stick / PLACE).write_bytes(shop[1])
    for count in range(1, 60):
        root = tmp_path / f"models{count}"
        if replace:
            (root / "tiny").mkdir(parents=True)
        killed = _in_child(lambda root=root: _add(entry, root, stick, replace=True), step, count)
        models = list(installed([root])) if root.exists() else []
        assert all(found.manifest and state_of(entry, root) == "whole" for found in models), (step, count)
        _add(entry, root, stick, replace=True)
        assert state_of(entry, root) == "whole"
        assert [path for path in left(root) if not path.startswith("tiny")] == []
        if not killed:
            assert count > 1, f"{step} is never called"
            return
    pytest.fail(f"more than 60 calls of {step}")


def test_a_disk_that_is_full_is_told_and_left_clean(tmp_path, mirror, shop):
    """No file may grow beyond 60 bytes: the part goes, nothing is there."""
    root = tmp_path / "models"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))  # noqa: E731
    command = [sys.executable, "-m", "agent", *_words(root, mirror, shop)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert (done.returncode, "the disk is full" in done.stderr) == (1, True), done.stderr
    assert left(root) == []


def test_no_room_is_said_before_a_byte_is_asked_for(add, monkeypatch, tmp_path, mirror):
    """With what is needed and what is there."""
    free = os.statvfs_result((4096, 4096, 1000, 1000, 1000, 1000, 1000, 1000, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: free)
    status, err = add()
    assert (status, mirror.requests) == (1, [])
    assert "no room for tiny: 16.0 MB are needed" in err


def _words(root, mirror, shop):
    words = ("models", "add", "tiny", "--catalogue", shop[0], "--into", root, "--mirror", mirror.url)
    return [str(word) for word in words]


def _add(entry, root, stick, *, replace):
    with opened(str(stick)) as carrier:
        add_entry(entry, root, carrier, lambda _made: "not asked", lambda _wanted, _done: None, replace=replace)


def _in_child(work, step, count):
    """Run `work` in a child that is killed at its `count`-th call of `step`; whether it was."""
    if not (child := os.fork()):
        module, _, name = step.rpartition(".")
        real, left_over = getattr(sys.modules[module], name), [count]

        def dying(*args, **more):
            left_over[0] -= 1
            if not left_over[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        setattr(sys.modules[module], name, dying)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
    return status != 0


def _wait_for(folder, size_bytes=0):
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        if folder.exists() and sum(path.stat().st_size for path in folder.glob("*")) >= size_bytes:
            return
        time.sleep(0.02)
    pytest.fail(f"nothing came into {folder}")
