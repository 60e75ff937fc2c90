"""A dense int8 model of 8 MB and its prepared files, made once in a session; what it answers, and how it was loaded.

A test file makes the fixtures its own: `ready = pytest.fixture(prepared_files.ready, params=FORMS, scope="module")`.
"""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from agent.loading import PREPARED, open_model
from agent.manifest import load_manifest
from agent.prepared import making, prepare
from agent.runtime.prepared import Place, key_of
from agent.settings.runtime import RuntimeOptions
from tools.bench.weights import write_heavy

FORMS = ("onnx", "tflite")
SIZE_MB = 8


def any_pace():
    """A busy machine decides nothing here: only bench looks at speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "SLOWER", 1000.0)
        patch.setattr(making, "RUN_S", 0.05)
        yield


def ready(request, tmp_path_factory):
    """The model's manifest, the place of its prepared files, and how making them ended. Nobody may damage them."""
    return _made(request.param, tmp_path_factory.getbasetemp())


def copied(ready, tmp_path):
    """Manifest and place, with a copy of the prepared files that a test may damage."""
    manifest, place, _ = ready
    shutil.copytree(place.folder, tmp_path / "prepared")
    return manifest, replace(place, folder=tmp_path / "prepared")


@cache
def _made(form, base):
    folder = base / f"ready-{form}"
    manifest = load_manifest(write_heavy(folder / "model", "dense", form, SIZE_MB))
    place = Place(folder / "prepared")
    with contextmanager(any_pace)():
        outcome = prepare(manifest, manifest.artifacts[0], place)
    assert outcome.state == "made", outcome.reason
    return manifest, place, outcome


def answers(manifest, place=None, **options):
    """What the model says to three inputs, and what really ran."""
    runner = open_model(manifest, RuntimeOptions(**options), prepared=place)
    port = runner.inputs[0]
    rng = np.random.default_rng(5)
    try:
        given = [rng.integers(0, 255, port.shape).astype(port.dtype) for _ in range(3)]
        return [runner.run({port.name: one})["y"] for one in given], runner.info
    finally:
        runner.close()


def same(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def entry(place, manifest):
    """The folder of the model's prepared files."""
    return place.folder / key_of(manifest.artifacts[0]).folder


def reason(info):
    """Why the model was loaded plainly; empty when there is nothing to tell."""
    return next((note.reason for note in info.fallbacks if note.asked == PREPARED), "")


def configured(folder, prepared):
    """A limpet.toml in `folder` that names the folder of prepared files."""
    config = folder / "limpet.toml"
    config.write_text(f'schema = 1\n[models]\nprepared = "{prepared}"\n')
    return config
