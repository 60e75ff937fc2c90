"""Real models, good and bad, and a depot that holds them.

Each takes four numbers and says which is the largest, a to d. good: y = x. other: y = 0.9 - x. nan: not a number where
an input is above 0.9. raises: an index out of bounds there. slow: y = x after much work. damaged: no model at all.
"""

import dataclasses
import hashlib
import shutil

import numpy as np
import onnx
from onnx import TensorProto, helper

from agent.depot import Pick, Writer, put
from agent.package import FileEntry, PackageManifest
from agent.records import Sample
from tests.tiny_models import artifact_text

LABELS = ("a", "b", "c", "d")
MODEL = """schema = 1
name = "{name}"
version = "{version}"
modality = "tensor"
labels = ["a", "b", "c", "d"]
[decoder]
step = "classify"
top_k = 1
{more}
[[input]]
name = "x"
shape = [1, 4]
dtype = "float32"
[[output]]
name = "y"
shape = [1, 4]
dtype = "float32"
"""
PIPELINE = """schema = 1
name = "{name}"
source = "s"
[model]
name = "letters"
{more}
[[rule]]
kind = "appears"
n = 2
m = 2
"""


def write_candidate(folder, kind, version="1.0.0", name="letters", more=""):
    """Write model.toml and the model file into `folder`. `more`: lines behind the decoder, such as a [budget]."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "letters.onnx"
    path.write_bytes(b"this is no model" if kind == "damaged" else _graph(kind))
    (folder / "model.toml").write_text(MODEL.format(name=name, version=version, more=more) + artifact_text(path))
    for one in (folder, path, folder / "model.toml"):
        one.chmod(0o755 if one == folder else 0o644)
    return folder


def publish(depot, folder, version, name="letters"):
    """Put the model of `folder` into the depot, as the updater does; returns its pick."""
    entries = tuple(_entry(path, folder) for path in sorted(folder.rglob("*")) if path.is_file())
    package = PackageManifest("model", name, version, entries).encode()
    pick = Pick(version, hashlib.sha256(package).hexdigest())
    staged = depot / "parts" / f"staged-{version}"
    staged.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, staged)
    put(depot, name, pick, package, entries, staged)
    return pick


def offer(depot, tmp_path, kind, version, *, mode="live", name="letters", tries=3, more=""):
    """Publish a candidate and put it on probation; returns its pick."""
    pick = publish(depot, write_candidate(tmp_path / f"made-{version}", kind, version, name, more), version, name)
    change(depot, lambda state: state.begin_trial(name, pick, tries=tries, mode=mode, job=f"job-{version}", now_s=1.0))
    return pick


def change(depot, how):
    """Change the record as the updater does."""
    with Writer(depot) as writer:
        return writer.save(how(writer.state))


def sample(i, largest, high=0.8, **more):
    """A sample in which the input number `largest` stands out."""
    data = np.full((1, 4), 0.1, np.float32)
    data[0, largest] = high
    data.flags.writeable = False
    given = {"clock": "synced", **more}
    return dataclasses.replace(Sample("s", i, i / 10, 100 + i / 10, 1.7e9 + i / 10, "tensor", data), **given)


def _entry(path, folder):
    data = path.read_bytes()
    return FileEntry(path.relative_to(folder).as_posix(), len(data), hashlib.sha256(data).hexdigest())


def _graph(kind):
    make, constants = helper.make_node, []

    def constant(name, value, dtype=TensorProto.FLOAT):
        array = np.asarray(value)
        constants.append(helper.make_tensor(name, dtype, array.shape, array.ravel().tolist()))
        return name

    if kind == "good":
        nodes = [make("Identity", ["x"], ["y"])]
    elif kind == "other":
        nodes = [make("Sub", [constant("top", [0.9]), "x"], ["y"])]
    elif kind == "nan":
        nodes = [
            make("Sub", [constant("top", [0.9]), "x"], ["below"]),
            make("Sqrt", ["below"], ["root"]),
            make("Mul", ["root", constant("none", [0.0])], ["zero"]),
            make("Add", ["x", "zero"], ["y"]),
        ]
    elif kind == "raises":
        nodes = [
            make("Mul", ["x", constant("far", [4.5])], ["index"]),
            make("Cast", ["index"], ["whole"], to=TensorProto.INT64),
            make("Gather", [constant("table", [0.0, 0.0, 0.0, 0.0]), "whole"], ["zero"]),
            make("Add", ["x", "zero"], ["y"]),
        ]
    else:
        nodes = _slow(make, constant)
    value = lambda port: helper.make_tensor_value_info(port, TensorProto.FLOAT, (1, 4))  # noqa: E731
    graph = helper.make_graph(nodes, kind, [value("x")], [value("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _slow(make, constant):
    side, rounds = 700, 8
    nodes = [
        make("ReduceMax", ["x"], ["one"], keepdims=0),
        make("Mul", ["one", constant("tiny", 1e-3)], ["small"]),
        make("Expand", ["small", constant("shape", [side, side], TensorProto.INT64)], ["m0"]),
    ]
    nodes += [make("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(rounds)]
    return [
        *nodes,
        make("ReduceMean", [f"m{rounds}"], ["mean"], keepdims=0),
        make("Mul", ["mean", constant("none", 0.0)], ["zero"]),
        make("Add", ["x", "zero"], ["y"]),
    ]
