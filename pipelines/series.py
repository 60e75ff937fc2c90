"""Series: how rows of sensor readings become views, and which of them are worth a model.

Owns: the windows `rows` and `seconds`, the gates `value_change` and `value_level`. Front ends live in
`pipelines.spectra`, detection in `pipelines.anomaly`. A series view is float64 [rows, channels], oldest row first.
Rules: no view spans a gap, a dropped row or a step back in time; a missing reading (NaN) is treated as the window
says and never becomes a number by itself.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np

from agent.errors import ConfigError
from agent.records import Array, Channel, Sample, View
from agent.strict import Range
from pipelines.stream import frozen, is_gap

ROW_LIMIT = 100_000
"""Rows that a window holds at most, so that a wrong length cannot fill the memory."""

Row = tuple[float, Array]
"""Stream time of a row, and the row."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the window `rows` remembers."""

    rows: tuple[Row, ...] = ()
    """Rows that the next view still needs, oldest first."""
    skip: int = 0
    """Rows still to be passed over before the next view begins (a hop longer than the window)."""
    held: tuple[int, ...] = ()
    """For how many rows each channel has been held already."""
    last: Array | None = None
    """The newest row, holes filled."""
    next_seq: int | None = None
    gap: bool = False
    """True until the first view after a gap is out."""


@dataclass(frozen=True, slots=True)
class RowWindow:
    """Window: views of `length` rows every `hop` rows. Raises ConfigError when the source delivers no series."""

    length: Annotated[int, Range(1, ROW_LIMIT)]
    """Rows of a view."""
    hop: Annotated[int, Range(1, ROW_LIMIT)] | None = None
    """Rows from the start of a view to the start of the next; by default `length`: views do not overlap."""
    nan: Literal["drop", "hold", "mark"] = "drop"
    """A row with a missing reading is left out (drop), filled with the channel's last reading (hold), or kept as it
    is (mark: the steps that follow see NaN)."""
    hold_rows: Annotated[int, Range(1, ROW_LIMIT)] = 5
    """hold: so many rows in a row at most; one more is a gap."""

    def initial(self) -> Rows:
        return Rows()

    def __call__(self, state: Rows, sample: Sample, /) -> tuple[Rows, tuple[View, ...]]:
        expect_series(sample, "rows")
        if is_gap(state.next_seq, sample):
            state = Rows(gap=True)
        state = replace(state, next_seq=sample.seq + 1)
        row, held = self._fill(state, sample.data)
        if row is None:
            lost = self.nan == "hold" and state.last is not None
            return (Rows(next_seq=sample.seq + 1, gap=True) if lost else state), ()
        if state.skip:
            return replace(state, skip=state.skip - 1, held=held, last=row), ()
        rows = (*state.rows, (sample.t_s, row))
        if len(rows) < self.length:
            return replace(state, rows=rows, held=held, last=row), ()
        view = _view(rows, sample, state.gap)
        hop = self.hop or self.length
        return Rows(rows[hop:], max(0, hop - self.length), held, row, sample.seq + 1), (view,)

    def _fill(self, state: Rows, row: Array) -> tuple[Array | None, tuple[int, ...]]:
        """The row as the window takes it, or None when it cannot; and how long each channel has been held."""
        holes = np.isnan(row)
        if self.nan == "mark" or not holes.any():
            return row, (0,) * len(row)
        if self.nan == "drop" or state.last is None:
            return None, ()
        held = tuple(count + 1 if hole else 0 for count, hole in zip(state.held, holes, strict=True))
        return (np.where(holes, state.last, row), held) if max(held) <= self.hold_rows else (None, ())


@dataclass(frozen=True, slots=True)
class Seconds:
    """What the window `seconds` remembers."""

    rows: tuple[Row, ...] = ()
    """Rows that the next view still needs, oldest first, and the one before them."""
    origin_s: float = 0.0
    """Start of the first view since the last gap."""
    views: int = 0
    """Views since then: their starts are origin_s + views * hop_s, so that no rounding adds up."""
    next_seq: int | None = None
    gap: bool = False


@dataclass(frozen=True, slots=True)
class SecondWindow:
    """Window: views of `length_s` every `hop_s`, at a fixed rate if asked. Rows with a missing reading are left out.

    Raises ConfigError when the source delivers no series, or more than `ROW_LIMIT` rows in a window.
    """

    length_s: Annotated[float, Range(1e-3, 1e7)]
    """Length of a view, seconds."""
    hop_s: Annotated[float, Range(1e-3, 1e7)] | None = None
    """From the start of a view to the start of the next, seconds; by default `length_s`."""
    rate_hz: Annotated[float, Range(0, 1e6)] = 0.0
    """Rows per second of a view, from its start on; 0: the rows as they came, as many as there were."""
    fill: Literal["hold", "linear"] = "linear"
    """Between two readings: the earlier one, or the straight line between them."""
    max_gap_s: Annotated[float, Range(0, 1e7)] = 0.0
    """A longer silence than this is a gap, seconds; 0: `length_s`."""

    def __post_init__(self) -> None:
        count = self.length_s * self.rate_hz
        if count > ROW_LIMIT or (self.rate_hz > 0 and round(count) < 1):
            raise ValueError(f"length_s = {self.length_s:g} at rate_hz = {self.rate_hz:g} is {count:g} rows: "
                             f"it must be 1 to {ROW_LIMIT}")  # fmt: skip

    @property
    def hop(self) -> float:
        return self.hop_s or self.length_s

    def initial(self) -> Seconds:
        return Seconds()

    def __call__(self, state: Seconds, sample: Sample, /) -> tuple[Seconds, tuple[View, ...]]:
        expect_series(sample, "seconds")
        state, t_s = self._after_gap(state, sample), sample.t_s
        if np.isnan(sample.data).any():
            return replace(state, next_seq=sample.seq + 1), ()
        rows = (*state.rows, (t_s, sample.data))
        if len(rows) > ROW_LIMIT:
            raise ConfigError(f"window 'seconds': source '{sample.source}' delivered more than {ROW_LIMIT} rows in "
                              f"{self.length_s:g} s: shorten length_s")  # fmt: skip
        origin_s = state.origin_s if state.rows else t_s
        done = max(state.views, int((t_s - origin_s - self.length_s) // self.hop) + 1)
        made = (self._view(rows, origin_s + i * self.hop, sample) for i in range(state.views, done))
        views = tuple(view for view in made if len(view.data))
        kept = _needed(rows, origin_s + done * self.hop)
        if views and state.gap:
            views = (replace(views[0], gap=True), *views[1:])
        return Seconds(kept, origin_s, done, sample.seq + 1, state.gap and not views), views

    def _after_gap(self, state: Seconds, sample: Sample) -> Seconds:
        silence_s = sample.t_s - state.rows[-1][0] if state.rows else 0.0
        fits = 0 <= silence_s <= (self.max_gap_s or self.length_s)
        return state if fits and not is_gap(state.next_seq, sample) else Seconds(gap=True)

    def _view(self, rows: tuple[Row, ...], start_s: float, sample: Sample) -> View:
        end_s = start_s + self.length_s
        times = np.array([t for t, _ in rows])
        data = np.stack([row for _, row in rows])
        if self.rate_hz == 0:
            inside = (times >= start_s) & (times < end_s)
            return View(frozen(data[inside]), start_s, end_s, sample.rate_hz, channels=sample.channels)
        grid = start_s + np.arange(round(self.length_s * self.rate_hz)) / self.rate_hz
        return View(frozen(self._resampled(times, data, grid)), start_s, end_s, self.rate_hz, channels=sample.channels)

    def _resampled(self, times: Array, data: Array, grid: Array) -> Array:
        if self.fill == "hold":
            return np.asarray(data[np.maximum(np.searchsorted(times, grid, side="right") - 1, 0)])
        return np.stack([np.interp(grid, times, column) for column in data.T], axis=1)


@dataclass(frozen=True, slots=True)
class ValueChange:
    """Gate: a view passes when a channel's mean differs by `delta` from that of the last view that passed.

    The first view passes. A view without a single reading does not.
    """

    delta: Annotated[float, Range(0)]
    """In the unit of the channel."""
    at_least_every_s: Annotated[float, Range(0, 1e7)] = 0.0
    """A view also passes when so much stream time went by since the last one that passed, seconds; 0: never."""

    def initial(self) -> tuple[float, Array] | None:
        return None

    def __call__(self, state: tuple[float, Array] | None, view: View, /) -> tuple[tuple[float, Array] | None, bool]:
        means = channel_means(view)
        if np.isnan(means).all():
            return state, False
        if state is not None:
            then_s, before = state
            due = self.at_least_every_s > 0 and view.t0_s - then_s >= self.at_least_every_s
            if not due and not (np.abs(means - before) >= self.delta).any():
                return state, False
            means = np.where(np.isnan(means), before, means)
        return (view.t0_s, means), True


@dataclass(frozen=True, slots=True)
class ValueLevel:
    """Gate: views pass while a channel's mean is at `above` or higher, or at `below` or lower."""

    above: float | None = None
    """In the unit of the channel."""
    below: float | None = None
    """In the unit of the channel."""
    hysteresis: Annotated[float, Range(0)] = 0.0
    """Once open, the gate closes when every channel is back inside by so much, in the unit of the channel."""

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError("one of the keys 'above' and 'below' is needed")

    def initial(self) -> bool:
        return False

    def __call__(self, state: bool, view: View, /) -> tuple[bool, bool]:
        means = channel_means(view)
        margin = self.hysteresis if state else 0.0
        high = self.above is not None and bool((means >= self.above - margin).any())
        low = self.below is not None and bool((means <= self.below + margin).any())
        return high or low, high or low


def channel_means(view: View) -> Array:
    """Mean of each channel's readings, float64 [channels]; NaN for a channel without any."""
    data = table(view)
    there = ~np.isnan(data)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, data, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def table(view: View) -> Array:
    """The view's data as float64 [rows, channels]; one row when it is a bare sample. Raises ConfigError."""
    data = np.asarray(view.data, np.float64)
    if data.ndim not in (1, 2):
        raise ConfigError(f"a series step got an array {list(data.shape)}: it takes rows of readings, [rows, channels]")
    return np.atleast_2d(data)


def channel(view: View, index: int) -> Channel:
    """Name and unit of a channel; "ch0", "ch1" ... when the source gave none."""
    return view.channels[index] if index < len(view.channels) else Channel(f"ch{index}")


def expect_series(sample: Sample, step: str) -> None:
    """Raise ConfigError unless `sample` is a row of readings."""
    if sample.modality != "series" or sample.data.ndim != 1:
        raise ConfigError(f"window '{step}': source '{sample.source}' delivers {sample.modality} "
                          f"{list(sample.data.shape)}: it needs rows of readings")  # fmt: skip


def _view(rows: tuple[Row, ...], sample: Sample, gap: bool) -> View:
    t0_s, t1_s = rows[0][0], rows[-1][0]
    rate_hz = sample.rate_hz or ((len(rows) - 1) / (t1_s - t0_s) if t1_s > t0_s else 0.0)
    end_s = t1_s + (1 / rate_hz if rate_hz else 0.0)
    return View(frozen(np.stack([row for _, row in rows])), t0_s, end_s, rate_hz, channels=sample.channels, gap=gap)


def _needed(rows: tuple[Row, ...], start_s: float) -> tuple[Row, ...]:
    """Rows from `start_s` on and the one before, which the first readings of the next view are made from."""
    first = next((i for i, (t, _) in enumerate(rows) if t > start_s), len(rows))
    return rows[max(0, first - 1) :]
