"""The speech front end of models for microcontrollers: filter bank, noise reduction, automatic gain, logarithm.

Owns the window `micro_frames`. Models trained on these features know nothing else, so they must come out as on the
microcontroller, in whole numbers (`pipelines.fixed_point`): of features recorded there, 99.7 % came out bit for bit,
the others a step or a few apart, most where a band is nearly silent. The noise estimate remembers: it goes from frame
to frame and starts anew at a gap.
Source: the microfrontend of TensorFlow Lite for Microcontrollers, with the names and defaults of its settings.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np

from agent.records import Array, Sample, View
from agent.strict import Range
from pipelines.audio import expect_audio
from pipelines.fixed_point import bits, gain, gain_curve, log_scaled, real_fft, root
from pipelines.outputs import Share
from pipelines.stream import frozen, is_gap

WEIGHT_BITS = 12
"""Bits of the taper and of the filter bank."""
NOISE_BITS = 14
"""Bits behind the point of the noise estimate's coefficients."""
SNR_BITS, GAINED_BITS = 12, 6
"""Bits behind the point of the ratio of signal to noise, and of the signal after the gain."""


@dataclass(frozen=True, slots=True)
class Featured:
    """What `micro_frames` remembers."""

    samples: Array
    """int16 [n] without a frame yet."""
    rows: Array
    """[frames, channels] that the next views need."""
    noise: Array
    """int64 [channels]: the noise estimate, times 2^smoothing_bits."""
    next_seq: int | None = None
    gap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroFrames:
    """Window: views of the last `frames` feature rows of the front end for microcontrollers, one every `hop_frames`.

    View data: float32 [frames, channels], the logarithms times `scale`; with `levels` "int8" int8 as micro_speech feeds
    them. Read-only. Raises ConfigError when the source delivers another rate or another kind of sample.
    """

    frames: Annotated[int, Range(1, 1000)]
    """Rows of a view."""
    hop_frames: Annotated[int, Range(1, 1000)] = 1
    """From the first row of a view to that of the next; at most `frames`."""
    rate_hz: Annotated[int, Range(1000, 48_000)] = 16_000
    """What the source must deliver, samples per second."""
    frame_length: Annotated[int, Range(16, 4096)] = 480
    """Samples of a row."""
    frame_step: Annotated[int, Range(16, 4096)] = 320
    """Samples from row to row; at most frame_length."""
    channels: Annotated[int, Range(1, 128)] = 40
    """Bands of the filter bank."""
    lower_band_limit_hz: Annotated[float, Range(0, 24_000)] = 125.0
    """Where the lowest band begins."""
    upper_band_limit_hz: Annotated[float, Range(1, 24_000)] = 7500.0
    """Where the highest band ends."""
    smoothing_bits: Annotated[int, Range(7, 16)] = 10
    """Fraction bits of the noise estimate."""
    even_smoothing: Share = 0.025
    """How fast the noise estimate of even channels follows the signal, share per row."""
    odd_smoothing: Share = 0.06
    """The same of odd channels."""
    min_signal_remaining: Share = 0.05
    """Least share of the signal that noise reduction leaves."""
    pcan: bool = True
    """False: no automatic gain."""
    strength: Annotated[float, Range(0, 4)] = 0.95
    """Exponent of the automatic gain."""
    offset: Annotated[float, Range(0, 1e6)] = 80.0
    """Added to the noise estimate before it."""
    gain_bits: Annotated[int, Range(16, 30)] = 21
    """Fraction bits of the gain."""
    scale_shift: Annotated[int, Range(0, 16)] = 6
    """Rows are natural logarithms times two to this."""
    scale: Annotated[float, Range(1e-6, 1)] = 0.0390625
    """Then they are multiplied by it, 1 / 25.6 as in training."""
    levels: Literal["real", "int8"] = "real"
    """int8: (value * 256 + 333) / 666 - 128, clipped, of the values before `scale`."""

    def __post_init__(self) -> None:
        if self.hop_frames > self.frames:
            raise ValueError(f"key 'hop_frames': {self.hop_frames} is more than frames = {self.frames}")
        if self.frame_step > self.frame_length:
            raise ValueError(f"key 'frame_step': {self.frame_step} is more than frame_length = {self.frame_length}")
        if not self.lower_band_limit_hz < self.upper_band_limit_hz <= self.rate_hz / 2:
            raise ValueError(f"key 'upper_band_limit_hz': {self.upper_band_limit_hz:g} must lie above the lower limit "
                             "and not above half the rate")  # fmt: skip

    @property
    def fft_size(self) -> int:
        """The least size of the transform, twice a power of four, that holds a frame."""
        size = 32
        while size < self.frame_length:
            size *= 4
        return size

    @property
    def correction_bits(self) -> int:
        """By how many bits the transform's own scale is above that of the filter bank."""
        return self.fft_size.bit_length() - 1 - WEIGHT_BITS // 2

    def initial(self) -> Featured:
        dtype = np.int8 if self.levels == "int8" else np.float32
        rows, noise = np.empty((0, self.channels), dtype), np.zeros(self.channels, np.int64)
        return Featured(np.empty(0, np.int16), rows, noise)

    def __call__(self, state: Featured, sample: Sample, /) -> tuple[Featured, tuple[View, ...]]:
        expect_audio(sample, self.rate_hz, "micro_frames")
        if is_gap(state.next_seq, sample):
            state = replace(self.initial(), gap=True)
        pool = np.concatenate((state.samples, sample.data))
        begun_s = sample.t_s - (len(state.samples) + len(state.rows) * self.frame_step) / self.rate_hz
        count = max(0, (len(pool) - self.frame_length) // self.frame_step + 1)
        fresh, noise = self._rows(pool, count, state.noise)
        rows = frozen(np.concatenate((state.rows, fresh)))
        views = self._views(rows, begun_s, state.gap)
        return Featured(
            pool[count * self.frame_step :].copy(), rows[len(views) * self.hop_frames :].copy(), noise,
            sample.seq + 1, state.gap and not views,
        ), views  # fmt: skip

    def _views(self, rows: Array, begun_s: float, gap: bool) -> tuple[View, ...]:
        count = max(0, (len(rows) - self.frames) // self.hop_frames + 1)
        step_s = self.frame_step / self.rate_hz
        length_s = ((self.frames - 1) * self.frame_step + self.frame_length) / self.rate_hz
        starts = [i * self.hop_frames for i in range(count)]
        return tuple(
            View(rows[at : at + self.frames], begun_s + at * step_s, begun_s + at * step_s + length_s,
                 float(self.rate_hz), gap=gap and at == 0)
            for at in starts
        )  # fmt: skip

    def _rows(self, pool: Array, count: int, noise: Array) -> tuple[Array, Array]:
        """[count, channels] features of the next frames, and the noise estimate after them."""
        if not count:
            return self.initial().rows, noise
        frames = np.lib.stride_tricks.sliding_window_view(pool, self.frame_length)[:: self.frame_step][:count]
        features = []
        for heard in self.bands(frames):
            signal, noise = self._reduced(heard, noise)
            features.append(self._gained(signal, noise) if self.pcan else signal)
        return self._scaled(np.array(features)), noise

    def bands(self, frames: Array) -> Array:
        """[..., frame_length] int16 -> [..., channels] amplitudes, int64."""
        taper, weights = _tables(self)
        tapered = (frames.astype(np.int64) * taper) >> WEIGHT_BITS
        shift = 15 - bits(np.abs(tapered).max(axis=-1, keepdims=True))
        padded = np.zeros((*frames.shape[:-1], self.fft_size), np.int64)
        padded[..., : self.frame_length] = (tapered << shift).clip(-32768, 32767)
        re, im = real_fft(padded)
        return np.asarray(root((re * re + im * im) @ weights) >> shift)

    def _reduced(self, signal: Array, noise: Array) -> tuple[Array, Array]:
        """The signal above the noise, and the noise as it is known now."""
        one = 1 << NOISE_BITS
        follow = np.where(np.arange(self.channels) % 2, int(self.odd_smoothing * one), int(self.even_smoothing * one))
        up = signal << self.smoothing_bits
        noise = (up * follow + noise * (one - follow)) >> NOISE_BITS
        above = (up - np.minimum(noise, up)) >> self.smoothing_bits
        return np.maximum(above, (signal * int(self.min_signal_remaining * one)) >> NOISE_BITS), noise

    def _gained(self, signal: Array, noise: Array) -> Array:
        """Quiet bands raised, loud ones lowered, by what is usual in each."""
        curve = gain_curve(self.strength, self.offset, self.gain_bits, self.smoothing_bits - self.correction_bits)
        snr = (signal * gain(noise, curve)) >> (self.gain_bits - self.correction_bits - SNR_BITS)
        low = (snr * snr) >> (2 + 2 * SNR_BITS - GAINED_BITS)
        return np.where(snr < 2 << SNR_BITS, low, (snr >> (SNR_BITS - GAINED_BITS)) - (1 << GAINED_BITS))

    def _scaled(self, signal: Array) -> Array:
        logs = np.minimum(log_scaled(signal << self.correction_bits, self.scale_shift), 0xFFFF)
        if self.levels == "int8":
            return ((logs * 256 + 333) // 666 - 128).clip(-128, 127).astype(np.int8)
        return (logs * self.scale).astype(np.float32)


@lru_cache(maxsize=8)
def _tables(spec: MicroFrames) -> tuple[Array, Array]:
    """The taper [frame_length] and the filter bank [fft_size / 2 + 1, channels], both times 2^12."""
    turn = 2 * np.pi / spec.frame_length * (np.arange(spec.frame_length) + 0.5)
    taper = np.floor((0.5 - 0.5 * np.cos(turn)) * (1 << WEIGHT_BITS) + 0.5).astype(np.int64)
    return taper, _filter_bank(spec)


def _filter_bank(spec: MicroFrames) -> Array:
    """Triangles with straight sides over mel; the two sides of a bin are rounded each on its own."""
    step_hz = spec.rate_hz / spec.fft_size
    low, high = (1127.0 * np.log1p(hz / 700.0) for hz in (spec.lower_band_limit_hz, spec.upper_band_limit_hz))
    edges = low + (high - low) / (spec.channels + 1) * np.arange(spec.channels + 2)
    mel = 1127.0 * np.log1p(np.arange(spec.fft_size // 2 + 1) * step_hz / 700.0)
    weights = np.zeros((len(mel), spec.channels + 2), np.int64)
    for bin_ in range(int(1.5 + spec.lower_band_limit_hz / step_hz), len(mel)):
        part = int(np.searchsorted(edges, mel[bin_], side="right"))
        if part >= len(edges):
            break
        fall = (edges[part] - mel[bin_]) / (edges[part] - edges[part - 1])
        weights[bin_, part - 1] = int(fall * (1 << WEIGHT_BITS) + 0.5)
        weights[bin_, part] = int((1 - fall) * (1 << WEIGHT_BITS) + 0.5)
    return weights[:, 1:-1]
