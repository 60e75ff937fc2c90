"""Prepared files in use: the same answers out of less memory, told where an operator looks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelError
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.prepared import forget, prepare
from agent.runtime.prepared import Place, files_of
from tests import prepared_files
from tests.prepared_files import FORMS, SIZE_MB, answers, reason, same
from tests.tiny_models import make_model
from tools.bench.weights import write_heavy

ROOT = Path(__file__).resolve().parent.parent
any_pace = pytest.fixture(prepared_files.any_pace, autouse=True)
ready = pytest.fixture(prepared_files.ready, params=FORMS, scope="module")
copied = pytest.fixture(prepared_files.copied)


def test_answers_are_those_of_the_plain_load_bit_for_bit(ready):
    """Mapped or copied, the model says the same, and its `info` says which it was."""
    manifest, place, _ = ready
    plain, plainly = answers(manifest)
    mapped, info = answers(manifest, place)
    assert same(plain, mapped)
    assert (plainly.prepared, info.prepared) == ("", files_of(manifest.artifacts[0].runs_on, place.folder).recipe)
    assert not reason(info)


def test_weights_leave_private_memory(ready):
    """What was measured when the files were made: nine tenths of the private memory is gone."""
    _, _, outcome = ready
    figures = outcome.figures
    assert figures["plain_private_bytes"] > 0.9e6 * SIZE_MB
    assert figures["prepared_private_bytes"] < 0.4 * figures["plain_private_bytes"]


def test_two_threads_may_run_it_at_once(ready):
    """One runner, several callers: each gets the answer to its own input."""
    from concurrent.futures import ThreadPoolExecutor

    manifest, place, _ = ready
    runner = open_model(manifest, prepared=place)
    port = runner.inputs[0]
    given = [np.full(port.shape, n, port.dtype) for n in range(16)]
    expected = [runner.run({port.name: one})["y"] for one in given]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda one: runner.run({port.name: one})["y"], given))
    assert same(expected, made)
    runner.close()
    with pytest.raises(ModelError, match="closed"):
        runner.run({port.name: given[0]})


def test_they_serve_any_number_of_threads(ready):
    """Packed weights do not depend on how many threads multiply."""
    manifest, place, _ = ready
    made, info = answers(manifest, place, threads=2)
    assert same(answers(manifest, threads=2)[0], made)
    assert info.prepared and info.threads == 2


def test_a_model_that_runs_keeps_what_it_mapped(copied):
    """Removing is unlinking: nothing is ever changed under a running model."""
    manifest, place = copied
    runner = open_model(manifest, prepared=place)
    port = runner.inputs[0]
    given = {port.name: np.full(port.shape, 3, port.dtype)}
    before = runner.run(given)["y"]
    assert forget(place.folder, manifest.artifacts[0].sha256) == 1
    assert runner.run(given)["y"].tobytes() == before.tobytes()
    runner.close()


def test_a_mapped_model_fills_no_log(ready):
    """LiteRT's own module would print dozens of lines; one that the plain interpreter prints too is left."""
    manifest, place, _ = ready
    code = (
        "import sys; from pathlib import Path; from agent.loading import open_model; from agent.manifest import "
        "load_manifest; from agent.runtime.prepared import Place\n"
        "runner = open_model(load_manifest(Path(sys.argv[1])), prepared=Place(Path(sys.argv[2])))\n"
        "print(runner.info.prepared); runner.close()"
    )
    command = [sys.executable, "-c", code, manifest.folder, place.folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert len(done.stderr.splitlines()) <= 1, done.stderr


def test_a_folder_with_other_signs_is_mapped_from(tmp_path):
    """Blanks, letters of any language, and what begins a comment elsewhere."""
    manifest = load_manifest(write_heavy(tmp_path / "model", "dense", "tflite", SIZE_MB))
    place = Place(tmp_path / "it's # ü")
    assert prepare(manifest, manifest.artifacts[0], place).state == "made"
    assert answers(manifest, place)[1].prepared


def test_an_operator_may_do_without(ready):
    """[model.runtime] prepared = false, and every other way of computing, loads plainly and complains of nothing."""
    manifest, place, _ = ready
    for options in ({"prepared": False}, {"xnnpack": False}):
        _, info = answers(manifest, place, **options)
        assert not info.prepared and not reason(info)


def test_small_models_are_left_alone(tmp_path):
    """There is nothing to gain, so there is nothing to tell."""
    manifest = make_model(tmp_path / "m", "add", "tflite")
    place = Place(tmp_path / "prepared")
    assert prepare(manifest, manifest.artifacts[0], place).state == "small"
    assert not place.folder.exists()
    runner = open_model(manifest, prepared=place)
    assert not reason(runner.info)
    runner.close()


def test_a_large_model_without_prepared_files_says_how_to_get_them(ready, tmp_path):
    """The reason stands where an operator looks."""
    manifest, _, _ = ready
    _, info = answers(manifest, Place(tmp_path / "none"))
    assert "there are none" in reason(info)
