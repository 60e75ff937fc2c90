"""The front end of a streaming model: log-mel frames, each computed once, however much the views overlap.

Owns: the window `log_mel_frames`. A model that slides by one frame would otherwise compute each frame as often as a
view has frames. Refuses the keys that look at a whole view; no view spans a gap.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from agent.records import Array, Sample, View
from agent.strict import Range
from pipelines.audio import expect_audio
from pipelines.audio_features import MelSpectrum
from pipelines.stream import frozen, is_gap


@dataclass(frozen=True, slots=True)
class Rolling:
    """What `log_mel_frames` remembers: emphasised samples without a frame yet, and frames that the next views need."""

    samples: Array
    """float32 [n]."""
    mel: Array
    """float32 [frames, mel_bins], oldest first."""
    last: float | None = None
    """The last sample before emphasis; None at the start of a stream."""
    skip: int = 0
    """Samples still to be passed over (frame_step longer than frame_length)."""
    next_seq: int | None = None
    gap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMelFrames(MelSpectrum):
    """Window: views of the last `frames` log-mel frames, one every `hop_frames`; each frame is computed once.

    View data: float32 [frames, mel_bins], read-only. The same numbers as `log_mel` over the same samples of the stream.
    Keys that look at a whole view (peak, pad, log_range, normalise) are refused: use `frames` and `log_mel` for them.
    """

    hop_frames: Annotated[int, Range(1, 65_536)] = 1
    """From the first frame of a view to that of the next; at most `frames`."""

    def __post_init__(self) -> None:
        MelSpectrum.__post_init__(self)
        whole = [key for key in ("peak", "pad", "normalise", "log_range") if getattr(self, key) not in ("none", 0)]
        if whole:
            raise ValueError(f"key '{whole[0]}': it needs the whole view: use window 'frames' and pre step 'log_mel'")
        if not 1 <= self.hop_frames <= self.frames:
            raise ValueError(f"key 'frames': {self.frames} must be at least hop_frames = {self.hop_frames}")

    def initial(self) -> Rolling:
        return Rolling(np.empty(0, np.float32), np.empty((0, self.mel_bins), np.float32))

    def __call__(self, state: Rolling, sample: Sample, /) -> tuple[Rolling, tuple[View, ...]]:
        expect_audio(sample, self.rate_hz, "log_mel_frames")
        if is_gap(state.next_seq, sample):
            state = replace(self.initial(), gap=True)
        state = replace(state, next_seq=sample.seq + 1)
        return self._cut(self._added(state, sample), sample) if len(sample.data) else (state, ())

    def _added(self, state: Rolling, sample: Sample) -> Rolling:
        """The state with the new samples turned into as many frames as they complete."""
        x = self.scaled(sample.data)
        pool = np.concatenate((state.samples, self.emphasised(x, state.last)[state.skip :]))
        fresh = self.finished(self.mel(self.framed(pool)))
        used = len(fresh) * self.frame_step
        return replace(
            state, samples=pool[used:].copy(), mel=np.concatenate((state.mel, fresh)), last=float(x[-1]),
            skip=max(0, state.skip - len(x)) + max(0, used - len(pool)),
        )  # fmt: skip

    def _cut(self, state: Rolling, sample: Sample) -> tuple[Rolling, tuple[View, ...]]:
        mel = frozen(state.mel)
        ahead = len(state.samples) - state.skip + len(mel) * self.frame_step
        t0_s = sample.t_s + (len(sample.data) - ahead) / self.rate_hz
        count = max(0, (len(mel) - self.frames) // self.hop_frames + 1)
        step_s = self.frame_step / self.rate_hz
        length_s = ((self.frames - 1) * self.frame_step + self.frame_length) / self.rate_hz
        starts = [i * self.hop_frames for i in range(count)]
        views = tuple(
            View(mel[at : at + self.frames], t0_s + at * step_s, t0_s + at * step_s + length_s, float(self.rate_hz),
                 gap=state.gap and at == 0)
            for at in starts
        )  # fmt: skip
        return replace(state, mel=mel[count * self.hop_frames :].copy(), gap=state.gap and not views), views
