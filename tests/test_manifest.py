"""model.toml, schema 1: what is read, and what is refused with which words."""

import re
from pathlib import Path

import pytest

from agent.errors import ModelError
from agent.manifest import Input, Port, load_manifest, stays_inside

DOC = Path(__file__).resolve().parent.parent / "docs" / "models.md"
TEXT = f"""
schema = 1
name = "demo"
version = "1.2.3"
modality = "image"
labels = ["no", "yes"]
[[input]]
name = "image"
shape = [1, 8, 8, 3]
dtype = "int8"
scale = 0.0039
zero_point = -128
layout = "NHWC"
rounding = "trunc"
[[input]]
name = "rate"
shape = []
dtype = "int64"
value = 16000
[[input]]
name = "h"
shape = [1, 4]
dtype = "float32"
[[output]]
name = "scores"
shape = [1, 2]
dtype = "int8"
scale = 0.004
[[output]]
name = "hn"
shape = [1, 4]
dtype = "float32"
[[state]]
input = "h"
output = "hn"
[[pre]]
step = "normalise"
divide_by = 255.0
[[artifact]]
file = "demo.tflite"
sha256 = "{"a" * 64}"
format = "tflite"
[[artifact]]
file = "demo.onnx"
sha256 = "{"b" * 64}"
format = "onnx"
arch = "aarch64"
[artifact.ports.image]
tensor = "serving_default:0"
shape = [1, 3, 8, 8]
dtype = "float32"
layout = "NCHW"
[accuracy]
top1 = 0.9
"""


def write(folder, text=TEXT):
    (folder / "model.toml").write_text(text)
    return load_manifest(folder)


def test_a_manifest_is_read_whole(tmp_path):
    """Every table arrives, and the fed inputs are those without constant and state."""
    manifest = write(tmp_path)
    assert str(manifest) == "demo 1.2.3"
    assert [port.name for port in manifest.feeds] == ["image"]
    assert manifest.inputs[0] == Input("image", (1, 8, 8, 3), "int8", 0.0039, -128, "", "NHWC", "trunc")
    assert manifest.inputs[1].value == 16000
    assert manifest.outputs[0] == Port("scores", (1, 2), "int8", 0.004)
    assert (manifest.states[0].input, manifest.states[0].output) == ("h", "hn")
    assert manifest.pre == ({"step": "normalise", "divide_by": 255.0},)
    assert manifest.accuracy == {"top1": 0.9}
    assert manifest.labels == ("no", "yes")


def test_an_artifact_changes_ports_for_itself_only(tmp_path):
    """Name, shape, dtype and layout of one file; a new dtype drops the scale; the manifest's ports stay."""
    manifest = write(tmp_path)
    lite, onnx = manifest.artifacts
    assert manifest.inputs_of(lite) == manifest.inputs
    image = manifest.inputs_of(onnx)[0]
    assert (image.graph_name, image.shape, image.dtype, image.layout) == (
        "serving_default:0", (1, 3, 8, 8), "float32", "NCHW",
    )  # fmt: skip
    assert (image.name, image.scale, image.zero_point) == ("image", 0.0, 0)
    assert (lite.runs_on, onnx.runs_on) == ("litert", "onnxruntime")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema = 1", "schema = 2", "key 'schema': 2 is not allowed"),
        ('name = "demo"', 'name = "De mo"', "key 'name'"),
        ('version = "1.2.3"', 'version = "one"', 'a version like "1.0.0"'),
        ("[accuracy]", "[acuracy]", "unknown key 'acuracy': did you mean 'accuracy'"),
        ("shape = [1, 8, 8, 3]", "shape = [-1, 8, 8, 3]", "dimension 0 of shape is left open by -1: write the size"),
        ("shape = [1, 8, 8, 3]", 'shape = [1, "h", 8, 3]', "dimension 1 of shape is left open by 'h'"),
        ("shape = [1, 8, 8, 3]", "shape = [1, 16777216, 256, 3]", "at most 268435456 are allowed"),
        ("shape = [1, 8, 8, 3]", "shape = [8, 8, 3]", "layout NHWC needs four dimensions"),
        ('dtype = "int8"\nscale = 0.0039', 'dtype = "float32"\nscale = 0.0039', "has no meaning for float32"),
        ("zero_point = -128", "zero_point = -129", "zero_point -129 does not fit int8"),
        ("scale = 0.0039\n", "", "zero_point -128 without a scale"),
        ('name = "rate"', 'name = "image"', "'image' is there twice"),
        ('output = "hn"', 'output = "gone"', "there is no such output"),
        ('name = "hn"\nshape = [1, 4]', 'name = "hn"\nshape = [1, 5]', "of the two ports differ"),
        ('step = "normalise"', 'step = "normalise"\ninput = "h"', "input 'h' is no fed input: it must be one of image"),
        ('file = "demo.tflite"', 'file = "../demo.tflite"', "leaves the folder of the model"),
        ('file = "demo.tflite"', 'file = "/etc/demo.tflite"', "leaves the folder of the model"),
        ('format = "tflite"', 'format = "tflite"\nruntime = "onnxruntime"', "onnxruntime does not run tflite"),
        ("[artifact.ports.image]", "[artifact.ports.imago]", "ports names 'imago', which is no port"),
        ("[accuracy]", '[requires]\nagent = ">=99"\n[accuracy]', "it requires agent 99 or newer"),
        ("modality", 'labels_file = "labels.txt"\nmodality', "both given: keep one"),
        ('sha256 = "' + "a" * 64, 'sha256 = "' + "A" * 64, "64 lower-case hex digits"),
        ("[accuracy]", '[[golden]]\ninput = "../g.png"\n[accuracy]', r"golden\]\] input '../g.png' leaves the folder"),
    ],
)
def test_what_is_wrong_is_refused_in_words(tmp_path, old, new, words):
    """Each mistake is a ModelError that names the file and says what to write."""
    assert old in TEXT
    with pytest.raises(ModelError, match=words) as caught:
        write(tmp_path, TEXT.replace(old, new, 1))
    assert "model.toml" in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path):
    """A publisher need not mend one line at a time."""
    text = TEXT.replace("zero_point = -128", "zero_point = -999").replace('output = "hn"', 'output = "gone"')
    with pytest.raises(ModelError) as caught:
        write(tmp_path, text)
    assert "does not fit int8" in str(caught.value)
    assert "there is no such output" in str(caught.value)


def test_labels_come_from_a_file(tmp_path):
    """One label per line; the digest covers them."""
    text = TEXT.replace('labels = ["no", "yes"]', 'labels_file = "labels.txt"')
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    before = write(tmp_path, text)
    assert before.labels == ("no", "yes")
    (tmp_path / "labels.txt").write_text("\ufeffno\nyes\n")
    assert load_manifest(tmp_path).labels == ("no", "yes"), "a mark of the byte order is no letter"
    (tmp_path / "labels.txt").write_text("no\nmaybe\n")
    assert load_manifest(tmp_path).digest != before.digest


def test_what_cannot_be_read_is_refused(tmp_path):
    """Missing, oversize, not TOML, not UTF-8: each says which."""
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        load_manifest(tmp_path)
    with pytest.raises(ModelError, match="larger than 262144 bytes"):
        write(tmp_path, TEXT + "#" * 262144)
    with pytest.raises(ModelError, match="not TOML"):
        write(tmp_path, "= what")
    (tmp_path / "model.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="not TOML in UTF-8"):
        load_manifest(tmp_path)
    text = TEXT.replace('labels = ["no", "yes"]', 'labels_file = "labels.txt"')
    (tmp_path / "labels.txt").write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(ModelError, match="labels file is larger"):
        write(tmp_path, text)


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../../b", "a\\b", "a\0b", ".."])
def test_names_that_could_leave_the_folder_are_told_apart(name):
    """Traversal in any spelling."""
    assert not stays_inside(name)
    assert stays_inside("golden/a.png")


def test_the_example_of_the_documentation_is_a_manifest(tmp_path):
    """docs/models.md shows what the code reads."""
    (example,) = re.findall(r"```toml\n(schema = 1.*?)```", DOC.read_text(), re.DOTALL)
    assert write(tmp_path, example).name == "person"


def test_every_key_is_documented():
    """docs/models.md names every key of every table."""
    import dataclasses

    from agent.manifest import Artifact, Golden, PortChange, Requires, StatePair
    from agent.manifest.tables import Table

    text = DOC.read_text()
    for cls in (Table, Input, Artifact, Golden, PortChange, Requires, StatePair):
        for field in dataclasses.fields(cls):
            assert re.search(rf"\b{field.name}\b", text), f"{cls.__name__}.{field.name}"
