"""Whether two answers to nearly the same picture say the same: label by label, box by box.

Pure. Findings are paired by label and by overlap, the best first. Two answers differ when a pair's scores are further
apart than the band, when its values are, or when a finding without its like is further above the decoder's threshold
than the band: what is not told may be anything up to that threshold. So a score that trembles about the threshold is
no difference, and a thing that comes or goes is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from agent.records import Finding


@dataclass(frozen=True, slots=True)
class Judge:
    """The tolerances. `floor` is the decoder's threshold: a score below it is not told."""

    score_band: float
    min_iou: float
    value_band: float
    floor: float = 0.0

    def differ(self, one: Iterable[Finding], other: Iterable[Finding]) -> bool:
        """Whether the two answers differ."""
        left = list(other)
        for finding in one:
            like = self._like(finding, left)
            if like is None:
                if finding.score - self.floor > self.score_band:
                    return True
            elif abs(finding.score - like.score) > self.score_band or not self._same_value(finding, like):
                return True
            else:
                left.remove(like)
        return any(finding.score - self.floor > self.score_band for finding in left)

    def _like(self, finding: Finding, among: list[Finding]) -> Finding | None:
        """The finding of the same label that overlaps most, if it overlaps enough."""
        same = [one for one in among if one.label == finding.label and (one.box is None) == (finding.box is None)]
        if finding.box is None or not same:
            return same[0] if same else None
        best = max(same, key=lambda one: overlap(one.box, finding.box))
        return best if overlap(best.box, finding.box) >= self.min_iou else None

    def _same_value(self, one: Finding, other: Finding) -> bool:
        a, b = one.value, other.value
        if isinstance(a, float) and isinstance(b, float):
            return abs(a - b) <= self.value_band * max(abs(a), abs(b))
        return a == b


Box = tuple[float, float, float, float] | None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union; 1 for equal boxes, also for points, 0 where one is missing."""
    if one is None or other is None:
        return 0.0
    if one == other:
        return 1.0
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = width * height if width > 0 and height > 0 else 0.0
    union = _area(one) + _area(other) - shared
    return shared / union if union > 0 else 0.0


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
