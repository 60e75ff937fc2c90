"""Models under a memory limit: a large one and a swap stay small in private memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.manifest import load_manifest
from agent.prepared import prepare
from agent.runtime.prepared import Place
from tests import prepared_files
from tests.limits import NoLimitError, memory_group
from tools.bench.weights import write_heavy

ROOT = Path(__file__).resolve().parent.parent
any_pace = pytest.fixture(prepared_files.any_pace, scope="module", autouse=True)
_PEAK = """
import sys, threading
from pathlib import Path
import numpy as np
from agent.app.shelf import Shelf
from agent.clock import SystemClock
from agent.prepared.child import peak
from agent.process import private_bytes
from agent.settings.core import ModelUse
from agent.settings.runtime import CacheConfig, ModelsConfig, RuntimeOptions
folder, prepared, runs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
shelf = Shelf(ModelsConfig(folders=(folder,), prepared=prepared), CacheConfig(enabled=False), SystemClock())
def load(name):
    use = shelf.inference(shelf.manifest(ModelUse(name), folder), RuntimeOptions())
    port = use.runner.inputs[0]
    given = {port.name: np.full(port.shape, 3, port.dtype)}
    for _ in range(runs):
        use.run_raw(given)
    return use
__import__("agent.runtime.ort" if list(folder.glob("*/*.onnx")) else "agent.runtime.litecompiled")
base = private_bytes()
now = load("one")
alone = private_bytes() - base
top = alone
if (folder / "two").is_dir():
    with peak() as seen:
        then = load("two")
        shelf.give_back(now)
        shelf.sweep()
    top = max(seen) - base
print(alone, top, private_bytes() - base, now.runner.info.prepared or "plain")
"""


def measured(folder, prepared, run=subprocess.run, runs=3):
    """Bytes of private memory: with one model, at the peak of a swap to the other, after it; and how it was loaded."""
    command = [sys.executable, "-c", _PEAK, folder, prepared, str(runs)]
    done = run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, top, after, recipe = done.stdout.split()
    return int(alone), int(top), int(after), recipe


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def large(request, tmp_path_factory):
    """A 200 MB model with its prepared files."""
    folder = tmp_path_factory.mktemp(f"large-{request.param}")
    manifest = load_manifest(write_heavy(folder / "models" / "one", "dense", request.param, 200))
    outcome = prepare(manifest, manifest.artifacts[0], Place(folder / "prepared"))
    assert outcome.state == "made", outcome
    return folder


def test_a_200_mb_model_works_under_a_limit_of_512_mb(large):
    """Nearly nothing of it is private; under pressure the kernel takes mapped pages back and reads them again."""
    try:
        with memory_group(512 << 20) as group:
            alone, _, _, recipe = measured(large / "models", large / "prepared", group.run)
            assert group.killed == 0
            assert group.peak_bytes <= 512 << 20
    except NoLimitError as exc:
        pytest.skip(str(exc))
    assert recipe != "plain"
    assert alone < 40e6


@pytest.mark.parametrize(("kind", "form"), [("dense", "tflite"), ("dense", "onnx"), ("conv", "onnx")])
def test_a_swap_never_holds_both_copies_in_private_memory(tmp_path, kind, form):
    """At its peak: the current model and at most 1.1 times the file of the next, and with prepared files far less."""
    for seed, name in enumerate(("one", "two")):
        manifest = load_manifest(write_heavy(tmp_path / "models" / name, kind, form, 40, seed=seed))
        assert prepare(manifest, manifest.artifacts[0], Place(tmp_path / "prepared")).state == "made"
    file_bytes = max(path.stat().st_size for path in manifest.folder.iterdir())
    alone, top, after, recipe = measured(tmp_path / "models", tmp_path / "prepared")
    assert recipe != "plain"
    assert top <= alone + 1.1 * file_bytes
    assert after < alone + 0.2 * file_bytes
