"""The probe: whatever a candidate does in its child, the updater lives and says in words what it was."""

import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.depot import Pick, folder_of
from agent.errors import UpdateError
from agent.manifest import Budget
from agent.package import FileEntry, PackageManifest
from agent.updates.probe import _judged, probe
from agent.updates.trial_run import Candidate, judged
from tests.repositories import MODELS
from tests.tiny_models import make_model


def _depot(tmp_path, folder):
    """`folder` as a package in the depot at `tmp_path`; returns the candidate."""
    entries = tuple(
        FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path))
        for path in sorted(folder.rglob("*")) if path.is_file()
    )  # fmt: skip
    text = (folder / "model.toml").read_text()
    name = next(line.split('"')[1] for line in text.splitlines() if line.startswith("name"))
    version = next(line.split('"')[1] for line in text.splitlines() if line.startswith("version"))
    data = PackageManifest("model", name, version, entries).encode()
    pick = Pick(version, hashlib.sha256(data).hexdigest())
    there = folder_of(tmp_path / "depot", name, pick)
    there.parent.mkdir(parents=True)
    folder.rename(there)
    (there / "package.json").write_bytes(data)
    return Candidate(str(tmp_path / "depot"), name, version, pick.sha256, 30.0, 600_000_000)


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tiny(tmp_path, extra="", kind="copy", **how):
    folder = tmp_path / "tiny"
    make_model(folder, kind, "onnx", **how)
    with (folder / "model.toml").open("a") as file:
        file.write(extra)
    return folder


def _graph(folder, nodes, constants=()):
    """x [1, 4] -> y by `nodes`, in place of the model file that is there."""
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4))  # noqa: E731
    graph = helper.make_graph(nodes, "bad", [value("x")], [value("y")], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    _replace(folder, model.SerializeToString())


def _replace(folder, data):
    path = next(folder.glob("*.onnx"))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(data)
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(text.replace(before, hashlib.sha256(data).hexdigest()))


@pytest.mark.parametrize("name", sorted(p.parent.name for p in MODELS.glob("*/model.toml")))
def test_the_factory_models_pass(tmp_path, name):
    """With golden pictures, sounds and series, within the default memory."""
    shutil.copytree(MODELS / name, tmp_path / name)
    assert probe(_depot(tmp_path, tmp_path / name)) == ""


def test_a_model_without_golden_inputs_is_run_on_zeros(tmp_path):
    """Nothing can be compared, but it must load, run and give numbers."""
    assert probe(_depot(tmp_path, _tiny(tmp_path))) == ""


def test_wrong_answers_are_told_with_the_golden_input(tmp_path):
    """The distance and what is allowed."""
    folder = _tiny(tmp_path, extra='[[golden]]\ninput = "in.npz"\noutput = "out.npz"\n')
    np.savez(folder / "in.npz", x=np.ones((1, 4), np.float32))
    np.savez(folder / "out.npz", y=np.full((1, 4), 7, np.float32))
    why = probe(_depot(tmp_path, folder))
    assert "in.npz" in why
    assert "at most 0.001 allowed" in why


def test_nan_is_refused(tmp_path):
    """0 / 0 on the zeros that it is fed."""
    folder = _tiny(tmp_path)
    _graph(folder, [helper.make_node("Div", ["x", "x"], ["y"])])
    assert "NaN" in probe(_depot(tmp_path, folder))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    """It is signed and has its digest, and is rubbish all the same."""
    folder = _tiny(tmp_path)
    _replace(folder, os.urandom(5000))
    assert probe(_depot(tmp_path, folder))


def test_a_rotten_file_is_refused_before_it_is_parsed(tmp_path):
    """Its sha256 is not what the manifest says."""
    candidate = _depot(tmp_path, _tiny(tmp_path))
    path = next((tmp_path / "depot").rglob("*.onnx"))
    path.write_bytes(path.read_bytes() + b"x")
    assert "sha256" in probe(candidate)


def test_a_model_that_eats_memory_meets_its_limit(tmp_path):
    """Four gigabytes of zeros in one node: the child's limit, not the device's memory."""
    folder = _tiny(tmp_path)
    size = helper.make_tensor("size", TensorProto.INT64, [1], [1 << 30])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["big"]),
        helper.make_node("ReduceSum", ["big", "axes"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    _graph(folder, nodes, [size, axes])
    began_s = time.monotonic()
    why = probe(_depot(tmp_path, folder))
    assert "ConstantOfShape" in why
    assert "memory" in why
    assert time.monotonic() - began_s < 20


def _endless(folder):
    """A loop of 2^40 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["more"], ["goes_on"]), helper.make_node("Add", ["was", "was"], ["is"])], "body",
        [helper.make_tensor_value_info("round", TensorProto.INT64, []),
         helper.make_tensor_value_info("more", TensorProto.BOOL, []),
         helper.make_tensor_value_info("was", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("is", TensorProto.FLOAT, (1, 4))],
    )  # fmt: skip
    rounds = helper.make_tensor("rounds", TensorProto.INT64, [], [1 << 40])
    more = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    _graph(folder, [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)], [rounds, more])


def test_a_model_that_never_ends_is_killed_at_its_deadline(tmp_path):
    """With everything that it started."""
    folder = _tiny(tmp_path)
    _endless(folder)
    candidate = replace(_depot(tmp_path, folder), time_s=4.0)
    began_s, before = time.monotonic(), set(_children())  # other tests of this process may have left some
    why = probe(candidate)
    assert "not done after 4 s" in why
    assert "while running" in why
    assert time.monotonic() - began_s < 8
    assert set(_children()) <= before


def _children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_is_told_with_its_signal_and_its_step(tmp_path, signal, monkeypatch):
    """Native code that parses the file dies: the child dies with it, the updater says where."""
    library = tmp_path / "crash"
    library.mkdir()
    text = f"import os, signal\nos.kill(os.getpid(), signal.{signal})\n"
    (library / "onnxruntime.py").write_text(text)  # stands for a runtime that a hostile file crashes
    monkeypatch.setenv("PYTHONPATH", f"{library}")
    monkeypatch.setattr("agent.modelchild._code", lambda: f"{library}{os.pathsep}{MODELS.parent}")
    why = probe(_depot(tmp_path, _tiny(tmp_path)))
    assert signal in why
    assert "while loading it" in why


def test_a_child_that_cannot_even_start_is_not_the_models_fault(tmp_path):
    """Too little memory for Python itself: an error of the device, and nobody is blacklisted."""
    candidate = replace(_depot(tmp_path, _tiny(tmp_path)), memory_bytes=20_000_000)
    with pytest.raises(UpdateError, match="probe_memory_mb"):
        probe(candidate)


def test_a_budget_that_is_not_kept_is_refused(tmp_path):
    """A thousandth of a microsecond for a run."""
    why = probe(_depot(tmp_path, _tiny(tmp_path, extra="[budget]\nlatency_ms = 0.000001\n")))
    assert "its budget is 1e-06 ms" in why


def test_slow_hungry_and_leaking_are_told_apart():
    """Each in its own words; 0 in the manifest sets no limit."""
    told = [*judged(20.0, 50_000_000, 9_000_000, Budget(latency_ms=10, memory_mb=20))]
    assert [words.split()[0:2] for words in told] == [["a", "run"], ["it", "takes"], ["its", "memory"]]
    assert "20 ms" in told[0]
    assert "50.0 MB" in told[1]
    assert "leaks" in told[2]
    assert [*judged(1e6, 1 << 40, 1_000_000, Budget())] == []


def test_what_a_child_says_is_limited_and_distrusted():
    """Rubbish on its output is no verdict."""
    assert _judged(0, b'{"step": "loading"}\nrubbish\n["a"]\n' + json.dumps({"why": ""}).encode()) == ""
    assert "status 0 while loading" in _judged(0, b'{"step": "loading"}\nrubbish\n')
    assert "status 3 while loading" in _judged(3, b'{"step": "loading"}\n{"why": ""}\n')
