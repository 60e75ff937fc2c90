"""Who serves a public model, or sits on the way, or shares the machine, gets nothing but an error in words."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.catalogue import PinnedFile, load_entry, proved, state_of
from agent.catalogue import add as add_entry
from agent.catalogue.carrier import opened
from agent.errors import ModelError
from agent.registry import installed
from tests import shops
from tests.console import limpet
from tests.fault_server import Fault, FaultServer
from tests.shops import BALLAST, COMMIT, PLACE, left, make_entry
from tests.test_fetch import certificate
from tests.tiny_models import make_model

ROOT = Path(__file__).resolve().parent.parent
shop, mirror = pytest.fixture(shops.shop), pytest.fixture(shops.mirror)


@pytest.fixture
def add(capsys, tmp_path, shop, mirror):
    """Add the model from the mirror, or with other words: (status, standard error)."""

    def adding(*words):
        more = words if "--mirror" in words else ("--mirror", mirror.url, *words)
        into = () if "--into" in words else ("--into", tmp_path / "models")
        status, _, err = limpet(capsys, "add", "tiny", "--catalogue", shop[0], *into, *more)
        return status, err

    return adding


def test_other_bytes_are_removed_and_both_digests_said(add, tmp_path, shop, mirror):
    """One bit: nothing looked into the file, nothing of it stays."""
    mirror.faults[PLACE] = Fault(flip=7)
    status, err = add()
    wanted = load_entry(shop[0] / "tiny").table.file[0]
    assert status == 1
    assert f"the catalogue says {wanted.sha256}" in err
    assert err.count("sha256 is ") == 1
    assert left(tmp_path / "models") == []


@pytest.mark.parametrize("fault", [Fault(endless=True), Fault(unsized=True), Fault()])
def test_a_body_that_goes_on_is_cut_at_the_pinned_size(add, tmp_path, mirror, fault):
    """Without end, without a length, or with a length that is too large."""
    mirror.faults[PLACE] = fault
    mirror.files[PLACE] += b"x" * 26_000_000
    status, err = add()
    assert (status, mirror.sent_bytes < 13_000_000) == (1, True)
    assert "pinned" in err
    assert left(tmp_path / "models") == []


def test_a_login_page_is_named(add, tmp_path, mirror):
    """What a network's portal answers to everything."""
    mirror.faults[PLACE] = Fault(page=True)
    status, err = add()
    assert (status, "log in" in err) == (1, True)
    assert left(tmp_path / "models") == []


def test_no_redirect_leads_to_another_host(add, tmp_path, mirror, shop):
    """Another port, another name of this machine, another scheme: refused before anything is asked there."""
    with FaultServer() as other:
        other.files[PLACE] = shop[1]
        port = other.url.rpartition(":")[2]
        for place in (f"{other.url}/{PLACE}", f"http://localhost:{port}/{PLACE}", "http://192.168.1.5/x", "ftp://x/y"):
            mirror.faults[PLACE] = Fault(location=place)
            status, err = add()
            assert (status, other.requests) == (1, []), place
            assert "redirect" in err or "use https" in err
    assert not list(installed([tmp_path / "models"]))


def test_a_redirect_on_the_same_host_is_followed_a_few_times(add, mirror, shop):
    """A repository that got another name; but no loop."""
    mirror.files["renamed"] = shop[1]
    mirror.faults[PLACE] = Fault(location=f"{mirror.url}/renamed")
    assert add()[0] == 0
    mirror.faults[PLACE] = Fault(location=f"{mirror.url}/{PLACE}")
    assert "redirects" in add("--replace", "--into", shop[0].parent / "other")[1]


@pytest.mark.parametrize("url", ["http://192.168.1.5", "http://example.com", "ftp://127.0.0.1", "https://", "file:///tmp"])
def test_only_https_or_this_machine_are_asked(add, url):
    """Not even a private address is fetched from in the open: nobody signs what a user adds by hand."""
    status, err = add("--mirror", url)
    assert (status, "use https" in err) == (1, True)


def test_https_is_verified(add, tmp_path, shop):
    """A mirror of one's own with its certificate; refused without."""
    context, pem = certificate(tmp_path)
    with FaultServer(context) as server:
        server.files[PLACE] = shop[1]
        status, err = add("--mirror", server.url)
        assert (status, "TLS failed" in err) == (1, True)
        assert add("--mirror", server.url, "--ca", pem)[0] == 0


def test_a_cut_transfer_goes_on_where_it_stopped(add, tmp_path, shop, mirror):
    """What came is kept beside the model's place, where nobody takes it for a model."""
    mirror.faults[PLACE] = Fault(cut_after=10, times=4)
    status, err = add()
    assert (status, "what has come so far is kept" in err) == (1, True)
    assert not list(installed([tmp_path / "models"]))
    mirror.requests.clear()
    assert add()[0] == 0
    assert mirror.requests[0].range != "", "the rest was asked for, not all of it"
    assert [path for path in left(tmp_path / "models") if not path.startswith("tiny")] == []


TRICKS = {
    'path = "copy.onnx"': [
        'path = "../copy.onnx"', 'path = "/tmp/copy.onnx"', 'path = "golden/in.npz"', 'path = "model.toml"',
        'path = ".hidden"', 'path = "entry.toml"', 'path = ""',
    ],
    f"@{COMMIT}:": ["@main:", f"@{COMMIT[:12]}:", f"@{COMMIT.upper()}:", ":", f"@{COMMIT}:../../evil/"],
    "github:acme/models": [
        "https://evil.example/models", "github:acme", "github:../models", "github:acme/..", "gitlab:a/b",
    ],
    "size_bytes = ": ["size_bytes = -", "size_bytes = 0", "size_bytes = 99999999"],
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, many in TRICKS.items() for new in many])
def test_tricks_in_an_entry_are_refused(add, tmp_path, shop, mirror, old, new):
    """Ways out of the folder, over its other files, to a branch, to another host, without a size."""
    text = (shop[0] / "tiny" / "entry.toml").read_text()
    (shop[0] / "tiny" / "entry.toml").write_text(text.replace(f'"{old}' if old.startswith("github") else old,
                                                              f'"{new}' if old.startswith("github") else new, 1))
    assert (shop[0] / "tiny" / "entry.toml").read_text() != text
    status, err = add()
    assert (status, mirror.requests) == (1, [])
    assert "entry.toml" in err
    assert not (tmp_path / "models").exists()


def test_an_origin_is_always_below_its_commit():
    """What goes into a URL and a path of a mirror is what was pinned, escaped, in one commit."""
    pinned = PinnedFile.parse(f"github:acme/models@{COMMIT}:a+b/c@d.onnx")
    assert pinned.url("https://mirror.example/x/") == f"https://mirror.example/x/acme/models/{COMMIT}/a%2Bb/c%40d.onnx"


def test_a_catalogue_that_others_may_write_is_not_believed(add, shop):
    """Who writes an entry decides what runs, as who writes the code does."""
    for path in (shop[0], shop[0] / "tiny", shop[0] / "tiny" / "entry.toml", shop[0] / "tiny" / "model" / "model.toml"):
        before = path.stat().st_mode
        path.chmod(before | 0o002)
        status, err = add()
        assert (status, "everybody may write" in err) == (1, True), path
        path.chmod(before)
    assert add()[0] == 0


def test_a_link_in_a_catalogue_is_refused(shop, tmp_path):
    """It would bring a file of this machine into the model's folder."""
    (shop[0] / "tiny" / "model" / "labels.txt").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match=r"labels\.txt: this is no plain file"):
        load_entry(shop[0] / "tiny")


@pytest.mark.parametrize("signal_name", ["SIGSEGV", "SIGABRT"])
def test_a_model_that_crashes_its_runtime_takes_nobody_along(add, monkeypatch, tmp_path, signal_name):
    """The self-test is a child's: its end is told by its signal, and nothing stays."""
    library = tmp_path / "crash"
    library.mkdir()
    text = f"import os, signal\nos.kill(os.getpid(), signal.{signal_name})\n"
    (library / "onnxruntime.py").write_text(text)  # stands for a runtime that a hostile file crashes
    monkeypatch.setenv("PYTHONPATH", str(library))
    status, err = add()
    assert (status, f"it ended the process that tries it with {signal_name}" in err) == (1, True)
    assert left(tmp_path / "models") == []


def test_a_model_that_never_ends_is_given_up(tmp_path):
    """At the deadline of its self-test."""
    make_model(tmp_path / "tiny", "copy", "onnx")
    with pytest.raises(ModelError, match=r"was not done after 0\.01 s"):
        proved(tmp_path / "tiny", time_s=0.01)


def test_a_place_that_is_a_link_is_left_alone(add, tmp_path):
    """Neither the model's own place nor that of the files under way is followed elsewhere; --replace takes the link."""
    root, victim = tmp_path / "models", tmp_path / "victim"
    root.mkdir(mode=0o755)
    victim.mkdir()
    (root / ".parts").symlink_to(victim)
    status, err = add()
    assert (status, "this is a link" in err) == (2, True)
    (root / ".parts").unlink()
    (root / "tiny").symlink_to(victim)
    assert add()[0] == 2
    assert add("--replace")[0] == 0
    assert (left(victim), (root / "tiny").is_symlink()) == ([], False)


def test_a_root_that_others_may_write_is_refused(add, tmp_path):
    """Whoever may write there could swap the model after its test."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models").chmod(0o777)
    status, err = add()
    assert (status, "everybody may write" in err) == (2, True)


def test_a_model_that_fails_its_self_test_is_not_added(capsys, tmp_path, mirror):
    """The bytes are right, the answers are not: this machine is told, nothing stays."""
    catalogue = tmp_path / "wrong"
    mirror.files[PLACE] = make_entry(catalogue, wrong_answer=True)
    root = tmp_path / "models"
    status, _, err = limpet(capsys, "add", "tiny", "--catalogue", catalogue, "--into", root, "--mirror", mirror.url)
    assert (status, "does not give the known answers on this machine" in err) == (1, True)
    assert left(root) == []


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
