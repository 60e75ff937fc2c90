"""How far apart two pictures may be so that the answer to one stands for the other: learnt from computed answers.

Owns the counts of comparisons by distance, and the threshold that follows from them. Rules:

- A threshold is taken when the comparisons below it show, with 95 % confidence, that at most `max_error` of such
  answers differ; and when that holds at its far end too, so that many pictures that are all but equal do not pay for
  few that are not.
- Nothing is reused without evidence: at 1 %, 299 comparisons in a row without a difference. Above half the allowed
  error hardly any threshold is ever proved.
- Old comparisons fade: each distance remembers its last 10 / `max_error`, so that a scene that changed is learnt anew.

The bound is Chernoff's in its Kullback-Leibler form (Hoeffding 1963, theorem 1): for a share p of n comparisons, the
largest u with n * KL(p, u) <= ln(1 / 0.05). It holds for faded counts as it does for whole ones, and is that of Clopper
and Pearson where nothing differed. That many thresholds are tried, again and again, is not in it: docs/cache.md
measures what that costs.
"""

import math
from bisect import bisect_left

CONFIDENCE = 0.95
_NEED = math.log(1 / (1 - CONFIDENCE))
_FADE = 10.0
"""Comparisons remembered by each distance, in units of 1 / max_error: three to four times what a proof needs."""
_EDGES = tuple(0.5 * 2 ** (n / 2) for n in range(18))
"""Upper edges of the distances that are told apart: half octaves from 0.5 to 181 grey levels."""


class Evidence:
    """Comparisons of pictures that were both computed, by distance, and the threshold that they prove."""

    def __init__(self, max_error: float, max_distance: float) -> None:
        """`max_error`: share of answers; `max_distance`: grey levels, beyond it nothing is learnt."""
        self._max_error = max_error
        self._edges = (*(edge for edge in _EDGES if edge < max_distance), max_distance)
        self._keep = 1.0 - max_error / _FADE
        self._total = [0.0] * len(self._edges)
        self._bad = [0.0] * len(self._edges)
        self.threshold = -1.0
        """Distance up to which answers may be reused, grey levels; negative: none."""
        self._proof = (0.0, 0.0)

    @property
    def error_bound(self) -> float:
        """Upper bound of the share of answers below the threshold that differ; 1 without a threshold."""
        return upper_bound(*self._proof)

    def learn(self, distance: float, differed: bool) -> None:
        """Take one comparison. Costs some ten microseconds, where a model ran anyway."""
        if distance > self._edges[-1]:
            return
        at = bisect_left(self._edges, distance)
        self._total[at] = self._total[at] * self._keep + 1.0
        self._bad[at] = self._bad[at] * self._keep + differed
        self._decide()

    def _decide(self) -> None:
        """The furthest edge that is proved, and no worse in any stretch below it than `max_error`."""
        self.threshold, self._proof = -1.0, (0.0, 0.0)
        total = bad = least = 0.0
        for edge, more, worse in zip(self._edges, self._total, self._bad, strict=True):
            total, bad = total + more, bad + worse
            excess = bad - self._max_error * total
            if more and excess <= least and proved(bad, total, self._max_error):
                self.threshold, self._proof = edge, (bad, total)
            least = min(least, excess)


def proved(bad: float, total: float, most: float) -> bool:
    """Whether `bad` of `total` comparisons show that the true share is below `most`."""
    return bad < most * total and total * _divergence(bad / total, most) >= _NEED


def upper_bound(bad: float, total: float) -> float:
    """The largest share that `bad` of `total` comparisons leave possible at 95 % confidence; 1 for none."""
    if total <= 0:
        return 1.0
    share = bad / total
    low, high = share, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if total * _divergence(share, middle) > _NEED else (middle, high)
    return high


def _divergence(p: float, q: float) -> float:
    """KL(p, q) of two coins, natural logarithm; infinite where q says that what p shows cannot be."""
    if q >= 1.0:
        return math.inf if p < 1.0 else 0.0
    hits = p * math.log(p / q) if p else 0.0
    return hits + (1 - p) * math.log((1 - p) / (1 - q)) if p < 1.0 else hits
