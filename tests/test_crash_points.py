"""SIGKILL at every step of a model's life: the right one runs, the last good one is never lost, the record is readable.

The product has no hooks for this: strace kills the real process at its n-th fsync, rename, write and so on. Every step
is killed once; LIMPET_CRASHES=1000 adds runs whose recovery is killed as well, at random steps.
"""

import collections
import os
import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.depot import Writer, collect, folder_of, read_state, whole
from agent.updates.jobs import Book
from tests import depot_life as life
from tests.repositories import Repo
from tests.tiny_models import make_model

ROOT = Path(__file__).resolve().parent.parent
STEPS = (
    "fsync", "rename", "renameat", "renameat2", "write", "mkdir", "mkdirat", "chmod", "fchmod", "fchmodat", "unlink",
    "unlinkat", "rmdir", "ftruncate",
)  # fmt: skip
"""System calls that change something."""
ENDS = ("commit", "roll_back", "burn")
MORE = int(os.environ.get("LIMPET_CRASHES", "0"))
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null")


def _traced():
    if shutil.which("strace") is None:
        return False
    done = subprocess.run([*STRACE, "-e", "trace=fsync", "true"], capture_output=True, check=False)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not _traced(), reason="strace is missing, or may not trace here")


def _live(folder, how, *options):
    """Run the life in a process of its own; returns its status and the promises that it told."""
    command = [sys.executable, "-B", "-P", str(ROOT / "tests" / "depot_life.py"), str(folder), how]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run([*options, *command], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split()


def _killed(folder, how, step):
    call, number = step
    status, promises = _live(folder, how, *STRACE, "-e", f"inject={call}:signal=KILL:when={number}")
    return status != 0, promises


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A depot with an active version, one before it, and one that nobody needs any more."""
    folder = tmp_path_factory.mktemp("begun")
    life.prepare(folder)
    return folder


def _steps(begun, tmp_path, how):
    """Every (system call, n) of a whole life."""
    folder, log = tmp_path / f"whole-{how}", tmp_path / f"{how}.log"
    shutil.copytree(begun, folder)
    status, _ = _live(folder, how, "strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(STEPS)}")
    assert status == 0
    calls = collections.Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
    early = _calls_before_our_code(tmp_path)
    return [(call, n) for call, count in calls.items() for n in range(early[call] + 1, count + 1)]


def _calls_before_our_code(tmp_path):
    log = tmp_path / "bare.log"
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(STEPS)}"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    subprocess.run([*strace, sys.executable, "-B", "-P", "-c", "import agent.depot"], env=environment, check=True)
    return collections.Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))


def _judge(begun, folder, how, steps):
    """Kill a life at the first step, its recovery at the next ones, and let the last one end; what went wrong."""
    shutil.copytree(begun, folder)
    promises = []
    for step in steps:
        killed, told = _killed(folder, how, step)
        promises += told
        if words := life.wrong(folder, promises, how):
            return f"{how} killed at {steps}: {words}"
        if len(steps) == 1 and not killed:
            return f"{how} was not killed at {step}"
    status, told = _live(folder, how)
    state = read_state(folder).model(life.NAME)
    words = life.wrong(folder, [*promises, *told], how) or ("" if status == 0 else f"the recovery ended with {status}")
    gone = not folder_of(folder, life.NAME, life.pick(0)).exists() or life.pick(0) in state.kept
    left = list((folder / "parts").iterdir())
    shutil.rmtree(folder)
    if words or not gone or left:
        return f"{how} killed at {steps}: {words or 'rubbish is left: ' + str(left)}"
    return ""


def _all(begun, tmp_path, tasks):
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        names = (tmp_path / f"life-{n}" for n in range(len(tasks)))
        return [words for words in pool.map(lambda folder, task: _judge(begun, folder, *task), names, tasks) if words]


@pytest.mark.parametrize("how", ENDS)
def test_a_kill_at_any_step_loses_no_good_model(begun, tmp_path, how):
    """Put, trial, commit, rollback, collection, and the burning of tries, each cut off at each of its steps."""
    steps = _steps(begun, tmp_path, how)
    assert len(steps) > 50
    assert _all(begun, tmp_path, [(how, (step,)) for step in steps]) == []


def test_a_recovery_that_is_killed_too_loses_no_good_model(begun, tmp_path):
    """Two kills in a row at random steps; LIMPET_CRASHES says how many more of them."""
    rng = random.Random(7)
    steps = {how: _steps(begun, tmp_path, how) for how in ENDS}
    tasks = []
    for _ in range(45 + MORE):
        how = rng.choice(ENDS)
        tasks.append((how, tuple(rng.choice(steps[how]) for _ in range(2))))
    assert _all(begun, tmp_path, tasks) == []


def test_a_start_of_the_agent_after_a_kill_burns_what_it_finds(begun, tmp_path):
    """Whatever the step, a following start has a record, tries that only fall, and files for what it chooses."""
    for number, step in enumerate([("rename", 3), ("rename", 4), ("rename", 5), ("fsync", 12), ("fsync", 14)]):
        folder = tmp_path / str(number)
        shutil.copytree(begun, folder)
        _killed(folder, "commit", step)
        with Writer(folder) as writer:
            before = writer.state.model(life.NAME)
            after = writer.save(writer.state.burn()).model(life.NAME)
        collect(folder)
        chosen = after.chosen(read_state(folder).generation)
        assert (before.trial is None) or after.trial is None or after.trial.tries_left < before.trial.tries_left
        number_of = {life.pick(n): n for n in (0, life.OLD, life.NEW)}
        assert whole(folder_of(folder, life.NAME, chosen), life.files(number_of[chosen]))


@pytest.fixture(scope="module")
def stick(tmp_path_factory):
    """A published repository with one tiny model."""
    folder = tmp_path_factory.mktemp("stick")
    make_model(folder / "model", "copy", "onnx", name=life.NAME)
    repo = Repo(folder / "repo")
    repo.add(folder / "model")
    (folder / "root.json").write_bytes(repo.root)
    return folder


def _update(folder, stick, *options):
    """`limpet update` from the stick, in a process of its own; its status."""
    folder.mkdir(exist_ok=True)
    text = 'schema = 1\n[updates]\nfolder = "depot"\nspool = "spool"\nkeep_free_mb = 0.0\n'
    (folder / "limpet.toml").write_text(text + f"root = '{stick / 'root.json'}'\n")
    place = stick / "repo" / "mirror"
    command = [sys.executable, "-B", "-P", "-m", "agent", "update", "--config", str(folder / "limpet.toml")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    command += [life.NAME, "--from", str(place), "--no-wait"]
    return subprocess.run([*options, *command], env=environment, capture_output=True, check=False).returncode


def _cut_off_update(folder, stick, step):
    """Kill an update at `step`, then ask again: what is wrong afterwards."""
    call, number = step
    killed = _update(folder, stick, *STRACE, "-e", f"inject={call}:signal=KILL:when={number}") != 0
    depot = folder / "depot"
    before = read_state(depot)
    if before.damaged:
        return f"{step}: {before.damaged}"
    _update(folder, stick)
    state, book = read_state(depot), Book(depot)
    model = state.model(life.NAME)
    stuck = [one for one in book.every() if not one.terminal and one.status != "probation"]
    if state.damaged or model.trial is None or model.bad or stuck:
        return f"{step}: {state} {stuck}"
    if not killed or list((depot / "parts").iterdir()):
        return f"{step}: {'rubbish is left' if killed else 'it was not killed'}"
    return ""


def test_a_whole_update_that_is_killed_is_there_when_it_is_asked_for_again(stick, tmp_path):
    """The real command with TUF, downloads and the probe; whatever the step, one candidate and no open end."""
    steps = [("fsync", n) for n in (1, 7, 14, 21, 28, 35, 42)] + [("rename", n) for n in (2, 5, 9, 13, 17)]
    with ThreadPoolExecutor(4) as pool:
        folders = (tmp_path / f"{call}-{number}" for call, number in steps)
        ends = list(pool.map(lambda folder, step: _cut_off_update(folder, stick, step), folders, steps))
    assert [words for words in ends if words] == []
