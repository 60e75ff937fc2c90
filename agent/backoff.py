"""How long to wait before the next try: exponential with full jitter.

The delay is drawn evenly between a small floor and a ceiling that doubles with every failure up to a cap, so a
fleet that lost the same broker does not come back in step (the "full jitter" of Brooker, "Exponential Backoff
And Jitter", 2015). The floor keeps an unlucky draw from becoming a busy loop. Pure: time and chance are passed in.
"""

import random


class Backoff:
    """Remembers failures in a row; forgets them after a healthy period."""

    def __init__(
        self, rng: random.Random, first_s: float = 0.5, cap_s: float = 60.0, healthy_s: float = 30.0
    ) -> None:
        """`first_s`: ceiling of the first delay; `cap_s`: of any; having run for `healthy_s` forgets all failures."""
        if not 0 < first_s <= cap_s:
            raise ValueError(f"first_s = {first_s} must be above 0 and at most cap_s = {cap_s}")
        self._rng = rng
        self._first_s = first_s
        self._cap_s = cap_s
        self._healthy_s = healthy_s
        self._since_s: float | None = None
        self.failures = 0
        """Failures in a row."""

    def started(self, now_s: float) -> None:
        """The thing works since `now_s` (monotonic). Calling it again while it works changes nothing."""
        if self._since_s is None:
            self._since_s = now_s

    def failed(self, now_s: float) -> float:
        """The thing broke at `now_s`. Returns the seconds to wait before the next try."""
        if self._since_s is not None and now_s - self._since_s >= self._healthy_s:
            self.failures = 0
        self._since_s = None
        # 2.0**failures overflows near 1024; far below that the cap has long decided
        ceiling_s = min(self._cap_s, self._first_s * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return self._rng.uniform(self._first_s / 10, ceiling_s)
