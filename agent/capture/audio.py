"""The door to PortAudio: microphones through ALSA or PulseAudio, in blocking mode.

Blocking mode keeps Python out of the real-time callback: PortAudio's own thread fills a ring, and `read` takes from
it when enough is there, so nothing waits without a limit. An overflow of that ring is a gap.
"""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from agent.capture.pcm import Pcm16, ToMono
from agent.capture.source import Closing, Patience, SoundTime, Stamp
from agent.errors import CaptureError
from agent.records import Sample
from agent.settings.capture import MicrophoneConfig, PcmFormat

_LOOK_S = 0.02
_RING_S = 0.5


class Microphone(Closing):
    """An open input device, delivering int16 mono."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _open: ClassVar[int] = 0
    """Open streams of this process: PortAudio looks for new devices only while there is none."""

    def __init__(self, config: MicrophoneConfig, stamp: Stamp) -> None:
        """Opens the device. Raises CaptureError."""
        self._sd = _sounddevice()
        self._thing = config.device or "default microphone"
        self._stamp, self._rate_hz, self._chunk_s = stamp, config.rate_hz, config.chunk_s
        self._stream = self._start(config)
        device_hz = round(self._stream.samplerate)
        try:
            pcm = PcmFormat(rate_hz=device_hz, channels=config.channels)
            self._mono = ToMono(pcm, config.channel, config.rate_hz, max(1, round(config.chunk_s * config.rate_hz)))
        except ValueError as exc:
            self.close()
            raise CaptureError(f"{self._thing}: {exc}") from exc
        self._patience = Patience(stamp.clock, config.read_timeout_s, config.read_timeout_s)
        self._time = SoundTime(stamp)
        self._ready: deque[Pcm16] = deque()
        self._overflows = 0

    def read(self, timeout_s: float) -> Sample | None:
        """The next chunk. Raises CaptureError when the device is gone or silent."""
        clock = self._stamp.clock
        until_s = clock.mono_s() + timeout_s
        while not self._ready:
            self._fill()
            left_s = until_s - clock.mono_s()
            if not self._ready and left_s <= 0:
                self._patience.check(self._thing, "sound", "look at the cable, or at what else uses the device")
                return None
            if not self._ready:
                clock.sleep(min(_LOOK_S, left_s))
        return self._time.sample(self._ready.popleft(), self._rate_hz)

    def counts(self) -> Mapping[str, int]:
        """overflows: times that the device was faster than its reader."""
        return {"overflows": self._overflows}

    def close(self) -> None:
        """Give the device back."""
        if not self._stream.closed:
            self._stream.close(ignore_errors=True)
            with self._lock:
                Microphone._open -= 1

    def _fill(self) -> None:
        try:
            waiting = self._stream.read_available
            if not waiting:
                return
            raw, overflowed = self._stream.read(waiting)
        except self._sd.PortAudioError as exc:
            raise CaptureError(f"{self._thing}: the microphone is gone: plug it in again ({exc})") from exc
        self._patience.heard()
        if overflowed:
            self._overflows += 1
            self._stamp.torn()
        self._ready.extend(self._mono.push(bytes(raw)))

    def _start(self, config: MicrophoneConfig) -> Any:
        with self._lock:
            if not Microphone._open:
                # the documented way to see a device that was plugged in later; there is no public one
                self._sd._terminate()
                self._sd._initialize()
            try:
                stream = self._new_stream(config)
                stream.start()
            except (self._sd.PortAudioError, ValueError) as exc:
                known = ", ".join(d["name"] for d in self._sd.query_devices() if d["max_input_channels"]) or "none"
                raise CaptureError(f"{self._thing}: cannot be opened: {exc}; inputs here: {known}") from exc
            Microphone._open += 1
            return stream

    def _new_stream(self, config: MicrophoneConfig) -> Any:
        settings: dict[str, Any] = {"device": config.device or None, "channels": config.channels, "dtype": "int16"}
        rate_hz = config.capture_rate_hz or config.rate_hz
        if not config.capture_rate_hz:
            try:
                self._sd.check_input_settings(samplerate=rate_hz, **settings)
            except self._sd.PortAudioError:
                rate_hz = self._sd.query_devices(settings["device"], "input")["default_samplerate"]
        return self._sd.RawInputStream(samplerate=rate_hz, latency=_RING_S, **settings)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except OSError as exc:  # the Python package is there, the library it loads is not
        raise CaptureError(f"microphone: PortAudio is missing: apt install libportaudio2 ({exc})") from exc
    return sounddevice
