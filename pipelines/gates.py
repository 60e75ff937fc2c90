"""Gates: whether a view is worth a model.

Owns `change` (the picture differs from the last one that passed), `motion` (something moves before a learnt
background) and `interval` (now and then, for views of every modality). Time is stream time, `View.t0_s`; when it
jumps back, as in a recording that starts over, a gate starts afresh.

The image gates look at a small grey copy of the picture, 64 x 48 by default, and first take out the light: the linear
map that best brings the reference onto the picture, fitted again three times on the 3/5 of the points that fit best, so
that an object does not pass for a change of light. What is left is counted in share of the picture, not summed: sensor
noise moves every point a little, an object moves few points a lot. Sampling `area` averages noise away; `nearest` reads
one pixel in a hundred and wants a higher `level`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np

from agent.records import Array, View
from agent.strict import Range
from pipelines.pixels import need_picture

Side = Annotated[int, Range(8, 512)]
Share = Annotated[float, Range(0, 1)]
Level = Annotated[float, Range(0.5, 255)]
Sampling = Literal["area", "nearest"]


@dataclass(frozen=True, slots=True)
class Interval:
    """Passes one view every `every_s` seconds of the stream: the first, then the first at or after each due time."""

    every_s: Annotated[float, Range(0.001, 604_800)]

    def initial(self) -> float | None:
        """The next due time, seconds; None before the first view."""
        return None

    def __call__(self, state: float | None, view: View, /) -> tuple[float | None, bool]:
        now = view.t0_s
        if state is None or now < state - self.every_s - 1e-6:
            return now + self.every_s, True
        if now < state - 1e-6:  # float seconds: a view that is due to within a microsecond is due
            return state, False
        due = state + self.every_s  # on the grid, so that the mean rate is exact
        return due if due > now else now + self.every_s, True  # a long pause causes no burst


@dataclass(frozen=True, slots=True)
class Passed:
    """State of `change`: the small copy of the last view that passed, and when."""

    small: Array
    t_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """Passes a view that differs from the last one that passed, and the first. For still scenes: a meter, a shelf.

    A change gives one view and so one result: for rules that want n of m, let `refresh_s` pass the views they need.
    """

    level: Level = 12.0
    """By how many of 255 grey levels a point must differ to count as changed."""
    share: Share = 0.003
    """Share of the picture's points that must have changed."""
    refresh_s: Annotated[float, Range(0, 604_800)] = 0.0
    """Pass after this many seconds even without a change; 0 never."""
    width_px: Side = 64
    height_px: Side = 48
    sampling: Sampling = "area"

    def initial(self) -> Passed | None:
        return None

    def __call__(self, state: Passed | None, view: View, /) -> tuple[Passed | None, bool]:
        small = _small_grey(view, self.width_px, self.height_px, self.sampling, "change")
        if state is not None and state.t_s <= view.t0_s and not self._differs(state, small, view.t0_s):
            return state, False
        return Passed(small, view.t0_s), True

    def _differs(self, state: Passed, small: Array, now_s: float) -> bool:
        if self.refresh_s and now_s - state.t_s >= self.refresh_s:
            return True
        difference = np.abs(small - _lit_like(state.small, small))
        return float(np.mean(difference > self.level)) >= self.share


@dataclass(frozen=True, slots=True)
class Background:
    """State of `motion`: what each point usually shows and how much it usually strays, grey levels, float32."""

    mean: Array
    spread: Array
    t_s: float
    moved_s: float
    """When something last moved; -inf when nothing has."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Passes views in which something stands out from the background, and `hold_s` longer. For cameras.

    The background is a running mean with time constant `adapt_s`, 25 times slower under what stands out, so that
    someone who stands still is seen for some 4 x `adapt_s` and a parked car is at last part of the scene. To stand
    out, a point must stray by `level` and by `spread_factor` times what it usually strays: leaves and water quieten
    themselves. When more than `restart_share` of the picture stands out, the camera was moved or the light switched:
    that passes once and the background starts afresh. The first view passes too: nothing is known yet.
    """

    level: Level = 14.0
    share: Share = 0.004
    """Share of the picture's points that must stand out."""
    spread_factor: Annotated[float, Range(1, 20)] = 5.0
    adapt_s: Annotated[float, Range(0.1, 3600)] = 10.0
    hold_s: Annotated[float, Range(0, 3600)] = 2.0
    restart_share: Share = 0.5
    width_px: Side = 64
    height_px: Side = 48
    sampling: Sampling = "area"

    def initial(self) -> Background | None:
        return None

    def __call__(self, state: Background | None, view: View, /) -> tuple[Background, bool]:
        small = _small_grey(view, self.width_px, self.height_px, self.sampling, "motion")
        if state is None or view.t0_s < state.t_s:
            return self._fresh(small, view.t0_s), True
        mean = _lit_like(state.mean, small)
        deviation = np.abs(small - mean)
        out = deviation > np.maximum(self.level, self.spread_factor * state.spread)
        share = float(np.mean(out))
        if share > self.restart_share:
            return self._fresh(small, view.t0_s), True
        moved_s = view.t0_s if share > 0 and share >= self.share else state.moved_s
        return self._learnt(state, mean, small, out, view.t0_s, moved_s), view.t0_s - moved_s <= self.hold_s

    def _fresh(self, small: Array, t_s: float) -> Background:
        return Background(small, np.zeros_like(small), t_s, -math.inf)

    def _learnt(
        self, state: Background, mean: Array, small: Array, out: Array, t_s: float, moved_s: float
    ) -> Background:
        gain = 1.0 - math.exp(-(t_s - state.t_s) / self.adapt_s)
        gains = np.where(out, np.float32(gain / 25), np.float32(gain))
        spread = state.spread + gains * (np.abs(small - mean) - state.spread)
        return Background(mean + gains * (small - mean), spread, t_s, moved_s)


def _small_grey(view: View, width: int, height: int, sampling: Sampling, step: str) -> Array:
    """float32 [height, width] of the view's picture."""
    need_picture(view.data, step)
    flag = cv2.INTER_AREA if sampling == "area" else cv2.INTER_NEAREST
    small = cv2.resize(view.data, (width, height), interpolation=flag)
    grey = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    return grey.astype(np.float32)


def _lit_like(reference: Array, picture: Array) -> Array:
    """`reference` in the light of `picture`: gain * reference + offset, float32, by trimmed least squares."""
    x, y = reference.ravel(), picture.ravel()
    gain, offset = _line(x, y)
    kept_points = x.size * 3 // 5
    for _ in range(3):
        misfit = np.abs(y - (gain * x + offset))
        kept = misfit <= np.partition(misfit, kept_points)[kept_points]
        gain, offset = _line(x[kept], y[kept])
    return np.asarray(gain * reference + offset, np.float32)


def _line(x: Array, y: Array) -> tuple[np.float32, np.float32]:
    """Gain and offset of the least squares line through (x, y); the gain is kept within 0.5 to 2, as light does."""
    x_mean, y_mean = x.mean(), y.mean()
    across = x - x_mean
    variance = float(across @ across)
    # a reference without contrast tells no gain; 4 grey levels squared per point is little more than noise
    gain = float(across @ (y - y_mean)) / variance if variance > 4.0 * x.size else 1.0
    gain = min(max(gain, 0.5), 2.0)
    return np.float32(gain), np.float32(y_mean - gain * x_mean)
