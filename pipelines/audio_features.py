"""Front ends of speech and sound models: log-mel spectrograms and mel-frequency cepstral coefficients.

Owns: the pre steps `log_mel`, `mfcc` and `waveform`. Every parameter in which public models differ is a
key, named as the field names it; tests/manifests holds the settings of some well-known front ends.
Rules: all arithmetic is float32 on whole arrays; tables (`pipelines.mel`) are computed once per setting. Everything
takes leading dimensions too, so that a training program runs the very code that the device runs.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np

from agent.errors import ConfigError
from agent.records import Array, View
from agent.strict import Range
from pipelines.audio import FULL_SCALE
from pipelines.mel import DctNorm, MelNorm, MelScale, MelSlope, Taper, cosines, mel_weights, taper

_Samples = Annotated[int, Range(1, 65_536)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MelSpectrum:
    """What the log-mel steps share, in the order in which it happens.

    Samples are scaled, divided by their peak, emphasised, framed, tapered and transformed; the spectrum is weighed
    into mel bands, the logarithm taken, normalised, then (value + shift) * gain, clipped.
    """

    rate_hz: Annotated[int, Range(1000, 192_000)] = 16_000
    """What the view must hold, samples per second."""
    sample_scale: Literal["unit", "int16"] = "unit"
    """unit: int16 samples are divided by 32768 first; int16: taken as the numbers they are."""
    peak: Literal["none", "max", "max_abs"] = "none"
    """Divide the view by its largest sample, or by its largest magnitude (silence stays as it is)."""
    pre_emphasis: Annotated[float, Range(0, 1)] = 0.0
    """a in y[n] = x[n] - a x[n-1]; the first sample keeps its value."""
    pre_emphasis_over: Literal["stream", "frame"] = "stream"
    """frame: each frame by itself, its first sample times (1 - a), as Kaldi does."""
    remove_dc: bool = False
    """Subtract each frame's mean."""
    frame_length: _Samples
    """Samples in a frame."""
    frame_step: _Samples
    """Samples from frame to frame."""
    fft_length: _Samples
    """Frames are filled up with zeros to this length."""
    window: Taper = "hann_periodic"
    """The taper of a frame; most training programs use the periodic kind."""
    pad: Literal["none", "zero", "reflect"] = "none"
    """none: the first frame begins with the view; else frames are centred, and this stands beyond the view's ends."""
    spectrum: Literal["magnitude", "power"] = "power"
    """The magnitude of each bin, or its square."""
    spectrum_gain: Annotated[float, Range(0, 1e9)] = 1.0
    """The spectrum is multiplied by it, e.g. 1 / fft_length."""
    mel_bins: Annotated[int, Range(1, 1024)]
    """How many mel bands."""
    mel_scale: MelScale = "htk"
    """htk: 2595 log10(1 + f / 700); slaney: straight up to 1 kHz, logarithmic above."""
    mel_slope: MelSlope = "mel"
    """Whether the triangles have straight sides over mel (TensorFlow, Kaldi) or over Hz (librosa, torchaudio)."""
    mel_norm: MelNorm = "none"
    """slaney: triangles of equal area, 2 / width in Hz."""
    f_min_hz: Annotated[float, Range(0, 96_000)]
    """Where the lowest band begins."""
    f_max_hz: Annotated[float, Range(1, 96_000)]
    """Where the highest band ends."""
    log: Literal["none", "ln", "log10", "db"] = "ln"
    """db: 10 log10."""
    log_offset: Annotated[float, Range(0, 1e9)] = 0.0
    """Added before the logarithm."""
    log_floor: Annotated[float, Range(1e-37, 1e9)] = 1e-30
    """Smaller values are raised to it before the logarithm."""
    log_range: Annotated[float, Range(0, 1000)] = 0.0
    """Values further than this below the view's largest are raised to that; 0: off."""
    normalise: Literal["none", "band_mean", "band_mean_std"] = "none"
    """Per mel band over the view: take out the mean, which takes out the microphone; then divide by the deviation."""
    shift: float = 0.0
    """Added to every value, in the unit of the logarithm."""
    gain: float = 1.0
    """Then every value is multiplied by it."""
    clip: tuple[float, float] | None = None
    """Lowest and highest value after shift and gain."""
    frames: Annotated[int, Range(0, 65_536)] = 0
    """How many frames come out, the first ones; 0: all that fit."""

    def __post_init__(self) -> None:
        if self.fft_length < self.frame_length:
            raise ValueError(f"key 'fft_length': {self.fft_length} is shorter than frame_length = {self.frame_length}")
        if not self.f_min_hz < self.f_max_hz <= self.rate_hz / 2:
            raise ValueError(f"key 'f_max_hz': {self.f_max_hz:g} must lie above f_min_hz = {self.f_min_hz:g} "
                             f"and not above half the rate, {self.rate_hz / 2:g}")  # fmt: skip

    def log_mel(self, samples: Array) -> Array:
        """[..., n] int16 or float samples -> [..., frames, mel_bins] float32. Raises ConfigError when too few."""
        mel = self.mel(self.framed(self.emphasised(self.scaled(samples))))
        if mel.shape[-2] < max(1, self.frames):
            raise ConfigError(f"front end: {samples.shape[-1]} samples make {mel.shape[-2]} frames, "
                              f"{max(1, self.frames)} are needed: make the window longer")  # fmt: skip
        return self.finished(mel[..., : self.frames or None, :])

    def samples_of(self, view: View) -> Array:
        """The samples of a view. Raises ConfigError when it holds none, or has another rate."""
        if view.data.ndim != 1 or view.rate_hz != self.rate_hz:
            raise ConfigError(f"front end: the view has shape {list(view.data.shape)} at {view.rate_hz:g} Hz: "
                              f"it needs [samples] at {self.rate_hz} Hz")  # fmt: skip
        return view.data

    def scaled(self, samples: Array) -> Array:
        """[..., n] samples -> float32 of the wanted scale, divided by the view's peak if asked to."""
        x = samples.astype(np.float32)
        if self.sample_scale == "unit" and samples.dtype == np.int16:
            x *= np.float32(1 / FULL_SCALE)
        if self.peak != "none":
            top = (np.abs(x) if self.peak == "max_abs" else x).max(axis=-1, keepdims=True)
            x /= np.where(top > 0, top, np.float32(1))
        return x

    def emphasised(self, x: Array, before: float | None = None) -> Array:
        """`before` is the sample in front of `x`; None at the start, where the first sample keeps its value."""
        if not self.pre_emphasis or self.pre_emphasis_over == "frame":
            return x
        y = x.copy()
        y[..., 1:] -= np.float32(self.pre_emphasis) * x[..., :-1]
        if before is not None:
            y[..., :1] -= np.float32(self.pre_emphasis) * np.float32(before)
        return y

    def framed(self, x: Array) -> Array:
        """[..., n] -> a read-only view [..., frames, frame_length] of the frames that fit."""
        if self.pad != "none":
            beyond = [(0, 0)] * (x.ndim - 1) + [(self.frame_length // 2,) * 2]
            x = np.pad(x, beyond, mode="constant" if self.pad == "zero" else "reflect")
        if x.shape[-1] < self.frame_length:
            return np.empty((*x.shape[:-1], 0, self.frame_length), np.float32)
        return np.lib.stride_tricks.sliding_window_view(x, self.frame_length, axis=-1)[..., :: self.frame_step, :]

    def mel(self, frames: Array) -> Array:
        """[..., frames, frame_length] -> logarithms [..., frames, mel_bins]."""
        if self.remove_dc:
            frames = frames - frames.mean(axis=-1, keepdims=True)
        if self.pre_emphasis and self.pre_emphasis_over == "frame":
            before = np.concatenate((frames[..., :1], frames[..., :-1]), axis=-1)
            frames = frames - np.float32(self.pre_emphasis) * before
        curve, weights = _tables(self)
        bins = np.fft.rfft(frames * curve, n=self.fft_length, axis=-1)
        power = bins.real**2 + bins.imag**2
        heights = np.sqrt(power) if self.spectrum == "magnitude" else power
        return self._logarithm(heights @ weights)

    def _logarithm(self, mel: Array) -> Array:
        if self.log == "none":
            return mel
        raised = np.maximum(mel + np.float32(self.log_offset), np.float32(self.log_floor))
        if self.log == "ln":
            return np.log(raised)
        return np.log10(raised) * np.float32(10 if self.log == "db" else 1)

    def finished(self, mel: Array) -> Array:
        """Normalise, shift, scale and clip."""
        if self.log_range:
            mel = np.maximum(mel, mel.max(axis=(-2, -1), keepdims=True) - np.float32(self.log_range))
        if self.normalise != "none":
            mel = mel - mel.mean(axis=-2, keepdims=True)
        if self.normalise == "band_mean_std":
            mel = mel / (mel.std(axis=-2, keepdims=True) + np.float32(1e-5))
        out = (mel + np.float32(self.shift)) * np.float32(self.gain)
        return out if self.clip is None else out.clip(np.float32(self.clip[0]), np.float32(self.clip[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMel(MelSpectrum):
    """Pre: samples -> log-mel spectrogram, float32 [frames, mel_bins]."""

    def __call__(self, view: View, /) -> View:
        return replace(view, data=self.log_mel(self.samples_of(view)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mfcc(MelSpectrum):
    """Pre: samples -> mel-frequency cepstral coefficients, float32 [frames, coefficients]."""

    coefficients: Annotated[int, Range(1, 1024)]
    """How many are kept, the lowest ones."""
    dct_norm: DctNorm = "htk"
    """Factor of the type-II transform: htk sqrt(2/N) (tf.signal), ortho sqrt(1/N) for the first, none 2 (SciPy)."""
    lifter: Annotated[float, Range(0, 1000)] = 0.0
    """L in 1 + L/2 sin(pi k / L), the weight of coefficient k; 0: none."""

    def __post_init__(self) -> None:
        MelSpectrum.__post_init__(self)
        if self.coefficients > self.mel_bins:
            raise ValueError(f"key 'coefficients': {self.coefficients} is more than mel_bins = {self.mel_bins}")

    def __call__(self, view: View, /) -> View:
        return replace(view, data=self.mfcc(self.samples_of(view)))

    def mfcc(self, samples: Array) -> Array:
        """[..., n] samples -> [..., frames, coefficients] float32. Raises ConfigError when there are too few."""
        return self.log_mel(samples) @ cosines(self.mel_bins, self.coefficients, self.dct_norm, self.lifter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """Pre: samples as numbers, float32 [samples], for models with a front end of their own."""

    sample_scale: Literal["unit", "int16"] = "unit"
    """unit: int16 samples are divided by 32768; int16: taken as the numbers they are."""
    peak: Literal["none", "max_abs"] = "none"
    """max_abs: divide the view by its largest magnitude (silence stays as it is)."""

    def __call__(self, view: View, /) -> View:
        if view.data.ndim != 1:
            raise ConfigError(f"step 'waveform': the view is {list(view.data.shape)}: it needs [samples]: put it first")
        x = view.data.astype(np.float32)
        if self.sample_scale == "unit" and view.data.dtype == np.int16:
            x *= np.float32(1 / FULL_SCALE)
        top = np.abs(x).max(initial=0.0) if self.peak == "max_abs" else 0.0
        return replace(view, data=x / top if top > 0 else x)


@lru_cache(maxsize=32)
def _tables(spec: MelSpectrum) -> tuple[Array, Array]:
    """The taper, float32 [frame_length], and the mel weights with the spectrum's gain, float32 [bins, mel_bins]."""
    weights = mel_weights(
        spec.rate_hz, spec.fft_length, spec.mel_bins, (spec.f_min_hz, spec.f_max_hz),
        scale=spec.mel_scale, slope=spec.mel_slope, norm=spec.mel_norm,
    )  # fmt: skip
    return taper(spec.window, spec.frame_length).astype(np.float32), (weights * spec.spectrum_gain).astype(np.float32)
