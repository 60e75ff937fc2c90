"""Prepared files in a process of its own: the same answers, the weights mapped, and verified before every start."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelError
from agent.loading import open_model
from agent.runtime.prepared import CACHE, WEIGHTS, find_prepared, key_of
from agent.runtime.remote import RemoteRunner
from agent.settings.runtime import RuntimeOptions
from tests import prepared_files
from tests.prepared_files import FORMS
from tests.vendors import SHIM, program

APART = RuntimeOptions(isolation="process")
FILE = {"onnx": WEIGHTS, "tflite": CACHE}
ready = pytest.fixture(prepared_files.ready, params=FORMS, scope="module")
copied = pytest.fixture(prepared_files.copied)


@pytest.fixture
def opened():
    """Opens a model; closed after the test."""
    runners = []

    def open_one(*args, **more):
        runners.append(open_model(*args, **more))
        return runners[-1]

    yield open_one
    for runner in runners:
        runner.close()


def answer(runner):
    port = runner.inputs[0]
    given = np.random.default_rng(5).integers(0, 255, port.shape).astype(port.dtype)
    return runner.run({port.name: given})["y"].tobytes()


def test_the_answers_are_those_of_a_plain_load_and_the_weights_are_mapped(ready, opened):
    """Bit for bit, and the workers' pages are those of the prepared file."""
    manifest, place, _ = ready
    apart = opened(manifest, APART, prepared=place)
    assert answer(apart) == answer(opened(manifest))
    assert apart.info.prepared == find_prepared(place.folder, key_of(manifest.artifacts[0])).recipe
    top = apart._revival._hosting.pid
    assert FILE[manifest.artifacts[0].format] in Path(f"/proc/{top}/maps").read_text()


def test_two_workers_give_the_same_answers_from_them(ready, opened):
    """A fork keeps what was mapped."""
    manifest, place, _ = ready
    apart = opened(manifest, RuntimeOptions(isolation="process", workers=2), prepared=place)
    seats = [apart._idle.get() for _ in range(2)]
    port = apart.inputs[0]
    fed = {port.name: np.full(port.shape, 3, port.dtype)}
    told = [apart._run(seat, fed)["y"].tobytes() for seat in seats]
    for seat in seats:
        apart._idle.put(seat)
    assert told[0] == told[1] == opened(manifest).run(fed)["y"].tobytes()


def test_a_host_that_is_started_again_looks_at_them_again(copied):
    """Files that were damaged meanwhile are left out: the runtimes would use them, and answer wrongly."""
    manifest, place = copied
    artifact, now_s = manifest.artifacts[0], [0.0]
    found = find_prepared(place.folder, key_of(artifact))
    path = manifest.folder / artifact.file
    runner = RemoteRunner(manifest, artifact, APART, path, prepared=found, mono_s=lambda: now_s[0])
    damaged = found.files[FILE[artifact.format]]
    good = damaged.read_bytes()
    try:
        first = answer(runner)
        os.kill(runner._revival._hosting.pid, signal.SIGKILL)
        damaged.unlink()
        damaged.write_bytes(good[: len(good) // 2] + b"\xff" * 64 + good[len(good) // 2 + 64 :])
        with pytest.raises(ModelError, match="SIGKILL"):
            for _ in range(100):  # its worker may outlive it by a moment
                answer(runner)
        now_s[0] += 100
        assert answer(runner) == first
        assert runner.info.prepared == ""
        assert runner.info.host.starts == 2
    finally:
        runner.close()


def test_another_python_loads_plainly_and_says_why(ready, opened, tmp_path):
    """They are made for one runtime and version."""
    manifest, place, _ = ready
    python = program(tmp_path / "python", SHIM.replace("{folder!r}", repr(str(tmp_path))))
    apart = opened(manifest, RuntimeOptions(isolation="process", python=python), prepared=place)
    assert apart.info.prepared == ""
    assert [note.reason for note in apart.info.fallbacks] == [f"they are not made for the runtime of {python}"]
    assert answer(apart) == answer(opened(manifest))
    assert sys.executable in python.read_text()
