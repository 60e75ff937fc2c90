"""What a source is, how its samples are numbered and timed, and how often it may speak.

Rules: a source is used by one thread and starts none. `read` returns within its timeout plus a moment and never
hands out the same array twice. Everything between the device and the sample that can hang has a deadline.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from agent.clock import Clock
from agent.errors import CaptureError
from agent.records import Array, Channel, Modality, Sample

_LOST_S = 2.0


class EndOfStream(CaptureError):  # noqa: N818  the end of a recording is a fact, not a fault
    """A finite recording has delivered everything it holds."""


class Source(Protocol):
    """An open device or recording; a context manager that closes it."""

    def read(self, timeout_s: float) -> Sample | None:
        """The next sample, or None when none came within `timeout_s`.

        Raises CaptureError when the source is broken (close it, open it again later) and EndOfStream when a
        finite recording is over.
        """

    def counts(self) -> Mapping[str, int]:
        """What was left out since opening, by reason: bad_lines, long_lines, paced, not_a_number ..."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """Turns `close()` into a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything. May be called twice."""


class Stamp:
    """Numbers and times the samples of one source.

    `first_seq` goes on where the source was when it broke: the first sample then carries `gap`. `mask` paints over
    what nobody may see; here, because no sample is made anywhere else, so that none can get around it.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        first_seq: int = 0,
        replay: bool = False,
        mask: Callable[[Array], Array] | None = None,
    ) -> None:
        self.name = name
        self._mask = mask
        self.clock = clock
        self.seq = first_seq
        self._replay = replay
        self._gap = first_seq > 0

    def torn(self) -> None:
        """Something was lost here: the next sample carries `gap`."""
        self._gap = True

    def sample(
        self,
        modality: Modality,
        data: Array,
        *,
        t_s: float | None = None,
        age_s: float = 0.0,
        rate_hz: float = 0.0,
        channels: tuple[Channel, ...] = (),
    ) -> Sample:
        """Make the next sample. `age_s`: how long ago it began. `t_s`: stream position; None = the monotonic time.

        Raises CaptureError when there is a mask and the sample is no picture.
        """
        if self._mask is not None:
            if modality != "image":
                raise CaptureError(f"source {self.name} has a mask but delivers {modality}: take the mask out")
            data = self._mask(data)
        data.flags.writeable = False
        mono_s = self.clock.mono_s() - age_s
        seq, gap = self.seq, self._gap
        self.seq, self._gap = seq + 1, False
        return Sample(
            self.name, seq, mono_s if t_s is None else t_s, mono_s, self.clock.wall_s() - age_s, modality,
            data, self.clock.state(), rate_hz, channels, gap, self._replay,
        )  # fmt: skip


class SoundTime:
    """Stream position of live sound: counted in samples from an anchor, because chunks arrive in bursts.

    When sound comes more than 2 s later than counted, some was lost on the way: the count starts anew there.
    """

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._next_s: float | None = None

    def sample(self, chunk: Array, rate_hz: float) -> Sample:
        """Stamp int16 [n] that has just arrived."""
        length_s = len(chunk) / rate_hz
        began_s = self._stamp.clock.mono_s() - length_s
        if self._next_s is None:
            self._next_s = began_s
        elif began_s - self._next_s > _LOST_S:
            self._stamp.torn()
            self._next_s = began_s
        t_s, self._next_s = self._next_s, self._next_s + length_s
        return self._stamp.sample("audio", chunk, t_s=t_s, age_s=length_s, rate_hz=rate_hz)


class Patience:
    """The deadline of a source that may fall silent: `open_s` for the first sample, `read_s` between samples."""

    def __init__(self, clock: Clock, open_s: float, read_s: float) -> None:
        self._clock = clock
        self._read_s = read_s
        self._limit_s = open_s
        self._heard_s = clock.mono_s()

    def heard(self) -> None:
        """It spoke."""
        self._heard_s = self._clock.mono_s()
        self._limit_s = self._read_s

    def check(self, thing: str, what: str, advice: str) -> None:
        """Raises CaptureError when it has been silent for too long."""
        if self._clock.mono_s() - self._heard_s > self._limit_s:
            raise CaptureError(f"{thing}: no {what} for {self._limit_s:g} s: {advice}")


class Pacer:
    """Lets at most `fps` things per second pass; 0 = all. Counts those it holds back."""

    def __init__(self, fps: float) -> None:
        self._period_s = 1 / fps if fps else 0.0
        self._next_s = -np.inf
        self.held_back = 0

    def passes(self, now_s: float) -> bool:
        """Whether the thing that came at `now_s` may pass.

        A camera at exactly the allowed rate jitters: what comes a quarter period early passes, and the schedule
        stays, so that the mean rate holds.
        """
        if now_s < self._next_s - self._period_s / 4:
            self.held_back += 1
            return False
        self._next_s = max(self._next_s, now_s - self._period_s) + self._period_s
        return True
