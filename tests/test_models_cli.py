"""`limpet models`: list, verify, new."""

import json
import platform
import re
from pathlib import Path

import numpy as np
import pytest

from agent.app.shelf import FACTORY_MODELS
from agent.errors import ModelError
from agent.manifest import load_manifest
from agent.skeleton import skeleton
from tests.console import limpet
from tests.tiny_models import FORMATS, make_model, write_model

SCHEMA = json.loads((Path(__file__).resolve().parent.parent / "docs" / "models.schema.json").read_text())


@pytest.fixture
def shelf(tmp_path):
    """A folder with a good model and a broken one, and a configuration that names it."""
    folder = tmp_path / "models"
    make_model(folder / "good", "copy", "onnx", name="good")
    np.savez(folder / "good" / "g.npz", x=np.ones((1, 4), np.float32))
    np.savez(folder / "good" / "out.npz", y=np.ones((1, 4), np.float32))
    with (folder / "good" / "model.toml").open("a") as file:
        file.write('[[golden]]\ninput = "g.npz"\noutput = "out.npz"\n')
    (folder / "bad").mkdir()
    (folder / "bad" / "model.toml").write_text("schema = 9")
    return folder


def rows(text):
    made = [json.loads(line) for line in text.splitlines()]
    for row in made:
        assert set(SCHEMA["required"]) <= row.keys() <= SCHEMA["properties"].keys()
        for key, value in row.items():
            if pattern := SCHEMA["properties"][key].get("pattern"):
                assert re.search(pattern, value)
    return made


def test_the_configuration_may_be_named_before_the_verb_or_behind_it(capsys, tmp_path):
    """A folder that is named twice, or is the factory's, is listed once."""
    config = tmp_path / "limpet.toml"
    config.write_text(f'schema = 1\n[models]\nfolders = ["{FACTORY_MODELS}", "{FACTORY_MODELS}"]\n'
                      f'[updates]\nfolder = "{tmp_path}/depot"\n')  # fmt: skip
    status, out, _ = limpet(capsys, "--config", config, "list", "--json")
    names = [row["name"] for row in rows(out)]
    assert (status, names) == (0, sorted(set(names)))
    assert limpet(capsys, "list", "--json", "--config", config) == (status, out, "")


def test_list_shows_every_model_and_what_is_wrong(capsys, shelf):
    """Names, versions, digests, runtimes and sizes; a broken one with its reason, and status 1."""
    status, out, _ = limpet(capsys, "list", "--json", "--folder", shelf)
    bad, good = rows(out)
    assert status == 1
    assert "key 'schema'" in bad["state"]
    assert (good["name"], good["version"], good["runtime"], good["state"]) == ("good", "1.0.0", "onnxruntime", "ok")
    assert good["size_bytes"] == (shelf / "good" / "copy.onnx").stat().st_size
    status, out, _ = limpet(capsys, "list", "--folder", shelf)
    head, *_, last = out.splitlines()
    assert head.split() == ["name", "version", "modality", "runtime", "size_bytes", "sha256", "state"]
    assert last.split()[0] == "good"


def test_verify_checks_digest_permissions_loading_and_golden_inputs(capsys, shelf):
    """A model in order gives status 0; each kind of damage gives 1 and says what to do."""
    status, out, _ = limpet(capsys, "verify", shelf / "good", "--json")
    (row,) = rows(out)
    assert (status, row["state"], row["goldens"], row["file"]) == (0, "ok", "1/1", "copy.onnx")
    assert row["used"] == ["CPUExecutionProvider"]

    (shelf / "good" / "copy.onnx").chmod(0o666)
    status, out, _ = limpet(capsys, "verify", "good", "--folder", shelf)
    assert status == 1
    assert "chmod o-w" in out
    (shelf / "good" / "copy.onnx").chmod(0o644)

    np.savez(shelf / "good" / "out.npz", y=np.zeros((1, 4), np.float32))
    status, out, _ = limpet(capsys, "verify", "good", "--folder", shelf, "--json")
    (row,) = rows(out)
    assert (status, row["goldens"]) == (1, "0/1")
    assert "output 'y' is 1 from out.npz, at most 0.001 allowed" in row["state"]

    with (shelf / "good" / "copy.onnx").open("ab") as file:
        file.write(b"x")
    status, out, _ = limpet(capsys, "verify", "good", "--folder", shelf, "--json")
    assert status == 1
    assert "its sha256 is" in rows(out)[0]["state"]


def test_verify_without_names_takes_all_and_an_unknown_name_fails(capsys, shelf):
    """Nothing is passed over silently."""
    status, out, _ = limpet(capsys, "verify", "--folder", shelf, "--json")
    assert status == 1
    assert [row["state"] == "ok" for row in rows(out)] == [False, True]
    status, out, _ = limpet(capsys, "verify", "nosuch", "--folder", shelf, "--json")
    assert status == 1
    assert "there are bad, good" in rows(out)[0]["state"]


def test_an_artifact_for_another_machine_is_hashed_but_not_loaded(capsys, shelf):
    """A fleet's other files are verified as far as they can be here."""
    text = (shelf / "good" / "model.toml").read_text()
    sha256 = re.search(r'sha256 = "(\w+)"', text)[1]
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
    (shelf / "good" / "model.toml").write_text(
        text + f'[[artifact]]\nfile = "copy.onnx"\nsha256 = "{sha256}"\nformat = "onnx"\narch = "{other}"\n'
    )
    status, out, _ = limpet(capsys, "verify", "good", "--folder", shelf, "--json")
    assert status == 0
    assert [row["runtime"].split()[0] for row in rows(out)] == ["onnxruntime", "not"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["add", "total"])
def test_new_writes_what_the_file_knows(tmp_path, capsys, form, kind):
    """Ports, dtypes, shapes, digest, and scales where the format has them: the result loads as it is."""
    path = write_model(tmp_path, kind, form)
    status, out, _ = limpet(capsys, "new", path)
    assert status == 0
    (tmp_path / "model.toml").write_text(out)
    manifest = load_manifest(tmp_path)
    assert manifest.name == kind
    assert [port.name for port in manifest.inputs] == (["x"] if kind == "add" else ["x", "h"])
    assert manifest.inputs[0].shape == (1, 4)
    if (kind, form) == ("add", "tflite"):
        assert (manifest.inputs[0].scale, manifest.inputs[0].zero_point) == (0.5, -3)
    if kind == "total":
        assert '[[state]]\ninput = "h"\noutput = "hn"' in out
    assert limpet(capsys, "verify", tmp_path)[0] == 0


@pytest.mark.parametrize("form", FORMATS)
def test_new_recognises_a_picture(tmp_path, form):
    """Layout, size and the steps of a picture are suggested; they load."""
    shape = (1, 3, 32, 48) if form == "onnx" else (1, 32, 48, 3)
    path = write_model(tmp_path, "copy", form, shape=shape)
    text = skeleton(path)
    (tmp_path / "model.toml").write_text(text)
    manifest = load_manifest(tmp_path)
    assert manifest.modality == "image"
    assert manifest.inputs[0].layout == ("NCHW" if form == "onnx" else "NHWC")
    assert manifest.pre[0] == {"step": "resize", "width_px": 48, "height_px": 32, "interpolation": "area"}


def test_new_asks_for_open_dimensions(tmp_path):
    """The batch is pinned to 1; any other open dimension is left for the publisher, in words."""
    path = write_model(tmp_path, "copy", "onnx", shape=(1, 4), open_batch=True)
    assert "shape = [1, 4]\n" in skeleton(path)
    import onnx

    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "samples"
    onnx.save(model, path)
    text = skeleton(path)
    assert "shape = [1, -1]  # ??? dimension 1 is open: write the size to run with" in text
    (tmp_path / "model.toml").write_text(text)
    with pytest.raises(ModelError, match="dimension 1 of shape is left open by -1: write the size"):
        load_manifest(tmp_path)


def test_new_never_overwrites(tmp_path, capsys):
    """--write makes model.toml beside the file once."""
    path = write_model(tmp_path, "copy", "onnx")
    assert limpet(capsys, "new", path, "--write")[0] == 0
    before = (tmp_path / "model.toml").read_text()
    (tmp_path / "model.toml").write_text(before + "# mine\n")
    status, _, err = limpet(capsys, "new", path, "--write")
    assert (status, (tmp_path / "model.toml").read_text()) == (1, before + "# mine\n")
    assert "is there already" in err


def test_new_refuses_what_is_no_model(tmp_path, capsys):
    """A wrong suffix, a missing file, garbage: status 1 and the reason."""
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "b.onnx").write_bytes(b"x")
    reasons = {"a.bin": "must be a .tflite, .onnx or .ort", "b.onnx": "refuses the model", "c.onnx": "no such"}
    for name, words in reasons.items():
        status, _, err = limpet(capsys, "new", tmp_path / name)
        assert status == 1
        assert words in err
