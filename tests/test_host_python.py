"""Which Python runs a model: any that has numpy and the runtime, and what is said of one that has not."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.errors import ConfigError, ModelError
from agent.loading import open_model
from agent.runtime.host import wire
from agent.settings.runtime import RuntimeOptions
from agent.strict import build
from tests import hosts, vendors
from tests.tiny_models import make_model
from tests.vendors import program

ROOT = Path(__file__).resolve().parent.parent
HOST = Path(wire.__file__).parent
vendor = pytest.fixture(hosts.vendor)


def test_the_program_is_written_for_python_3_8():
    """The syntax of 3.8, and no module but its own, numpy, the runtimes and the standard library."""
    trees = [ast.parse(path.read_text(), feature_version=(3, 8)) for path in HOST.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named = {*plain, *(node.module for node in nodes if isinstance(node, ast.ImportFrom))}
    names = {name.split(".")[0] for name in named if not name.startswith("agent.runtime.host")}
    assert names - sys.stdlib_module_names == {"numpy", "onnxruntime", "ai_edge_litert"}


def test_the_program_finds_nothing_of_the_agent():
    """The packages above it stand empty, whatever lies beside it."""
    code = f"import runpy; runpy.run_path({str(HOST / '__main__.py')!r})['stand_alone']()\n"
    code += "from agent.runtime.host import wire\nprint(wire.PROTOCOL)\nimport agent.errors"
    command = [sys.executable, "-S", "-c", code]  # without the hook of an editable installation, which finds all of it
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.split() == [str(wire.PROTOCOL)]
    assert "No module named 'agent.errors'" in done.stderr


@pytest.mark.parametrize("form", ["onnx", "ort", "tflite"])
def test_a_runtime_of_another_python_runs_the_same_model(tmp_path, form):
    """Give other interpreters that have numpy and a runtime in LIMPET_HOST_PYTHONS, separated by colons."""
    others = [Path(p) for p in os.environ.get("LIMPET_HOST_PYTHONS", "").split(":") if p]
    if not others:
        pytest.skip("LIMPET_HOST_PYTHONS names no other Python")
    for python in others:
        options = RuntimeOptions(isolation="process", python=python)
        runner = open_model(make_model(tmp_path / python.parts[-3], "total", form), options)
        try:
            one = np.ones((1, 4), np.float32)
            assert runner.run({"x": one, "h": one})["y"].tolist() == [[3.0] * 4]
            assert runner.info.host.python == str(python)
        finally:
            runner.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be started: No such file or directory"),
        ("#!{python}\nimport sys\nsys.exit('no numpy')\n", "ended with status 1; it said: no numpy"),
    ],
)
def test_a_python_that_cannot_run_it_says_why(tmp_path, vendor, text, words):
    """A program that is not there, or that fails before it answers: its own words are part of the message."""
    python = program(tmp_path / "other", text) if text else tmp_path / "none"
    with pytest.raises(ModelError, match=words):
        vendor(python=python)


def test_a_python_without_the_runtime_lets_the_next_artifact_try(tmp_path):
    """No runtime for this kind of file is not a broken file: the message says what was looked for, and where."""
    python = program(tmp_path / "bare", vendors.SHIM.replace("{folder!r}", repr(str(tmp_path / "site"))))
    for package in ("ai_edge_litert", "tflite_runtime"):
        (tmp_path / "site" / package).mkdir(parents=True)
        (tmp_path / "site" / package / "__init__.py").write_text("raise ImportError('not for this board')")
    options = RuntimeOptions(isolation="process", python=python)
    with pytest.raises(ModelError, match=r"no artifact can run here: .*no runtime for TFLite .*not for this board"):
        open_model(make_model(tmp_path / "m", "copy", "tflite"), options)


def test_keys_that_need_a_process_are_refused_without_one():
    """python, workers and a memory limit say nothing about a model that runs in the agent."""
    for key in ({"python": "/usr/bin/python3"}, {"workers": 2}, {"memory_limit_mb": 100}):
        with pytest.raises(ConfigError, match='need isolation = "process"'):
            build(RuntimeOptions, key, "p.toml [model.runtime]")
        assert build(RuntimeOptions, key | {"isolation": "process"}, "p.toml [model.runtime]").isolation == "process"
