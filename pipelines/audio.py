"""Audio: how a stream of samples becomes views, which of them are worth a model, and what a keyword model said.

Owns: the window `frames`, the gate `level`, the decoder `keyword`. Front ends live in `pipelines.audio_features`.
Rules: positions are whole samples, never rounded times, so that a year of windows does not drift; no view spans a
gap; smoothing over consecutive views is a rule's business (n of m), because decoders remember nothing.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from agent.errors import ConfigError, ModelError
from agent.records import Array, Finding, Sample, Tensors, View
from agent.strict import Range
from pipelines.outputs import chosen
from pipelines.stream import frozen, is_gap

FULL_SCALE = 32768.0
"""The int16 value that a full-scale signal reaches; 0 dBFS is a square wave of that height (a full sine reads -3.0)."""

_Rate = Annotated[int, Range(1000, 192_000)]


@dataclass(frozen=True, slots=True)
class Held:
    """What a window over samples remembers: samples that the next views still need."""

    samples: Array
    """int16 [n], oldest first."""
    t0_s: float = 0.0
    """Stream time of the first held sample."""
    skip: int = 0
    """Samples still to be passed over before the next view begins (a hop longer than the window)."""
    next_seq: int | None = None
    """The `seq` that follows without loss; None before the first sample."""
    gap: bool = False
    """True until the first view after a gap is out."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Window: views of `length_s` every `hop_s`, cut from the stream at exact samples.

    View data: int16 [length_s * rate_hz], read-only. A gap, or a `seq` that jumps, drops what is held and starts anew.
    Raises ConfigError when the source delivers another rate or another kind of sample.
    """

    length_s: Annotated[float, Range(0.001, 60)]
    """Length of a view, seconds; times the rate it must be a whole number of samples."""
    hop_s: Annotated[float, Range(0.001, 60)]
    """From the start of a view to the start of the next, seconds; shorter overlaps, longer leaves out."""
    lead_s: Annotated[float, Range(0, 10)] = 0.0
    """Silence put before a stream and after each gap, seconds: context for models that look back."""
    rate_hz: _Rate = 16_000
    """What the source must deliver, samples per second."""

    def __post_init__(self) -> None:
        for name in ("length_s", "hop_s", "lead_s"):
            count = getattr(self, name) * self.rate_hz
            if abs(count - round(count)) > 1e-6:
                raise ValueError(f"key '{name}': {getattr(self, name)} s is {count:g} samples at {self.rate_hz} Hz: "
                                 "it must be a whole number of samples")  # fmt: skip

    @property
    def length(self) -> int:
        return round(self.length_s * self.rate_hz)

    @property
    def hop(self) -> int:
        return round(self.hop_s * self.rate_hz)

    def initial(self) -> Held:
        return Held(np.zeros(round(self.lead_s * self.rate_hz), np.int16))

    def __call__(self, state: Held, sample: Sample, /) -> tuple[Held, tuple[View, ...]]:
        expect_audio(sample, self.rate_hz, "frames")
        if is_gap(state.next_seq, sample):
            state = replace(self.initial(), gap=True)
        skipped = min(state.skip, len(sample.data))
        pool = frozen(np.concatenate((state.samples, sample.data[skipped:])))
        t0_s = sample.t_s + (skipped - len(state.samples)) / self.rate_hz
        count = max(0, (len(pool) - self.length) // self.hop + 1)
        views = tuple(self._view(pool, i * self.hop, t0_s, state.gap and i == 0) for i in range(count))
        used = count * self.hop
        return Held(
            samples=pool[used:].copy(), t0_s=t0_s + used / self.rate_hz,
            skip=state.skip - skipped + max(0, used - len(pool)),
            next_seq=sample.seq + 1, gap=state.gap and not views,
        ), views  # fmt: skip

    def _view(self, pool: Array, at: int, t0_s: float, gap: bool) -> View:
        t0_s += at / self.rate_hz
        return View(pool[at : at + self.length], t0_s, t0_s + self.length / self.rate_hz, float(self.rate_hz), gap=gap)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the level gate remembers: whether it is open, and until when at least (stream seconds)."""

    is_open: bool = False
    until_s: float = -np.inf


@dataclass(frozen=True, slots=True)
class Level:
    """Gate: lets a view pass when its loudest block is loud enough, and for a while after.

    The level of a block is 20 log10(rms / 32768) dBFS. The gate opens at `open_dbfs`, stays open down to `close_dbfs`
    (hysteresis), and stays open for `hangover_s` of stream time after the level fell below that.
    """

    open_dbfs: Annotated[float, Range(-120, 0)] = -45.0
    """The gate opens at this level."""
    close_dbfs: Annotated[float, Range(-120, 0)] = -50.0
    """Below this level it closes, once the hangover is over."""
    hangover_s: Annotated[float, Range(0, 60)] = 0.5
    """How long it stays open; at least m views of a rule, or the rule never sees that a word is over."""
    block_s: Annotated[float, Range(0, 60)] = 0.05
    """A word is shorter than its view: the loudest block of this length counts; 0: the whole view is one block."""

    def __post_init__(self) -> None:
        if self.close_dbfs > self.open_dbfs:
            raise ValueError(f"key 'close_dbfs': {self.close_dbfs:g} is above open_dbfs = {self.open_dbfs:g}: lower it")

    def initial(self) -> Heard:
        return Heard()

    def __call__(self, state: Heard, view: View, /) -> tuple[Heard, bool]:
        level = level_dbfs(view, self.block_s)
        if level >= (self.close_dbfs if state.is_open else self.open_dbfs):
            return Heard(True, view.t1_s + self.hangover_s), True
        still = state.is_open and view.t1_s <= state.until_s
        return Heard(still, state.until_s), still


@dataclass(frozen=True, slots=True)
class Keyword:
    """Decoder: names the word that a keyword model heard.

    The best score of all labels wins; it is a finding if it reaches `threshold` and its label is not in `ignore`, so
    that a strong "unknown" silences a weak word. Labels that the model lacks in `ignore` are refused when it runs.
    The finding's interval is that of the view. Raises ModelError when output and labels do not fit.
    """

    threshold: Annotated[float, Range(0, 1)] = 0.5
    """Least score of a finding."""
    ignore: tuple[str, ...] = ()
    """Labels that are never reported, e.g. "silence", "unknown"."""
    top: Annotated[int, Range(1, 100)] = 1
    """How many labels are reported at most, best first."""
    output: str = ""
    """The port that holds one probability per label; empty: the first."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        scores = self._scores(outputs, labels)
        order = np.argsort(-scores, kind="stable")[: self.top]
        if labels[order[0]] in self.ignore:
            return ()
        return tuple(
            Finding(labels[i], float(scores[i]), interval=(view.t0_s, view.t1_s))
            for i in order
            if scores[i] >= self.threshold and labels[i] not in self.ignore
        )

    def _scores(self, outputs: Tensors, labels: tuple[str, ...]) -> Array:
        name = chosen(outputs, self.output, "keyword")
        scores = np.asarray(outputs[name], np.float32).reshape(-1)
        if len(scores) != len(labels):
            raise ModelError(f"decoder 'keyword': output '{name}' has {len(scores)} values for {len(labels)} labels: "
                             "list one label per value in model.toml")  # fmt: skip
        strange = [label for label in self.ignore if label not in labels]
        if strange:
            raise ModelError(f"decoder 'keyword': key 'ignore': '{strange[0]}' is none of the model's labels")
        return scores


def level_dbfs(view: View, block_s: float = 0.0) -> float:
    """Level of the loudest block of `block_s` seconds (0: of the whole view), dBFS; -inf for digital silence.

    The view's mean is taken out first: many cheap microphones have a constant offset, which nobody hears.
    Raises ConfigError when the view holds no samples but features: a level gate needs the window `frames`.
    """
    if view.data.ndim != 1 or view.data.dtype != np.int16:
        raise ConfigError("gate 'level': this view holds no int16 samples: use the window step 'frames' with it")
    block = min(len(view.data), round(block_s * view.rate_hz)) or len(view.data)
    if block == 0:
        return -np.inf
    power = np.square(view.data - view.data.mean(dtype=np.float64))
    whole = len(power) // block * block
    loudest = max(power[:whole].reshape(-1, block).mean(axis=1).max(), power[-block:].mean())
    return float(10 * np.log10(loudest / FULL_SCALE**2)) if loudest > 0 else -np.inf


def expect_audio(sample: Sample, rate_hz: int, step: str) -> None:
    """Raise ConfigError unless `sample` is mono audio at `rate_hz`."""
    if sample.modality != "audio" or sample.data.ndim != 1:
        raise ConfigError(f"window '{step}': source '{sample.source}' delivers {sample.modality} "
                          f"{list(sample.data.shape)}: it needs mono audio")  # fmt: skip
    if sample.rate_hz != rate_hz:
        raise ConfigError(f"window '{step}': source '{sample.source}' delivers {sample.rate_hz:g} Hz, the window "
                          f"is for {rate_hz} Hz: set the source's rate_hz to it, or the window's")  # fmt: skip
