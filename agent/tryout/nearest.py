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
_ALL: dict[str, Any] = {
    "thresholds": {}, "ignore": (), "top": 100, "top_k": 1000, "max_findings": 1000, "nms_iou": 1.0,
}  # fmt: skip
"""Keys of decoders that hold something back, at the values at which they hold back least."""
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
        self._posts = make_posts(manifest.post, str(manifest))
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
        known = [finding for finding in found if finding.label not in ignored]
        best = max(known, key=self._rank, default=None)
        if best is not None and (self.best is None or self._rank(best) > self._rank(self.best.finding)):
            self.best = Near(best, _least(self._decoder, best.label))

    def _rank(self, finding: Finding) -> tuple[bool, float]:
        """A label that the steps behind the decoder are after counts before any other."""
        wanted = all(step.says((finding.label,)) for step in self._posts if hasattr(step, "says"))
        return wanted, finding.score

    def words(self) -> str:
        """"best 0.310 of 'person', threshold 0.5", or what else kept it back; empty when nothing can be said."""
        if self.best is None:
            return ""
        said = f"best {self.best.finding.score:.3f} of '{self.best.finding.label}'"
        if self.best.finding.score < self.best.least:
            return f"{said}, threshold {self.best.least:g}"
        named = zip(self._posts, self._manifest.post, strict=True)
        steps = ", ".join(_limits(step, table["step"]) for step, table in named)
        keys = " or ".join(key for key in _KEYS if getattr(self._decoder, key, ()))
        return f"{said}, which {f'[[post]] {steps}' if steps else f'[decoder] {keys}'.strip()} left out"


def _loose(decoder: Any) -> Decoder | None:
    """The decoder, letting everything through that it holds back by score or by name; None where it has no such key.

    Reconstruction counts in units of its threshold, and tells all views when asked to.
    """
    keys = {field.name for field in dataclasses.fields(decoder)} if dataclasses.is_dataclass(decoder) else set()
    if "threshold" not in keys:
        return None
    told = {"always": True} if "always" in keys else {"threshold": 0.0}
    made: Decoder = dataclasses.replace(decoder, **told, **{key: _ALL[key] for key in keys & _ALL.keys()})
    return made


def _least(decoder: Any, label: str) -> float:
    if hasattr(decoder, "always"):
        return 1.0
    return float(getattr(decoder, "thresholds", {}).get(label, decoder.threshold))


def _limits(step: Any, name: str) -> str:
    """The step's name, with the score from which it lets something through."""
    return next((f"{name} ({key} {getattr(step, key):g})" for key in _LIMITS if hasattr(step, key)), name)
