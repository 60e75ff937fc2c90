"""Preparing as root for another user: what that user's child leaves leads root nowhere."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from agent.catalogue import proof
from agent.manifest import load_manifest
from agent.modelchild import Ended
from agent.prepared import PrepareError, making, prepare, sweep
from agent.prepared.folder import take_back
from agent.prepared.making import _become
from agent.prepared.owner import as_owner, as_root, holder
from agent.runtime.prepared import CACHE, Place
from tools.bench.weights import write_heavy

OTHER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root works for another user")


@pytest.fixture
def theirs():
    """A folder of another user's, and beside it one of root's with something in it."""
    base = Path(tempfile.mkdtemp())  # pytest's own folders let nobody but root in
    base.chmod(0o755)
    for name in ("theirs", "roots"):
        (base / name).mkdir()
    (base / "roots" / "kept").mkdir(mode=0o700)
    os.chown(base / "theirs", OTHER, OTHER)
    yield base / "theirs"
    shutil.rmtree(base)


@pytest.fixture
def python(theirs, monkeypatch):
    """Python may lie in root's home, where no other user can start it: so children change their user afterwards."""
    if not (setpriv := shutil.which("setpriv")):
        pytest.skip("no setpriv here")
    start = theirs.parent / "python"
    become = f"{setpriv} --reuid {OTHER} --regid {OTHER} --clear-groups"
    start.write_text(f'#!/bin/sh\nexec {become} {sys.executable} "$@"\n')
    start.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(start))
    monkeypatch.setattr(making, "_become", lambda user: {})
    monkeypatch.setattr(making, "RUN_S", 0.05)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path, link):
    """What it leads to keeps its mode and its owner."""
    victim, made = tmp_path / "victim", tmp_path / "root" / ".new-1"
    victim.write_text("x")
    victim.chmod(0o600)
    made.mkdir(parents=True)
    link(victim, made / CACHE)
    with pytest.raises(PrepareError, match="left no file of its own"):
        take_back(made)
    assert victim.stat().st_mode & 0o777 == 0o600
    assert victim.stat().st_uid == os.geteuid()


def test_who_looks_at_a_model_for_root_has_no_group_of_roots():
    """Neither root's own nor those that root is in."""
    became = _become(65534)
    assert became["user"] == 65534
    assert became["group"] != 0
    assert became["extra_groups"] == ()


@pytest.mark.parametrize("said", [
    b"", b"[" * 60_000, b"[]", b"{}", b'{"load_ms": 1, "run_ms": 1, "private_bytes": "1", "peak_bytes": 1}',
    b'{"load_ms": 1, "run_ms": NaN, "private_bytes": 1, "peak_bytes": 1}',
    b'{"load_ms": 1, "run_ms": 1e999, "private_bytes": 1, "peak_bytes": 1}',
])  # fmt: skip
def test_what_a_model_says_in_the_place_of_its_child_is_no_measurement(said):
    """Only numbers under the known names are; all else is the end of that step."""
    assert making._read("plain", Ended(said, 0)) == {"why": "the step 'plain' ended with status 0"}


def test_a_reason_leaves_room_in_the_record():
    """However long the child says it."""
    assert len(making._read("save", Ended(b'{"why": "%s"}' % (b"x" * 500_000), 0))["why"]) == 2000


def test_what_a_tried_model_says_that_is_no_json_is_left_out():
    """Neither nests the parser to its end nor puts other things than names in the answer."""
    said = b"[" * 60_000 + b'\n[["told", "x"]]\n{"started": true}\n'
    assert proof._read(Ended(said, -11)) == {"started": True, "why": "it ended the process that tries it with SIGSEGV"}


@needs_root
def test_a_folder_that_became_a_link_lets_root_remove_nothing(theirs):
    """Its owner has it lead to a folder of root's, all of whose folders have no record."""
    roots = theirs.parent / "roots"
    (theirs / "prepared").symlink_to(roots)
    with pytest.raises(PrepareError, match="run this as the user that owns"):
        sweep(theirs / "prepared", ())
    assert [path.name for path in roots.iterdir()] == ["kept"]
    assert os.geteuid() == 0


@needs_root
def test_what_root_prepares_is_the_owners_from_the_first_byte(theirs, python):
    """Nothing needs to be handed over, and root is root again."""
    outcome = _prepare(theirs)
    assert outcome.state in ("made", "refused"), outcome
    made = [theirs / "prepared", *(theirs / "prepared").rglob("*")]
    assert len(made) >= 4
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(OTHER, OTHER)}
    assert (os.geteuid(), os.getegid()) == (0, 0)


@needs_root
@pytest.mark.parametrize("step", ["plain", "save", "prepared"])
def test_a_new_folder_that_becomes_a_link_between_two_steps_leads_root_nowhere(theirs, python, step, monkeypatch):
    """The owner takes it away and has a link to a folder of root's in its place: that keeps mode, owner and content."""
    roots, run_child = theirs.parent / "roots", making.run_child

    def swapping(module, task, time_s, **how):
        ended = run_child(module, task, time_s, **how)
        for new in (theirs / "prepared").glob(".new-*") if f'"step": "{step}"' in task else ():
            new.rename(theirs / f"taken-{new.name}")
            new.symlink_to(roots)
        return ended

    monkeypatch.setattr(making, "run_child", swapping)
    with pytest.raises(PrepareError):
        _prepare(theirs)
    assert list(theirs.glob("taken-*"))
    assert [path.name for path in roots.iterdir()] == ["kept"]
    assert (roots.stat().st_uid, roots.stat().st_mode & 0o777) == (0, 0o755)


@needs_root
def test_who_decides_what_a_folder_is(theirs):
    """The first user but root on the way to it, also by way of a link, and for what is not there yet."""
    base = theirs.parent
    (base / "roots" / "link").symlink_to("../theirs/../roots")
    assert holder(theirs / "a" / "b") == OTHER
    assert holder(base / "roots" / "link" / "kept") == OTHER
    assert holder(base / "roots" / "kept") == holder(base / "roots" / "none") == 0
    (base / "roots" / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        holder(base / "roots" / "round")


@needs_root
def test_root_acts_as_the_owner_and_comes_back(theirs):
    """With no group of root's meanwhile; within, it may be itself for a moment."""
    groups = os.getgroups()
    with as_owner(theirs):
        assert (os.geteuid(), os.getegid(), os.getgroups()) == (OTHER, OTHER, [])
        with as_root():
            assert os.geteuid() == 0
        assert (os.geteuid(), os.getegid()) == (OTHER, OTHER)
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, groups)


def _prepare(theirs):
    model = load_manifest(write_heavy(theirs.parent / "model", "dense", "tflite", 8))
    return prepare(model, model.artifacts[0], Place(theirs / "prepared"))
