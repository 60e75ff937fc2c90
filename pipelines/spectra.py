"""Front ends for series: spectra, features of vibration, differences, standardising.

Owns the pre steps `spectrum`, `features`, `diff`, `standardise`, `select` and `flatten`. Each takes a view of readings
[rows, channels] (or [rows]) and keeps that form: axis 0 is time, frequency or feature, axis 1 the channel. They
compute in float64 and pass NaN on. Each raises ModelError when the view does not fit it.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np

from agent.errors import ModelError
from agent.records import Array, View
from agent.strict import Range
from pipelines.stream import frozen

Feature = Literal["mean", "std", "rms", "peak", "peak_to_peak", "crest", "skewness", "kurtosis"]

TINY = float(np.finfo(np.float64).tiny)
"""Keeps divisions by the spread of a constant signal finite."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Pre: one-sided spectrum of each channel, [rows // 2 + 1, channels] before `first`, `bins` and `bands`.

    magnitude: the amplitude of the sine of that frequency, in the channel's unit: 2 |X_k| / sum(w), at 0 Hz and at
    half the rate |X_k| / sum(w). power: its mean square, half the magnitude's square (its square at the two ends).
    X is the discrete Fourier transform of the readings times the window w.
    """

    kind: Literal["magnitude", "power"] = "magnitude"
    window: Literal["hann", "hamming", "none"] = "hann"
    """Taper, periodic form: 0.5 - 0.5 cos(2 pi i / n), 0.54 - 0.46 cos(2 pi i / n), or 1."""
    detrend: Literal["mean", "linear", "none"] = "mean"
    """What is taken away first: the mean, the least-squares line, nothing."""
    first: Annotated[int, Range(0, 1_000_000)] = 0
    """First bin that is kept; bin k lies at k * rate / rows."""
    bins: Annotated[int, Range(0, 1_000_000)] = 0
    """How many bins are kept from `first` on; 0: all."""
    bands: Annotated[int, Range(0, 1_000_000)] = 0
    """The kept bins are averaged in so many groups of equal size; 0: not at all."""
    log: bool = False
    """True: the decimal logarithm of what is above `floor`."""
    floor: Annotated[float, Range(1e-300)] = 1e-12
    """Smallest value whose logarithm is taken, in the unit of the spectrum."""

    def __call__(self, view: View, /) -> View:
        data = _readings(view, "spectrum")
        n = len(data)
        taper = _taper(self.window, n).reshape(-1, *[1] * (data.ndim - 1))
        size = np.abs(np.fft.rfft(_detrended(data, self.detrend) * taper, axis=0)) / taper.sum()
        inner = slice(1, n // 2 + n % 2)  # all but 0 Hz and, if there is one, half the rate
        size[inner] *= 2
        if self.kind == "power":
            size **= 2
            size[inner] /= 2
        size = self._kept(size)
        return _like(view, np.log10(np.maximum(size, self.floor)) if self.log else size)

    def _kept(self, size: Array) -> Array:
        kept = size[self.first : self.first + self.bins if self.bins else None]
        if len(kept) == 0 or (self.bins and len(kept) < self.bins):
            raise ModelError(f"step 'spectrum': there are {len(size)} bins, {self.bins or 1} from {self.first} on are "
                             "asked for: make the window longer or ask for fewer")  # fmt: skip
        if not self.bands:
            return kept
        if len(kept) % self.bands:
            raise ModelError(f"step 'spectrum': {len(kept)} bins do not make {self.bands} equal bands: set 'bins' to a "
                             "multiple")  # fmt: skip
        return np.asarray(kept.reshape(self.bands, -1, *kept.shape[1:]).mean(axis=1))


@dataclass(frozen=True, slots=True)
class Features:
    """Pre: numbers that describe the vibration in a window, [features, channels], in the order asked for.

    With x the readings minus their mean and s their standard deviation (divisor n): rms sqrt(mean x^2) of the readings
    minus the mean (equals std), peak max |x|, peak_to_peak max - min, crest peak / rms, skewness mean x^3 / s^3,
    kurtosis mean x^4 / s^4 (3 for noise, 1.5 for a sine, far above for impacts; 0 for a constant signal).
    """

    names: Annotated[tuple[Feature, ...], Range(1, 8)] = ("rms", "peak", "crest", "kurtosis")

    def __call__(self, view: View, /) -> View:
        data = _readings(view, "features")
        mean = data.mean(axis=0)
        x = data - mean
        spread, peak = np.sqrt((x**2).mean(axis=0)), np.abs(x).max(axis=0)
        unit = np.maximum(spread, TINY)
        made = {
            "mean": mean, "std": spread, "rms": spread, "peak": peak, "peak_to_peak": np.ptp(data, axis=0),
            "crest": peak / unit,
            "skewness": ((x / unit) ** 3).mean(axis=0), "kurtosis": ((x / unit) ** 4).mean(axis=0),
        }  # fmt: skip
        return _like(view, np.stack([made[name] for name in self.names]))


@dataclass(frozen=True, slots=True)
class Diff:
    """Pre: differences of neighbouring rows, `order` times; the view gets `order` rows shorter."""

    order: Annotated[int, Range(1, 8)] = 1

    def __call__(self, view: View, /) -> View:
        data = _readings(view, "diff")
        if len(data) <= self.order:
            raise ModelError(f"step 'diff': {len(data)} rows have no difference of order {self.order}: use more rows")
        return _like(view, np.diff(data, n=self.order, axis=0))


@dataclass(frozen=True, slots=True)
class Standardise:
    """Pre: (x - mean) / std, with figures from the manifest, or with those of the view itself when none are given.

    Given figures: one for all, or one for each value along the last axis (channel, or bin of a flat view).
    """

    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Range(1e-300)], ...] = ()
    floor: Annotated[float, Range(0)] = 0.0
    """Without given figures: least spread that a channel is divided by, in its unit; a constant channel becomes 0."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} stds: give as many of both, or none")

    def __call__(self, view: View, /) -> View:
        data = _readings(view, "standardise")
        if not self.mean:
            spread = np.maximum(data.std(axis=0), max(self.floor, TINY))
            return _like(view, (data - data.mean(axis=0)) / spread)
        if len(self.mean) not in (1, data.shape[-1]):
            raise ModelError(f"step 'standardise': {len(self.mean)} means for {data.shape[-1]} values: give one, or as "
                             "many as there are")  # fmt: skip
        return _like(view, (data - np.array(self.mean)) / np.array(self.std))


@dataclass(frozen=True, slots=True)
class Select:
    """Pre: the named channels, in the order named."""

    channels: Annotated[tuple[Annotated[str, Range(1, 200)], ...], Range(1, 1000)]

    def __call__(self, view: View, /) -> View:
        names = [c.name for c in view.channels]
        missing = [name for name in self.channels if name not in names]
        if missing:
            raise ModelError(f"step 'select': no channel '{missing[0]}' among {', '.join(names) or 'none'}")
        at = [names.index(name) for name in self.channels]
        return replace(_like(view, view.data[..., at]), channels=tuple(view.channels[i] for i in at))


@dataclass(frozen=True, slots=True)
class Flatten:
    """Pre: all values in one row, channel after channel of each time step (row-major)."""

    def __call__(self, view: View, /) -> View:
        return _like(view, np.ascontiguousarray(view.data).reshape(-1))


def _readings(view: View, step: str) -> Array:
    data = np.asarray(view.data, np.float64)
    if data.ndim not in (1, 2) or len(data) == 0:
        raise ModelError(f"step '{step}': the view is {list(data.shape)}: it takes [rows, channels], one row or more")
    return data


def _taper(name: str, n: int) -> Array:
    share = {"hann": 0.5, "hamming": 0.46, "none": 0.0}[name]
    turn = 2 * np.pi * np.arange(n) / n if n > 1 else np.full(n, np.pi / 2)
    taper: Array = 1 - share - share * np.cos(turn)
    return taper


def _detrended(data: Array, how: str) -> Array:
    if how == "none":
        return data
    level: Array = data - data.mean(axis=0)
    if how == "mean" or len(data) < 2:
        return level
    t = np.arange(len(data)) - (len(data) - 1) / 2
    return np.asarray(level - np.multiply.outer(t, t @ level / (t @ t)))


def _like(view: View, data: Array) -> View:
    return replace(view, data=frozen(data))
