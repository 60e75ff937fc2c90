"""Who serves a public model, or sits on the way, or shares the machine, gets nothing but an error in words."""

import pytest

from agent.catalogue import PinnedFile, load_entry, proved
from agent.errors import ModelError
from agent.registry import installed
from tests import shops
from tests.console import limpet
from tests.fault_server import Fault, FaultServer
from tests.shops import COMMIT, PLACE, left, make_entry
from tests.test_fetch import certificate
from tests.tiny_models import make_model

shop, mirror, add = pytest.fixture(shops.shop), pytest.fixture(shops.mirror), pytest.fixture(shops.add)


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
