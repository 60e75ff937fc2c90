"""A recording as a source: read in order, losing nothing, at its own pace or as fast as it is taken.

At its own pace ("realtime") a sample is due when its media time has come; "max" makes it due at once. Who is slower
than the recording makes it wait; what may then be dropped is the inbox's business. At the seam of a loop numbers
and times go on, and the sample behind it carries `gap`: no window may span it. A recording that is damaged further
on delivers what it has: then `infer` and `replay` fail, and the agent logs it and takes it as the end, because
opening it again would only play the whole part again.
"""

import logging
from collections.abc import Iterator, Mapping

from agent.capture.recording import Item, Recording, open_recording
from agent.capture.source import Closing, EndOfStream, Stamp
from agent.errors import CaptureError
from agent.records import Sample
from agent.settings.capture import ReplayConfig

log = logging.getLogger(__name__)


class Replay(Closing):
    """Plays a recording."""

    def __init__(self, config: ReplayConfig, stamp: Stamp, *, strict: bool = False) -> None:
        """Reads the first sample. `strict`: a damaged rest is an error, not the end.

        Raises CaptureError when the recording cannot be read or holds nothing.
        """
        self._strict = strict
        self._recording: Recording = open_recording(config)
        self._stamp = stamp
        self._realtime, self._loop = config.speed == "realtime", config.loop
        self._items: Iterator[Item] = self._recording.items()
        self._started_s = stamp.clock.mono_s()
        self._offset_s = 0.0
        self._end_s = 0.0
        self._next: Item | None = None
        self._next = next(self._items, None)
        if self._next is None:
            raise CaptureError(f"{config.path}: holds nothing: record it again")

    def read(self, timeout_s: float) -> Sample | None:
        """The next sample when it is due. Raises EndOfStream behind the last, CaptureError when the rest is damaged."""
        if self._next is None:
            self._advance()
        item = self._next
        if item is None:
            raise EndOfStream(f"{self._recording.path}: is over")
        t_s = item.t_s + self._offset_s
        if self._realtime and not self._wait(t_s, timeout_s):
            return None
        # what follows is decoded at the next call: a damaged rest must not take this sample with it
        self._next = None
        self._end_s = max(self._end_s, t_s + item.length_s)
        kind = self._recording.modality
        return self._stamp.sample(kind, item.data, t_s=t_s, rate_hz=item.rate_hz, channels=item.channels)

    def counts(self) -> Mapping[str, int]:
        """What the recording held that could not be used, by reason."""
        return self._recording.counts()

    def close(self) -> None:
        """Let go of the file."""
        close = getattr(self._items, "close", None)
        if close is not None:
            close()

    def _advance(self) -> None:
        try:
            self._next = next(self._items, None)
        except CaptureError as exc:
            if self._strict:
                raise
            log.error("source=%s damaged: %s", self._stamp.name, exc)
        if self._next is None and self._loop and self._end_s > self._offset_s:
            self._offset_s = self._end_s
            self._stamp.torn()
            self._items = self._recording.items()
            self._next = next(self._items, None)

    def _wait(self, t_s: float, timeout_s: float) -> bool:
        clock = self._stamp.clock
        early_s = self._started_s + t_s - clock.mono_s()
        if early_s > 0:
            clock.sleep(min(early_s, timeout_s))
        return early_s <= timeout_s
