"""How many: a bucket of tokens per name, filled evenly. Pure; the time is passed in; memory is bounded."""

from collections import OrderedDict
from typing import Final

NAMES: Final = 256
"""Names that are told apart; the one unseen longest is forgotten, and starts with a full bucket."""


class Rate:
    """At most `per_minute` in a row, and as many per minute after that, for each name."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now_s: float) -> bool:
        """Whether one more is allowed now (`now_s` monotonic); a refused one costs nothing."""
        left, then_s = self._buckets.pop(name, (self._most, now_s))
        left = min(self._most, left + max(0.0, now_s - then_s) * self._most / 60.0)
        allowed = left >= 1.0
        self._buckets[name] = (left - 1.0 if allowed else left, now_s)
        if len(self._buckets) > NAMES:
            self._buckets.popitem(last=False)
        return allowed
