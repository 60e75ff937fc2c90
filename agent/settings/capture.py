"""Configuration of the sources: one frozen dataclass per `kind`, nothing else.

`[sources.NAME]` of limpet.toml becomes one of these; its key `kind` chooses which.
Every source has `open_timeout_s` (until the first sample) and `read_timeout_s` (between samples) where it can hang.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from agent.strict import Match, Range, build, build_any
from pipelines.mask import Corners, check_polygons

Timeout = Annotated[float, Range(0.05, 3600)]
Size = Annotated[int, Range(0, 16384)]
Fps = Annotated[float, Range(0, 1000)]
Megapixels = Annotated[float, Range(0.001, 1000)]
Mix = Literal["mix"] | Annotated[int, Range(0, 63)]
Encoding = Literal["u8", "s16le", "s24le", "s32le", "f32le", "f64le", "alaw", "mulaw"]
PixFmt = Literal["bgr24", "rgb24", "gray", "yuv420p", "nv12", "yuyv422"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFormat:
    """How a line of text becomes a row of numbers."""

    format: Literal["csv", "json"] = "csv"
    """csv: values between separators; json: one object, or one list, per line."""
    columns: Annotated[tuple[str, ...], Range(0, 256)] = ()
    """Names of the values, in order. csv: names of the columns (empty: taken from the header line, else c0, c1 ...).
    json: the keys to take (empty: the numeric keys of the first line)."""
    units: dict[str, str] = field(default_factory=dict)
    """Column name -> UCUM unit, e.g. Cel, m/s2, kPa, %; "1" where not given."""
    time: str = ""
    """Column that holds the time (seconds or ISO 8601).
    Empty: a column called time, t, ts, time_s or timestamp, if there is one."""
    separator: Annotated[str, Range(1, 1)] = ","
    """csv: the character between values."""
    max_line_bytes: Annotated[int, Range(16, 1 << 20)] = 4096
    """A longer line is skipped and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PcmFormat:
    """What raw audio bytes mean."""

    encoding: Encoding = "s16le"
    """Width and kind of a value, least significant byte first."""
    rate_hz: Annotated[int, Range(100, 768_000)] = 16000
    """Frames per second."""
    channels: Annotated[int, Range(1, 64)] = 1
    """Values per frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskConfig:
    """Privacy mask, burned into every picture of the source before anything else of the agent has it."""

    polygons: Annotated[tuple[Corners, ...], Range(1, 64)]
    """Each a list of corners [x, y] in fractions of the picture, 0 to 1: [0, 0] is its upper left corner."""
    fill: Annotated[int, Range(0, 255)] = 0
    """Grey level that is painted."""

    def __post_init__(self) -> None:
        check_polygons(self.polygons, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class V4l2Config:
    """A camera of this machine: USB, or anything with a /dev/video node that delivers pictures."""

    kind: Literal["v4l2"] = "v4l2"
    device: Path = Path("/dev/video0")
    """Device node; /dev/v4l/by-id/... stays the same after a reboot."""
    width: Size = 0
    """Pixels asked of the driver, 0 = its own choice. The driver may deliver another size."""
    height: Size = 0
    """Pixels asked of the driver, 0 = its own choice."""
    fourcc: Annotated[str, Match(r"|[A-Za-z0-9 ]{4}", "empty or four characters such as MJPG or YUYV")] = ""
    """Pixel format asked of the driver; many USB cameras reach their full rate only with MJPG."""
    fps: Fps = 0.0
    """At most so many frames per second are delivered, 0 = all."""
    max_megapixels: Megapixels = 64.0
    """A larger frame is refused, megapixels."""
    mask: MaskConfig | None = None
    """Parts of the picture that nobody gets to see, [sources.NAME.mask]."""
    read_timeout_s: Timeout = 5.0
    """Without a frame for so long the camera counts as broken and is opened again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlConfig:
    """A network camera or microphone, read by an ffmpeg child that can be killed."""

    url: Annotated[
        str, Match(r"(rtsp|rtsps|http|https|rtmp|srt|udp|tcp)://[^\s@/]+(/.*)?", "a URL without credentials")
    ]
    """rtsp://, http:// ... without user and password: those belong in `credentials_file`."""
    kind: Literal["url"] = "url"
    credentials_file: Path | None = None
    """File with one line USER:PASSWORD, readable by the agent only, or the name of a systemd credential."""
    modality: Literal["image", "audio"] = "image"
    """What to take from the stream: pictures or sound."""
    width: Size = 0
    """Width delivered, pixels; the child scales. 0 = as sent, or in proportion to `height`."""
    height: Size = 0
    """Height delivered, pixels; 0 = as sent, or in proportion to `width`."""
    fps: Fps = 0.0
    """At most so many frames per second leave the child, 0 = all."""
    ffmpeg: str = "ffmpeg"
    """Program to run."""
    input_options: tuple[str, ...] = ()
    """Options in front of the URL, e.g. hardware decoding. Replaces nothing, comes last and so wins."""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    """RTSP only: udp spares a little delay and loses frames on a bad network."""
    chunk_s: Annotated[float, Range(0.01, 5)] = 0.1
    """Audio only: seconds per sample."""
    rate_hz: Annotated[int, Range(1000, 192_000)] = 16000
    """Audio only: rate delivered."""
    max_megapixels: Megapixels = 64.0
    """A larger frame is refused, megapixels."""
    mask: MaskConfig | None = None
    """Parts of the picture that nobody gets to see, [sources.NAME.mask]."""
    open_timeout_s: Timeout = 15.0
    """Seconds until the first sample."""
    read_timeout_s: Timeout = 10.0
    """Seconds between samples."""

    def __post_init__(self) -> None:
        if self.mask and self.modality != "image":
            raise ValueError("a mask needs modality = 'image': sound has no place that could be painted over")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecConfig:
    """Any command that writes frames, sound or lines to its standard output."""

    argv: Annotated[tuple[str, ...], Range(1, 256)]
    """Program and arguments. No shell reads them."""
    kind: Literal["exec"] = "exec"
    output: Literal["frames", "y4m", "pcm", "lines"] = "frames"
    """frames: raw pictures of `width` x `height` in `pix_fmt`; y4m: YUV4MPEG2, which carries its size;
    pcm: sound; lines: text."""
    """pcm: what the bytes mean."""
    pix_fmt: PixFmt = "bgr24"
    """frames: how the bytes of a picture lie, in ffmpeg's names."""
    width: Size = 0
    """frames: pixels."""
    height: Size = 0
    """frames: pixels."""
    fps: Fps = 0.0
    """At most so many frames per second are delivered, 0 = all."""
    pcm: PcmFormat = PcmFormat()
    channel: Mix = "mix"
    """Sound: which channel, counted from 0, or "mix" for the mean of all."""
    rate_hz: Annotated[int, Range(1000, 192_000)] = 16000
    """Sound: rate delivered."""
    chunk_s: Annotated[float, Range(0.01, 5)] = 0.1
    """Sound: seconds per sample."""
    lines: LineFormat = LineFormat()
    """lines: what they hold."""
    on_exit: Literal["reopen", "end"] = "reopen"
    """When the command exits with status 0: start it again, or take it as the end of the recording."""
    max_megapixels: Megapixels = 64.0
    """A larger frame is refused, megapixels."""
    mask: MaskConfig | None = None
    """Parts of the picture that nobody gets to see, [sources.NAME.mask]."""
    open_timeout_s: Timeout = 15.0
    """Seconds until the first sample."""
    read_timeout_s: Timeout = 10.0
    """Seconds between samples."""
    stop_grace_s: Annotated[float, Range(0, 10)] = 1.0
    """Seconds between SIGTERM and SIGKILL when the command has to go."""

    def __post_init__(self) -> None:
        if self.output == "frames" and not (self.width and self.height):
            raise ValueError("output = 'frames' needs 'width' and 'height': raw frames do not carry their size")
        if self.mask and self.output not in ("frames", "y4m"):
            raise ValueError(f"output = '{self.output}' has no pictures that a mask could be painted on")


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrophoneConfig:
    """An ALSA or PulseAudio input through PortAudio."""

    kind: Literal["microphone"] = "microphone"
    device: str = ""
    """Name or part of the name as `python -m sounddevice` lists it; empty = the default input."""
    capture_rate_hz: Annotated[int, Range(0, 768_000)] = 0
    """Rate asked of the device, 0 = the delivered rate if the device can, else its own."""
    channels: Annotated[int, Range(1, 64)] = 1
    """Channels asked of the device."""
    channel: Mix = "mix"
    """Which channel, counted from 0, or "mix" for the mean of all."""
    rate_hz: Annotated[int, Range(1000, 192_000)] = 16000
    """Rate delivered."""
    chunk_s: Annotated[float, Range(0.01, 5)] = 0.1
    """Seconds per sample."""
    read_timeout_s: Timeout = 5.0
    """Without sound for so long, seconds, the microphone counts as broken and is opened again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SysfsChannel:
    """One number that the kernel shows as a file."""

    name: str
    """Name of the channel."""
    path: str
    """Absolute path; * and ? allowed, the first match counts (hwmon numbers change from boot to boot)."""
    unit: str = "1"
    """UCUM unit of the value after scaling."""
    scale: float = 1.0
    """Factor, see `offset`."""
    offset: float = 0.0
    """Value = (number in the file + offset) * scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SysfsConfig:
    """Sensors that the kernel knows: hwmon, thermal zones, IIO."""

    kind: Literal["sysfs"] = "sysfs"
    channels: Annotated[tuple[SysfsChannel, ...], Range(0, 256)] = ()
    """Empty: every hwmon, thermal and IIO value of this machine."""
    interval_s: Annotated[float, Range(0.001, 86400)] = 1.0
    """Seconds from row to row."""
    root: Path = Path("/sys")
    """Where sysfs is mounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """Load of this machine: cpu and memory in %, load average, context switches per second."""

    kind: Literal["load"] = "load"
    interval_s: Annotated[float, Range(0.05, 86400)] = 1.0
    """Seconds from row to row."""
    root: Path = Path("/proc")
    """Where procfs is mounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesConfig:
    """Lines that another program appends to a file or writes into a pipe."""

    path: Path
    """A regular file, which is followed as it grows, or a named pipe."""
    kind: Literal["lines"] = "lines"
    start: Literal["end", "begin"] = "end"
    """Regular file: take only lines that are yet to come, or also those already there."""
    lines: LineFormat = LineFormat()
    """What the lines hold."""
    read_timeout_s: Timeout = 60.0
    """Without an understood line for so long the source counts as broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialConfig:
    """Lines from a serial port."""

    port: Path
    """/dev/serial/by-id/... stays the same after a reboot."""
    kind: Literal["serial"] = "serial"
    baud: Annotated[int, Range(50, 4_000_000)] = 115200
    """Bits per second."""
    parity: Literal["none", "even", "odd"] = "none"
    """Parity bit."""
    stop_bits: Literal[1, 2] = 1
    """Stop bits."""
    lines: LineFormat = LineFormat()
    """What the lines hold."""
    read_timeout_s: Timeout = 60.0
    """Without an understood line for so long, seconds, the port counts as broken and is opened again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """A recording as a source: picture, folder of pictures, video, GIF, WAV, CSV, JSON lines, npy."""

    path: Path
    """File, or folder of pictures."""
    kind: Literal["replay"] = "replay"
    modality: Literal["auto", "image", "audio", "series", "tensor"] = "auto"
    """auto: seen from the file."""
    speed: Literal["realtime", "max"] = "realtime"
    """At the recording's own pace, or as fast as the pipelines take it."""
    loop: bool = False
    """Start again at the end instead of ending. Numbers and times go on."""
    fps: Fps = 0.0
    """Pictures per second; 0 = the video's own rate, 1 per second for a folder."""
    rows_hz: Annotated[float, Range(0, 1e6)] = 0.0
    """Rows per second; 0 = by the time column, 1 per second without one."""
    channel: Mix = "mix"
    """Sound: which channel, counted from 0, or "mix" for the mean of all."""
    rate_hz: Annotated[int, Range(1000, 192_000)] = 16000
    """Sound: rate delivered."""
    chunk_s: Annotated[float, Range(0.01, 5)] = 0.1
    """Sound: seconds per sample."""
    lines: LineFormat = LineFormat()
    """CSV and JSON lines: what they hold."""
    max_megapixels: Megapixels = 64.0
    """A larger picture is refused before it is decoded."""
    mask: MaskConfig | None = None
    """Parts of the picture that nobody gets to see, [sources.NAME.mask]."""


SourceConfig = (
    V4l2Config
    | UrlConfig
    | ExecConfig
    | MicrophoneConfig
    | SysfsConfig
    | LoadConfig
    | LinesConfig
    | SerialConfig
    | ReplayConfig
)
"""What [sources.NAME] may hold; its key `kind` chooses. A plugin may add kinds (`PLUGGED`)."""


class Plugged:
    """Kinds of sources that other packages add; `agent.plugins.adopt` fills it, from what the configuration allows."""

    def __init__(self) -> None:
        self.kinds: Mapping[str, Callable[[], type[Any]]] = {}
        """kind -> how to get the class of its settings; no kind of `SourceConfig` is in it."""


PLUGGED = Plugged()


def kinds() -> tuple[str, ...]:
    """The kinds of sources that the agent has by itself."""
    return tuple(kind for cls in get_args(SourceConfig) for kind in get_args(get_type_hints(cls)["kind"]))


def source_config(table: Mapping[str, Any], where: str) -> SourceConfig:
    """The settings in a [sources.NAME] table. Raises ConfigError, also where a plugin's class cannot be had."""
    kind = table.get("kind")
    load = PLUGGED.kinds.get(kind) if isinstance(kind, str) else None
    made: SourceConfig = build_any(SourceConfig, table, where) if load is None else build(load(), table, where)
    return made
