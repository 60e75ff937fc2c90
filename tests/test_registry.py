"""Which models are found, and which files are trusted."""

import hashlib
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.errors import ModelError
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.registry import candidates, find, installed, verified
from tests.tiny_models import artifact_text, make_model, write_model


def test_a_model_is_found_by_name_in_the_first_folder_that_has_it(tmp_path):
    """Folders are searched in order; a path names a folder itself."""
    for root, name in (("one", "other"), ("two", "tiny"), ("three", "tiny")):
        make_model(tmp_path / root / name, "copy", "onnx", name=name)
    roots = [tmp_path / "absent", tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    assert find("tiny", roots).folder == tmp_path / "two" / "tiny"
    assert find(str(tmp_path / "three" / "tiny"), roots).folder == tmp_path / "three" / "tiny"
    assert find(tmp_path / "three" / "tiny" / "model.toml", roots).folder == tmp_path / "three" / "tiny"
    with pytest.raises(ModelError, match=r"'nosuch' is in none of .*: there are other, tiny"):
        find("nosuch", roots)


def test_the_newest_version_counts_unless_one_is_named(tmp_path):
    """A root may hold a folder per version; 1.10.0 is newer than 1.9.0 and than its own pre-release."""
    for version in ("1.9.0", "1.10.0", "1.10.0-rc1"):
        folder = tmp_path / "tiny" / f"{version}-abc"
        make_model(folder, "copy", "onnx")
        text = (folder / "model.toml").read_text().replace('"1.0.0"', f'"{version}"')
        (folder / "model.toml").write_text(text)
    assert find("tiny", [tmp_path]).version == "1.10.0"
    assert find("tiny", [tmp_path], "1.9.0").version == "1.9.0"
    with pytest.raises(ModelError, match=r"'tiny' 2\.0\.0 is in none"):
        find("tiny", [tmp_path], "2.0.0")


def test_broken_models_are_listed_with_their_reason(tmp_path):
    """One bad manifest does not hide the good ones."""
    make_model(tmp_path / "good", "copy", "onnx", name="good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.toml").write_text("schema = 7")
    bad, good = installed([tmp_path])
    assert bad.manifest is None
    assert "key 'schema'" in bad.error
    assert good.manifest.name == "good"


def test_the_artifact_that_fits_the_machine_is_chosen(tmp_path):
    """By architecture, by what it requires, then by the runtime that the configuration prefers."""
    make_model(tmp_path, "copy", "onnx")
    lite = write_model(tmp_path, "copy", "tflite")
    with (tmp_path / "model.toml").open("a") as file:
        file.write(artifact_text(lite) + 'arch = "aarch64"\n')
        file.write(artifact_text(lite) + 'requires = ["libgpu.so"]\n')
    manifest = load_manifest(tmp_path)
    names = lambda **how: [a.file for a in candidates(manifest, **how)]  # noqa: E731
    assert names(arch="x86_64") == ["copy.onnx"]
    assert names(arch="arm64") == ["copy.onnx", "copy.tflite"]
    assert names(arch="aarch64", prefer=("litert",)) == ["copy.tflite", "copy.onnx"]
    assert names(arch="x86_64", present=["libgpu.so"]) == ["copy.onnx", "copy.tflite"]


def test_no_fitting_artifact_says_why_for_each(tmp_path):
    """The publisher learns what to publish."""
    make_model(tmp_path, "copy", "onnx")
    with (tmp_path / "model.toml").open("a") as file:
        file.write('arch = "aarch64"\n')
    with pytest.raises(ModelError, match=r"copy.onnx is for aarch64, this machine is x86_64"):
        candidates(load_manifest(tmp_path), arch="x86_64")


def refused(folder, words, **how):
    with pytest.raises(ModelError, match=words):
        open_model(load_manifest(folder), **how)


@pytest.mark.parametrize("model_format", ["onnx", "tflite"])
def test_a_file_of_another_digest_is_not_loaded(tmp_path, model_format):
    """One flipped bit is enough."""
    make_model(tmp_path, "copy", model_format)
    path = tmp_path / f"copy.{model_format}"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(tmp_path, "its sha256 is [0-9a-f]{64}, the manifest says")


@pytest.mark.parametrize(
    ("what", "mode", "words"),
    [
        ("copy.onnx", 0o666, "copy.onnx: everybody may write to it.*chmod o-w"),
        (".", 0o757, "everybody may write to it"),
        ("model.toml", 0o646, "model.toml: everybody may write to it"),
        ("labels.txt", 0o646, "labels.txt: everybody may write to it"),
        ("sub", 0o777, "sub: everybody may write to it"),
    ],
)
def test_what_others_may_write_to_is_not_trusted(tmp_path, what, mode, words):
    """File, folder and the folders between are checked, and the message says what to do."""
    (tmp_path / "labels.txt").write_text("a")
    make_model(tmp_path, "copy", "onnx", extra='labels_file = "labels.txt"')
    if what == "sub":
        (tmp_path / "sub").mkdir()
        (tmp_path / "copy.onnx").rename(tmp_path / "sub" / "copy.onnx")
        text = (tmp_path / "model.toml").read_text().replace("copy.onnx", "sub/copy.onnx")
        (tmp_path / "model.toml").write_text(text)
    (tmp_path / what).chmod(mode)
    refused(tmp_path, words)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_not_trusted(tmp_path):
    """A foreign owner could change the file; a foreign group that may write could as well."""
    make_model(tmp_path, "copy", "onnx")
    os.chown(tmp_path / "copy.onnx", 54321, -1)
    refused(tmp_path, "belongs to user id 54321")
    os.chown(tmp_path / "copy.onnx", 0, 54321)
    (tmp_path / "copy.onnx").chmod(0o664)
    refused(tmp_path, "its group may write to it.*chmod g-w")
    (tmp_path / "copy.onnx").chmod(0o644)
    open_model(load_manifest(tmp_path)).close()


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    """Also one in the middle of the path; a link inside the folder is fine."""
    make_model(tmp_path / "m", "copy", "onnx")
    (tmp_path / "m" / "copy.onnx").rename(tmp_path / "outside.onnx")
    (tmp_path / "m" / "copy.onnx").symlink_to(tmp_path / "outside.onnx")
    refused(tmp_path / "m", "leads out of")
    (tmp_path / "m" / "copy.onnx").unlink()
    (tmp_path / "outside.onnx").rename(tmp_path / "m" / "real.onnx")
    (tmp_path / "m" / "copy.onnx").symlink_to("real.onnx")
    open_model(load_manifest(tmp_path / "m")).close()


def test_missing_oversize_and_odd_files_are_refused(tmp_path):
    """No file, too large a file, a directory, a pipe that would block for ever."""
    make_model(tmp_path, "copy", "onnx")
    refused(tmp_path, "at most 10 are allowed", limit_bytes=10)
    (tmp_path / "copy.onnx").unlink()
    refused(tmp_path, "cannot be read: No such file")
    (tmp_path / "copy.onnx").mkdir()
    refused(tmp_path, "no plain file")
    (tmp_path / "copy.onnx").rmdir()
    os.mkfifo(tmp_path / "copy.onnx")
    refused(tmp_path, "no plain file")


def test_a_file_swapped_after_the_check_is_not_what_is_loaded(tmp_path):
    """What is opened is what was hashed, although the name now belongs to another file."""
    manifest = make_model(tmp_path, "copy", "onnx")
    good = (tmp_path / "copy.onnx").read_bytes()
    with verified(manifest, manifest.artifacts[0]) as path:
        (tmp_path / "evil").write_bytes(b"evil")
        (tmp_path / "evil").rename(tmp_path / "copy.onnx")
        assert path.read_bytes() == good


def test_weights_outside_the_hashed_file_are_refused(tmp_path):
    """An ONNX file whose weights lie in a second file cannot be vouched for by one digest."""
    manifest = make_model(tmp_path, "copy", "onnx")
    weights = numpy_helper.from_array(np.ones((1, 4096), np.float32), "w")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4096]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "split", ports[:1], ports[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "copy.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="split.data", size_threshold=0)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    text = (tmp_path / "model.toml").read_text().replace(manifest.artifacts[0].sha256, sha256)
    (tmp_path / "model.toml").write_text(text.replace("[1, 4]", "[1, 4096]"))
    assert (tmp_path / "split.data").stat().st_size == 16384
    refused(tmp_path, "External data")


def test_artifacts_may_lie_elsewhere(tmp_path):
    """With a root of their own they are checked just the same."""
    make_model(tmp_path / "files", "copy", "onnx")
    (tmp_path / "text").mkdir()
    (tmp_path / "files" / "model.toml").rename(tmp_path / "text" / "model.toml")
    open_model(load_manifest(tmp_path / "text"), artifact_root=tmp_path / "files").close()
    (tmp_path / "files" / "copy.onnx").chmod(0o646)
    refused(tmp_path / "text", "everybody may write", artifact_root=tmp_path / "files")
