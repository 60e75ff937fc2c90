"""Frames, sound and lines from a command: the `exec` source, and `url`, which is an ffmpeg command made here.

The command runs in a `Child`. When it is silent for longer than its deadline it is killed and the source is broken;
opening it again starts a new one. A password enters the command's arguments only (see docs/capture.md for who can
see them there), never a message or a log.
"""

import shutil
import stat
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from agent.capture.child import Child
from agent.capture.frames import Cutter, Layout, RawFrames, Y4mFrames
from agent.capture.linefile import LineSource
from agent.capture.pcm import Pcm16, ToMono
from agent.capture.source import Closing, EndOfStream, Pacer, Patience, SoundTime, Source, Stamp
from agent.credentials import locate
from agent.errors import CaptureError
from agent.records import Sample
from agent.settings.capture import ExecConfig, Mix, PcmFormat, UrlConfig

_CREDENTIALS_LIMIT_BYTES = 1024
_LIVE = ("-fflags", "nobuffer", "-flags", "low_delay", "-analyzeduration", "500000")
"""Start after half a second of looking at the stream instead of five, and hold no frame back."""
_TIMED = ("rtsp", "rtsps", "rtmp", "srt")
_FFMPEG_GRACE_S = 0.5  # enough to take leave of a camera that answers; one that hangs gets no more
_Y4M_RATE = 25  # any: frames are numbered, so that ffmpeg neither repeats nor drops one to hold a rate


class FrameSource(Closing):
    """Pictures from a child. Frames that `fps` does not let pass are read but not converted."""

    def __init__(self, child: Child, cutter: Cutter, pacer: Pacer, patience: Patience, stamp: Stamp) -> None:
        self._child, self._cutter, self._pacer, self._patience, self._stamp = child, cutter, pacer, patience, stamp

    def read(self, timeout_s: float) -> Sample | None:
        """The next frame, BGR or grey. Raises CaptureError, EndOfStream."""
        clock = self._stamp.clock
        until_s = clock.mono_s() + timeout_s
        while (taken := self._cutter.take(self._child, max(0.0, until_s - clock.mono_s()))) is None:
            if clock.mono_s() < until_s:
                continue
            # bytes that trickle are no frame: the deadline counts whole frames
            self._patience.check(self._child.thing, "frame", f"look at the camera{self._child.complaint()}")
            return None
        self._patience.heard()
        if not self._pacer.passes(clock.mono_s()):
            return None
        layout, raw = taken
        return self._stamp.sample("image", layout.picture(raw))

    def counts(self) -> Mapping[str, int]:
        """paced: frames held back by `fps`."""
        return {"paced": self._pacer.held_back}

    def close(self) -> None:
        """Stop the command."""
        self._child.close()


class SoundSource(Closing):
    """Sound from a child."""

    def __init__(self, child: Child, mono: ToMono, rate_hz: int, patience: Patience, stamp: Stamp) -> None:
        self._child, self._mono, self._rate_hz, self._patience = child, mono, rate_hz, patience
        self._time = SoundTime(stamp)
        self._ready: deque[Pcm16] = deque()
        self._over: EndOfStream | None = None

    def read(self, timeout_s: float) -> Sample | None:
        """The next chunk, int16 mono. Raises CaptureError, EndOfStream."""
        if not self._ready and self._over is None:
            self._fill(timeout_s)
        if self._ready:
            return self._time.sample(self._ready.popleft(), self._rate_hz)
        if self._over is not None:
            raise self._over
        return None

    def counts(self) -> Mapping[str, int]:
        """not_a_number: values that became silence."""
        return {"not_a_number": self._mono.not_a_number}

    def close(self) -> None:
        """Stop the command."""
        self._child.close()

    def _fill(self, timeout_s: float) -> None:
        try:
            raw = self._child.read(timeout_s)
        except EndOfStream as exc:
            self._over = exc
            self._ready.extend(self._mono.flush())
            return
        if raw:
            self._patience.heard()
            self._ready.extend(self._mono.push(raw))
        else:
            self._patience.check(self._child.thing, "sound", f"look at the microphone{self._child.complaint()}")


def open_exec(config: ExecConfig, stamp: Stamp) -> Source:
    """Start the command of `config`. Raises CaptureError."""
    patience = Patience(stamp.clock, config.open_timeout_s, config.read_timeout_s)
    mono = None
    if config.output == "pcm":
        mono = _mono(config.argv[0], config.pcm, config.channel, config.rate_hz, config.chunk_s)
    layout = Layout(config.pix_fmt, config.width, config.height)
    if config.output == "frames":
        layout.check(config.argv[0], config.max_megapixels)
    child = _start(config.argv, config.stop_grace_s, may_end=config.on_exit == "end")
    if mono is not None:
        return SoundSource(child, mono, config.rate_hz, patience, stamp)
    if config.output == "lines":
        return LineSource(child, config.lines, patience, stamp)
    cutter = RawFrames(layout) if config.output == "frames" else Y4mFrames(config.max_megapixels)
    return FrameSource(child, cutter, Pacer(config.fps), patience, stamp)


def open_url(config: UrlConfig, stamp: Stamp) -> Source:
    """Start ffmpeg on the URL of `config`. Raises CaptureError."""
    patience = Patience(stamp.clock, config.open_timeout_s, config.read_timeout_s)
    mono = _mono(config.url, PcmFormat(rate_hz=config.rate_hz), "mix", config.rate_hz, config.chunk_s)
    child = _start(ffmpeg_command(config), _FFMPEG_GRACE_S, may_end=False)
    child.thing = config.url
    if config.modality == "audio":
        return SoundSource(child, mono, config.rate_hz, patience, stamp)
    pacer = Pacer(0 if _is_timed(config.url) else config.fps)
    return FrameSource(child, Y4mFrames(config.max_megapixels), pacer, patience, stamp)


def ffmpeg_command(config: UrlConfig) -> list[str]:
    """The ffmpeg command for `config`, the password in its arguments. Raises CaptureError."""
    scheme, _, rest = config.url.partition("://")
    login = _login(config.credentials_file) if config.credentials_file else ""
    transport = ["-rtsp_transport", config.rtsp_transport] if scheme in ("rtsp", "rtsps") else []
    quiet = [config.ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin"]
    source = [*quiet, *_LIVE, *transport, *config.input_options, "-i", f"{scheme}://{login}{rest}"]
    if config.modality == "audio":
        return [*source, "-vn", "-sn", "-dn", "-ac", "1", "-ar", str(config.rate_hz), "-f", "s16le", "pipe:1"]
    out = ["-r", str(_Y4M_RATE), "-f", "yuv4mpegpipe", "pipe:1"]
    return [*source, "-map", "0:v:0", "-an", "-sn", "-dn", "-vf", _filters(config), *out]


def _filters(config: UrlConfig) -> str:
    chosen = []
    if config.fps and _is_timed(config.url):
        # 0.95: a camera at exactly the allowed rate jitters; lt: its clock may step back
        step_s = 0.95 / config.fps
        chosen.append(
            rf"select=isnan(t)+isnan(prev_selected_t)+gte(t-prev_selected_t\,{step_s:.6f})+lt(t\,prev_selected_t)"
        )
    width = config.width or (-2 if config.height else "trunc(iw/2)*2")
    height = config.height or (-2 if config.width else "trunc(ih/2)*2")
    chosen.append(f"scale={width}:{height}:out_color_matrix=bt601:out_range=tv,format=yuv420p")
    chosen.append(f"settb=1/{_Y4M_RATE},setpts=N")
    return ",".join(chosen)


def _is_timed(url: str) -> bool:
    """Whether the protocol carries times; ffmpeg makes them up for HTTP pictures, which are paced here instead."""
    return url.partition("://")[0] in _TIMED


def _login(path: Path) -> str:
    try:
        here = locate(path)
        mode = here.stat().st_mode
        with here.open("rb") as file:
            text = file.read(_CREDENTIALS_LIMIT_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise CaptureError(f"{path}: the camera's credentials cannot be read: {exc}") from exc
    if stat.S_IMODE(mode) & stat.S_IROTH:
        raise CaptureError(f"{path}: everybody can read the camera's credentials: chmod 600 {path}")
    user, colon, password = text.partition(":")
    if not colon or not user:
        raise CaptureError(f"{path}: must hold one line USER:PASSWORD")
    return f"{quote(user, safe='')}:{quote(password, safe='')}@"


def _start(argv: tuple[str, ...] | list[str], stop_grace_s: float, *, may_end: bool) -> Child:
    if shutil.which(argv[0]) is None:
        raise CaptureError(f"{argv[0]}: is not installed or not on PATH: install it, or give its full path")
    return Child(argv, stop_grace_s=stop_grace_s, may_end=may_end)


def _mono(thing: str, pcm: PcmFormat, channel: Mix, rate_hz: int, chunk_s: float) -> ToMono:
    try:
        return ToMono(pcm, channel, rate_hz, max(1, round(chunk_s * rate_hz)))
    except ValueError as exc:
        raise CaptureError(f"{thing}: {exc}") from exc
