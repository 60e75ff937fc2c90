"""What the cases of the real data share: a row of the table, and a public model that remembers how long it took.

A file goes the way of a live sample: read as a recording, cut into views by the model's window, through the steps, the
runner, the decoder and what follows it. The models' manifests lie in tests/manifests.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agent.inference import Inference, Inferred
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.records import Finding, View
from agent.views import views
from pipelines.boxes import iou
from tests.realdata import MANIFESTS, ROOT

Case = dict[str, Any]
"""An entry of the data's index."""
_AGAIN = 5
"""How often a view of a model without memory is run for its latency."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer."""

    of: str
    """Which input."""
    expected: str
    got: str
    good: bool
    view_ms: list[float] = field(default_factory=list)
    model_ms: list[float] = field(default_factory=list)


class Model:
    """A public model; remembers how long each view took."""

    def __init__(self, name: str) -> None:
        manifest = load_manifest(MANIFESTS / name)
        self.infer = Inference(manifest, open_model(manifest, artifact_root=ROOT))
        self._forgets = not manifest.states and not manifest.post
        self.view_ms: list[float] = []
        self.model_ms: list[float] = []

    def look(self, file: str) -> list[Inferred]:
        """What it says of each view of a file; a new stream, timed anew."""
        self.infer.reset()
        return self.go_on(file)

    def go_on(self, file: str) -> list[Inferred]:
        """The same as part of the running stream."""
        self.view_ms, self.model_ms = [], []
        return [self._one(view) for view in views(self.infer.manifest, ROOT / file)]

    def _one(self, view: View) -> Inferred:
        for _ in range(_AGAIN if self._forgets else 1):
            made = self.infer(view)
            self.view_ms.append(sum(made.timings_ms.values()))
            self.model_ms.append(made.timings_ms["run"])
        return made

    def row(self, of: str, expected: str, got: str, good: bool) -> Row:
        """A row with the times of the last file."""
        return Row(Path(of).name, expected, got, good, self.view_ms, self.model_ms)


def least_overlap(findings: list[Finding], boxes: list[list[float]]) -> float:
    """The smallest overlap when each box is paired with the finding that overlaps it most; 1 when there are none."""
    if not boxes:
        return 1.0
    mine = np.array([f.box for f in findings]).reshape(-1, 4)
    return float(iou(mine, np.array(boxes, float)).max(axis=0).min()) if len(mine) else 0.0
