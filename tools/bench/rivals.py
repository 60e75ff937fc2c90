"""Caches of similar pictures that look at the same stream side by side, and what each gets wrong.

Every picture is computed once; each rival then says whether it would have reused an older answer, and is judged as the
agent judges itself. `Fixed` is what one would write first: a threshold that somebody chose, the same limits in time
and number, no rechecks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2

from agent.records import Array, View
from agent.settings.runtime import SimilarConfig
from agent.similar import Answer, Judge, Similar
from pipelines.thumbnail import distance, thumbnail

LARGEST = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
"""Thresholds of the largest difference of two thumbnails, grey levels."""
MEAN = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Thresholds of the mean difference of two small grey pictures, grey levels."""


def small_grey(picture: Array) -> Array:
    """uint8 [48, 64]: one pixel in a hundred, as a quick gate would look."""
    small = cv2.resize(picture, (64, 48), interpolation=cv2.INTER_NEAREST)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)


def mean_difference(one: Array, other: Array) -> float:
    """Mean absolute difference, grey levels."""
    return cv2.norm(one, other, cv2.NORM_L1) / one.size


class Fixed:
    """Reuses while the last computed picture is near enough, for at most the time and number that `Similar` allows."""

    def __init__(
        self, limit: float, config: SimilarConfig,
        shrink: Callable[[Array], Any] = thumbnail, apart: Callable[[Any, Any], float] = distance,
    ) -> None:  # fmt: skip
        self._limit, self._config, self._shrink, self._apart = limit, config, shrink, apart
        self._kept: tuple[Any, float, Answer] | None = None
        self._asked: tuple[Any, float] | None = None
        self._chain = 0

    def ask(self, view: View) -> Answer | None:
        """The older answer, or None."""
        small = self._shrink(view.data)
        self._asked = (small, view.t0_s)
        if self._kept is None or self._chain >= self._config.chain or view.t0_s - self._kept[1] > self._config.ttl_s:
            return None
        if self._apart(self._kept[0], small) > self._limit:
            return None
        self._chain += 1
        return self._kept[2]

    def keep(self, answer: Answer) -> None:
        """What was computed instead."""
        assert self._asked is not None
        self._kept, self._chain = (*self._asked, answer), 0


@dataclass(slots=True)
class Score:
    """What one rival did on one stream."""

    rival: Fixed | Similar
    views: int = 0
    reused: int = 0
    wrong: int = 0
    other_labels: int = 0
    """Reused answers with other labels, or another number of them, whatever their scores: as strict as can be."""
    settled_views: int = 0
    settled_reused: int = 0
    run: int = 0
    longest: int = 0
    """Most wrong answers in a row."""

    def look(self, view: View, truth: Answer, judge: Judge, settled: bool) -> None:
        """Let it answer one view whose right answer is `truth`."""
        self.views += 1
        self.settled_views += settled
        known = self.rival.ask(view)
        if known is None:
            self.rival.keep(truth)
            self.run = 0
            return
        self.reused += 1
        self.settled_reused += settled
        differs = judge.differ(known.findings, truth.findings)
        self.wrong += differs
        self.other_labels += labels(known) != labels(truth)
        self.run = self.run + 1 if differs else 0
        self.longest = max(self.longest, self.run)

    def figures(self) -> dict[str, Any]:
        """For the record."""
        reused = max(self.reused, 1)
        made = {
            "saved_share": self.reused / self.views, "wrong_share_of_reused": self.wrong / reused,
            "wrong_share_of_all": self.wrong / self.views, "reused_views": self.reused, "wrong_views": self.wrong,
            "longest_wrong_views": self.longest, "other_labels_share_of_reused": self.other_labels / reused,
            "settled_saved_share": self.settled_reused / max(self.settled_views, 1),
        }  # fmt: skip
        if isinstance(self.rival, Similar):
            counts = self.rival.counts
            made |= {
                "threshold_grey_levels": counts.threshold, "error_bound": counts.error_bound,
                "recheck_bound": counts.recheck_bound, "recheck_views": counts.rechecks,
                "recheck_disagreements": counts.disagreements,
            }  # fmt: skip
        return made


def rivals(config: SimilarConfig, floor: float) -> dict[str, Score]:
    """All of them, new."""
    made: dict[str, Score] = {"adaptive": Score(Similar(config, floor, "bench"))}
    made |= {f"largest {limit:g}": Score(Fixed(limit, config)) for limit in LARGEST}
    made |= {f"mean {limit:g}": Score(Fixed(limit, config, small_grey, mean_difference)) for limit in MEAN}
    return made


def labels(answer: Answer) -> list[str]:
    """What was found, whatever its score and place."""
    return sorted(finding.label for finding in answer.findings)
