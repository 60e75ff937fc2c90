"""`limpet models add` and `catalogue`: a public model fetched, proved on this machine, and ready for a pipeline."""

import json
import os
import re
import stat
import sys

import pytest

from agent.catalogue import proved
from agent.cli import main
from agent.registry import installed
from tests import shops
from tests.console import limpet
from tests.shops import COMMIT, PLACE, edit, left, make_entry
from tests.tiny_models import make_model

shop, mirror = pytest.fixture(shops.shop), pytest.fixture(shops.mirror)


@pytest.fixture
def config(tmp_path):
    """A configuration with a source, a folder for pipelines and one for added models."""
    (tmp_path / "pipelines").mkdir()
    path = tmp_path / "limpet.toml"
    path.write_text(
        f'schema = 1\n[models]\nfolders = []\nadded = "{tmp_path}/added"\n[updates]\nfolder = "{tmp_path}/depot"\n'
        f'[sources.machine]\nkind = "load"\n'
    )
    return path


def test_add_fetches_proves_and_shows_how_to_use_it(capsys, tmp_path, shop, mirror):
    """What it is, whose it is, where it comes from; then a model that works, and the pipeline for it."""
    root = tmp_path / "models"
    status, out, _ = limpet(capsys, "add", "tiny", "--catalogue", shop[0], "--into", root, "--mirror", mirror.url)
    assert status == 0
    for said in ("MIT", "Acme and others", f"github:acme/models@{COMMIT}:deep/copy.onnx", str(root / "tiny")):
        assert said in out
    assert "1 of 1 golden inputs as expected (onnxruntime" in out
    assert f'name = "{root}/tiny"' in out, "the pipeline does not say where the agent would not look"
    assert f"\ntry it: limpet models try {root}/tiny array.npy\n" in out
    assert left(root) == [
        "tiny", "tiny/copy.onnx", "tiny/entry.toml", "tiny/golden", "tiny/golden/in.npz", "tiny/golden/out.npz",
        "tiny/model.toml",
    ]  # fmt: skip
    assert limpet(capsys, "verify", root / "tiny")[0] == 0


def test_files_are_readable_by_the_agent_whatever_the_umask(capsys, monkeypatch, tmp_path, shop, mirror):
    """0644 and 0755, of the user who added, while it is tried as well: the agent reads and nobody else writes."""
    root, before, tried = tmp_path / "models", os.umask(0o077), []

    def looking(made, **how):
        tried.extend(stat.S_IMODE(path.stat().st_mode) for path in (made, *made.parents[:3]))
        return proved(made, **how)

    monkeypatch.setattr("agent.cli.modelsadd.proved", looking)
    try:
        limpet(capsys, "add", "tiny", "--catalogue", shop[0], "--into", root, "--mirror", mirror.url)
    finally:
        os.umask(before)
    assert tried == [0o755] * 4
    for path in (root / "tiny").rglob("*"):
        status = path.lstat()
        assert stat.S_IMODE(status.st_mode) == (0o755 if path.is_dir() else 0o644), path
        assert status.st_uid == os.geteuid()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (root, root / "tiny")] == [0o755, 0o755]


def test_a_second_add_fetches_nothing_and_says_so(capsys, tmp_path, shop, mirror):
    """Byte for byte what the catalogue has: nothing is asked for, nothing changes."""
    words = ("add", "tiny", "--catalogue", shop[0], "--into", tmp_path / "models", "--mirror", mirror.url)
    limpet(capsys, *words)
    asked = len(mirror.requests)
    status, out, _ = limpet(capsys, *words)
    assert (status, len(mirror.requests)) == (0, asked)
    assert "is there already" in out


def test_what_lies_there_is_replaced_only_on_request(capsys, tmp_path, shop, mirror):
    """A damaged model is not overwritten unasked; --replace puts a whole one in its place."""
    root = tmp_path / "models"
    words = ("add", "tiny", "--catalogue", shop[0], "--into", root, "--mirror", mirror.url)
    limpet(capsys, *words)
    (root / "tiny" / "copy.onnx").write_bytes(b"other")
    status, _, err = limpet(capsys, *words)
    assert (status, (root / "tiny" / "copy.onnx").read_bytes()) == (2, b"other")
    assert "--replace" in err
    assert limpet(capsys, *words, "--replace")[0] == 0
    assert (root / "tiny" / "copy.onnx").read_bytes() == shop[1]
    assert left(root)[0] == "tiny", "nothing of the old one stays"


@pytest.mark.parametrize("name", [PLACE, "copy.onnx"])
def test_a_stick_will_do(capsys, tmp_path, shop, name):
    """A folder in the origins' own order, or with what a browser saved."""
    stick = tmp_path / "stick"
    (stick / name).parent.mkdir(parents=True)
    (stick / name).write_bytes(shop[1])
    words = ("add", "tiny", "--catalogue", shop[0], "--into", tmp_path / "models", "--mirror", stick)
    assert limpet(capsys, *words)[0] == 0


def test_without_a_network_it_says_what_to_carry(capsys, tmp_path, shop):
    """The URL at the origin, and the command for the stick; the same where the stick lacks the file."""
    root, stick = tmp_path / "models", tmp_path / "stick"
    stick.mkdir()
    for mirror in ("https://127.0.0.1:9", stick):
        words = ("add", "tiny", "--catalogue", shop[0], "--into", root, "--mirror", mirror)
        status, _, err = limpet(capsys, *words)
        assert status == 1
        assert f"/acme/models/{COMMIT}/deep/copy.onnx" in err
        assert f"limpet models add tiny --catalogue {shop[0]} --into {root} --mirror FOLDER" in err
    assert not list(installed([root]))


def test_what_to_run_next_names_the_configuration_that_was_named(capsys, tmp_path, shop, config):
    """The command for the stick is the one that was typed, or the model would land elsewhere."""
    (tmp_path / "empty stick").mkdir()
    spaced = config.rename(tmp_path / "my limpet.toml")
    words = ("add", "tiny", "--catalogue", shop[0], "--config", spaced, "--mirror", tmp_path / "empty stick")
    status, _, err = limpet(capsys, *words)
    command = f"limpet models add tiny --config '{spaced}' --catalogue {shop[0]} --mirror FOLDER"
    assert (status, command in err) == (1, True)


def test_a_licence_that_limits_must_be_accepted_by_name(capsys, tmp_path, mirror):
    """Nothing is fetched before; the name of another licence accepts nothing."""
    catalogue = tmp_path / "mine"
    mirror.files[PLACE] = make_entry(catalogue, licence="CC-BY-NC-4.0")
    words = ("add", "tiny", "--catalogue", catalogue, "--into", tmp_path / "models", "--mirror", mirror.url)
    for more in ((), ("--accept-licence", "MIT")):
        status, _, err = limpet(capsys, *words, *more)
        assert (status, mirror.requests) == (2, [])
        assert "--accept-licence CC-BY-NC-4.0" in err
    assert limpet(capsys, *words, "--accept-licence", "CC-BY-NC-4.0")[0] == 0


def test_a_licence_may_be_accepted_by_typing_its_name(capsys, monkeypatch, tmp_path, mirror):
    """On a terminal it is asked for; anything but the name is a no. Progress is shown there too."""
    catalogue = tmp_path / "mine"
    mirror.files[PLACE] = make_entry(catalogue, licence="CC-BY-NC-4.0")
    words = ("add", "tiny", "--catalogue", catalogue, "--into", tmp_path / "models", "--mirror", mirror.url)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    for typed, status in (("yes", 2), (" CC-BY-NC-4.0 ", 0)):
        monkeypatch.setattr("builtins.input", lambda _asked, typed=typed: typed)
        got, _, err = limpet(capsys, *words)
        assert got == status
    assert "\rcopy.onnx" in err.replace("\033[K", "")


def test_another_model_of_the_name_that_comes_first_is_told(capsys, tmp_path, shop, mirror, config):
    """The configured folders are looked into before the added models."""
    make_model(tmp_path / "own" / "tiny", "copy", "onnx")
    edit(config, "folders = []", f'folders = ["{tmp_path}/own"]')
    out = limpet(capsys, "add", "tiny", "--config", config, "--catalogue", shop[0], "--mirror", mirror.url)[1]
    assert f"careful: a pipeline that names tiny gets the one in {tmp_path}/own" in out
    assert f"try it: limpet models try --config {config} {tmp_path}/added/tiny " in out


def test_the_pipeline_it_writes_is_accepted_by_check(capsys, tmp_path, shop, mirror, config):
    """One command, and the agent's next start uses the model by its name."""
    words = ("add", "tiny", "--config", config, "--catalogue", shop[0], "--mirror", mirror.url)
    status, out, _ = limpet(capsys, *words, "--pipeline", "machine")
    assert (status, f"now: limpet check --config {config}, then" in out) == (0, True)
    assert '[model]\nname = "tiny"\n' in (tmp_path / "pipelines" / "tiny.toml").read_text()
    main(["check", "--config", str(config)])
    assert "ok      pipeline tiny with tiny 1.0.0" in capsys.readouterr().out
    asked = len(mirror.requests)
    status, _, err = limpet(capsys, *words, "--pipeline", "machine")
    assert (status, len(mirror.requests)) == (2, asked)
    assert "is there already" in err


def test_a_file_that_the_agent_would_not_load_is_not_fetched(capsys, tmp_path, shop, mirror, config):
    """The limit is the agent's own."""
    edit(shop[0] / "tiny" / "entry.toml", "size_bytes = ", "size_bytes = 600_000_000  # ")
    status, _, err = limpet(capsys, "add", "tiny", "--config", config, "--catalogue", shop[0], "--mirror", mirror.url)
    assert (status, mirror.requests) == (2, [])
    assert "raise [models] artifact_limit_mb" in err


@pytest.mark.parametrize("source", ['x"\n[model]', "../x", ""])
def test_a_source_that_is_no_name_gets_no_pipeline(capsys, tmp_path, shop, mirror, config, source):
    """What is written into a file is checked before; without a source nothing is written."""
    words = ("add", "tiny", "--config", config, "--catalogue", shop[0], "--mirror", mirror.url)
    assert limpet(capsys, *words, "--pipeline", source)[0] == (2 if source else 0)
    assert left(tmp_path / "pipelines") == []


def test_the_catalogue_is_listed_with_what_one_must_know(capsys, tmp_path, shop, mirror, config):
    """Name, task, size, licence, runtime, latency class, and whether it is there."""
    words = ("catalogue", "--catalogue", shop[0], "--config", config)
    status, out, _ = limpet(capsys, *words, "--json")
    (row,) = map(json.loads, out.splitlines())
    assert (status, row["name"], row["task"], row["licence"], row["runtime"]) == (
        0, "tiny", "copying", "MIT", "onnxruntime",
    )  # fmt: skip
    assert (row["size_bytes"], row["latency_class"], row["there"]) == (len(shop[1]), "< 0.3 ms", "")
    limpet(capsys, "add", "tiny", "--config", config, "--catalogue", shop[0], "--mirror", mirror.url)
    assert limpet(capsys, *words)[1].splitlines()[1].split()[-1] == "yes"


def test_an_unknown_name_is_answered_with_those_there_are(capsys, tmp_path, shop):
    """And a folder that is no catalogue with what to say instead."""
    status, _, err = limpet(capsys, "add", "tinny", "--catalogue", shop[0])
    assert (status, "there is tiny" in err) == (2, True)
    status, _, err = limpet(capsys, "add", "tiny", "--catalogue", tmp_path / "nothing")
    assert (status, "--catalogue" in err) == (2, True)


CONTRADICTIONS = {
    "another sha256": ("entry.toml", 'sha256 = "', f'sha256 = "{"0" * 64}"\n#', "no [[file]] has path 'copy.onnx'"),
    "another licence": ("entry.toml", 'id = "MIT"', 'id = "ISC"', "model.toml says 'MIT'"),
    "another name": ("model/model.toml", 'name = "tiny"', 'name = "tony"', "the model is called tony"),
    "no golden": ("model/model.toml", "[[golden]]", "[accuracy]", "has no [[golden]] input"),
    "a golden that is not there": ("model/model.toml", "golden/in.npz", "golden/on.npz", "names 'golden/on.npz'"),
    "an unknown key": ("entry.toml", "latency_ms", "lateness_ms", "unknown key 'lateness_ms'"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_an_entry_that_contradicts_itself_is_refused(capsys, shop, case):
    """Each message names the file and what is wrong with it."""
    file, old, new, said = CONTRADICTIONS[case]
    edit(shop[0] / "tiny" / file, old, new)
    status, _, err = limpet(capsys, "add", "tiny", "--catalogue", shop[0])
    assert status == 1
    assert re.search(re.escape(said), err), err
