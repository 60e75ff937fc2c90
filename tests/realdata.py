"""Real recordings and public models, too large for this repository: $LIMPET_REALDATA, or `shared/realdata` beside it.

Its index.json lists cases: inputs, what they must give, and what was measured.
"""

import json
import os
from pathlib import Path

import pytest

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest

REPO = Path(__file__).resolve().parent.parent
ROOT = Path(os.environ.get("LIMPET_REALDATA") or REPO.parent / "shared" / "realdata").resolve()
MANIFESTS = REPO / "tests" / "manifests"
"""Manifests of the public models, whose files lie in ROOT."""

needed = pytest.mark.skipif(not (ROOT / "index.json").exists(), reason=f"no real data at {ROOT}: set LIMPET_REALDATA")
"""Marks a test, or as `pytestmark` a whole file."""


def case(name):
    """The entry of the index."""
    return next(c for c in json.loads((ROOT / "index.json").read_text())["cases"] if c["id"] == name)


def inference(name):
    """A stream's use of the public model that the manifest `name` describes."""
    manifest = load_manifest(MANIFESTS / name)
    return Inference(manifest, open_model(manifest, artifact_root=ROOT))
