"""What came nearest to being found: the best score there was, where the threshold let nothing through.

Owns the decoder without its thresholds, and the sentence about it. A second decoding of outputs that are there: the
model does not run again. Pure.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from agent.errors import LimpetError
from agent.manifest import Manifest
from agent.records import Finding, Tensors, View
from pipelines import Decoder, make_step
from pipelines.chain import make_posts
from pipelines.outputs import decoded

_LIMITS = ("threshold", "on", "score")
"""What steps call the score from which they let something through."""
_KEYS = ("ignore", "min_points")
"""Keys of decoders that keep back what reaches the threshold."""


@dataclass(frozen=True, slots=True)
class Near:
    """A finding that was not told, and the score from which the decoder tells its label."""

    finding: Finding
    least: float


class Nearest:
    """The best of all views that it is shown."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises ConfigError on a wrong step."""
        self._manifest = manifest
        self._decoder = make_step("decoder", manifest.decoder, str(manifest)) if manifest.decoder else None
        self._loose = _loose(self._decoder)
        self.best: Near | None = None
        """None: no view was decoded, or nothing can be said, as by a decoder that knows no threshold."""

    def look(self, outputs: Tensors, view: View) -> None:
        """`outputs`: real values by port; `view`: as the first input's steps left it."""
        if self._loose is None:
            return
        try:
            found = decoded(self._loose, outputs, view, self._manifest.labels)
        except LimpetError:  # of candidates that nobody asked for
            return
        ignored = getattr(self._decoder, "ignore", ())
        for finding in found:
            if finding.label not in ignored and (self.best is None or finding.score > self.best.finding.score):
                self.best = Near(finding, _least(self._decoder, finding.label))

    def words(self) -> str:
        """"best 0.310 of 'person', threshold 0.5", or what else kept it back; empty when nothing can be said."""
        if self.best is None:
            return ""
        said = f"best {self.best.finding.score:.3f} of '{self.best.finding.label}'"
        if self.best.finding.score < self.best.least:
            return f"{said}, threshold {self.best.least:g}"
        steps = ", ".join(_limits(step, table["step"]) for step, table in self._posts())
        keys = " or ".join(key for key in _KEYS if getattr(self._decoder, key, ()))
        return f"{said}, which {f'[[post]] {steps}' if steps else f'[decoder] {keys}'.strip()} left out"

    def _posts(self) -> list[tuple[Any, Any]]:
        return list(zip(make_posts(self._manifest.post, str(self._manifest)), self._manifest.post, strict=True))


def _loose(decoder: Any) -> Decoder | None:
    """The decoder, letting everything through that it holds back by score or by name; None where it has no such key.

    Reconstruction counts in units of its threshold, and tells all views when asked to.
    """
    keys = {field.name for field in dataclasses.fields(decoder)} if dataclasses.is_dataclass(decoder) else set()
    if "threshold" not in keys:
        return None
    told = {"always": True} if "always" in keys else {"threshold": 0.0}
    loose = {"thresholds": {}, "ignore": (), "top": 100, "top_k": 1000}
    made: Decoder = dataclasses.replace(decoder, **told, **{key: value for key, value in loose.items() if key in keys})
    return made


def _least(decoder: Any, label: str) -> float:
    if hasattr(decoder, "always"):
        return 1.0
    return float(getattr(decoder, "thresholds", {}).get(label, decoder.threshold))


def _limits(step: Any, name: str) -> str:
    """The step's name, with the score from which it lets something through."""
    return next((f"{name} ({key} {getattr(step, key):g})" for key in _LIMITS if hasattr(step, key)), name)
