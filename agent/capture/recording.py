"""What recordings are made of: files -> items with media time.

Picture, folder of pictures, video, GIF, WAV, CSV, JSON lines, npy. Items are read one at a time: a recording of any
length needs the memory of one sample. Refused, with what to do: what is no regular file (a pipe has no end), what
is empty, what cannot be read, what belongs to another modality.
"""

import os
import statistics
import tokenize
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np

from agent.capture.lines import LineParser, LineSplitter, Row
from agent.errors import CaptureError
from agent.records import Array, Channel, Modality
from agent.settings.capture import ReplayConfig
from pipelines.imagefile import is_image

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".pnm"}
VIDEOS = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".mjpeg", ".mjpg", ".gif", ".y4m", ".flv",
}  # fmt: skip
ROWS = {".csv", ".tsv", ".txt", ".log", ".jsonl", ".ndjson", ".json"}
_JSON = {".jsonl", ".ndjson", ".json"}
_HEAD_BYTES = 64
_BLOCK_BYTES = 1 << 16
_NPY_LIMIT_BYTES = 1 << 30
_RATE_ROWS = 16
_PICTURE_S = 1.0


@dataclass(frozen=True, slots=True)
class Item:
    """One sample before it is numbered. `t_s` and `length_s` are seconds of media time."""

    t_s: float
    data: Array
    length_s: float = 0.0
    rate_hz: float = 0.0
    channels: tuple[Channel, ...] = ()


class Recording(ABC):
    """A file that can be read from the start again and again."""

    modality: Modality

    def __init__(self, config: ReplayConfig) -> None:
        self.path = config.path
        self._config = config

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All items in order. Raises CaptureError where the file is damaged, behind the items that are whole."""

    def counts(self) -> Mapping[str, int]:
        """What could not be used, by reason."""
        return {}


class Pictures(Recording):
    """One picture, or the pictures of a folder in the order of their names."""

    modality: Modality = "image"

    def items(self) -> Iterator[Item]:
        from agent.capture.camera import read_picture

        step_s = 1 / self._config.fps if self._config.fps else _PICTURE_S
        paths = self._paths()
        for i, path in enumerate(paths):
            yield Item(i * step_s, read_picture(path, self._config.max_megapixels), step_s)

    def _paths(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        try:
            found = sorted(p for p in self.path.iterdir() if p.suffix.lower() in PICTURES)
        except OSError as exc:
            raise CaptureError(f"{self.path}: cannot be listed: {exc.strerror}") from exc
        if not found:
            raise CaptureError(f"{self.path}: holds no pictures ({', '.join(sorted(PICTURES))})")
        return found


class Video(Recording):
    """A video file or GIF."""

    modality: Modality = "image"

    def items(self) -> Iterator[Item]:
        from agent.capture.camera import video_frames

        last_s, step_s = 0.0, 1 / (self._config.fps or 25.0)
        for t_s, frame in video_frames(self.path, self._config.fps, self._config.max_megapixels):
            step_s = t_s - last_s or step_s
            last_s = t_s
            yield Item(t_s, frame, step_s)


class Sound(Recording):
    """A WAV file, as int16 mono chunks at the wanted rate."""

    modality: Modality = "audio"

    def __init__(self, config: ReplayConfig) -> None:
        super().__init__(config)
        self._not_a_number = 0

    def items(self) -> Iterator[Item]:
        from agent.capture.pcm import ToMono
        from agent.capture.wav import blocks, probe

        rate_hz = self._config.rate_hz
        wav = probe(self.path)
        try:
            mono = ToMono(wav.pcm, self._config.channel, rate_hz, max(1, round(self._config.chunk_s * rate_hz)))
        except ValueError as exc:
            raise CaptureError(f"{self.path}: {exc}") from exc
        done = 0
        for raw in chain(blocks(self.path, wav, _BLOCK_BYTES), (None,)):
            for chunk in mono.flush() if raw is None else mono.push(raw):
                yield Item(done / rate_hz, chunk, len(chunk) / rate_hz, rate_hz)
                done += len(chunk)
        self._not_a_number += mono.not_a_number

    def counts(self) -> Mapping[str, int]:
        return {"not_a_number": self._not_a_number}


class Rows(Recording):
    """A table in a text file, one row per item."""

    modality: Modality = "series"

    def __init__(self, config: ReplayConfig) -> None:
        super().__init__(config)
        self._parser = self._new_parser()
        self._splitter = LineSplitter(config.lines.max_line_bytes)

    def items(self) -> Iterator[Item]:
        self._parser = parser = self._new_parser()
        rows = self._rows(parser)
        first = list(islice(rows, _RATE_ROWS))
        if not first:
            raise CaptureError(
                f"{self.path}: none of {parser.bad_lines} lines could be read as numbers, the last was"
                f" {parser.last_bad!r}: mend [lines] format, columns or separator"
            )
        rate_hz = self._config.rows_hz or _rate_hz([row.t_s for row in first])
        clocked = self._config.rows_hz == 0 and first[0].t_s is not None
        start_s, last_s = first[0].t_s or 0.0, 0.0
        for i, row in enumerate(chain(first, rows)):
            # a table whose clock steps back (daylight saving) must not turn the stream back
            own_s = row.t_s - start_s if clocked and row.t_s is not None else last_s if clocked else i / rate_hz
            last_s = max(last_s, own_s)
            yield Item(last_s, row.values, 1 / rate_hz, rate_hz, parser.channels)

    def counts(self) -> Mapping[str, int]:
        parser = self._parser
        return {
            "bad_lines": parser.bad_lines,
            "long_lines": self._splitter.long_lines,
            "not_a_number": parser.not_a_number,
        }

    def _new_parser(self) -> LineParser:
        lines = self._config.lines
        if self.path.suffix.lower() in _JSON:
            lines = replace(lines, format="json")
        if self.path.suffix.lower() == ".tsv":
            lines = replace(lines, separator="\t")
        return LineParser(lines)

    def _rows(self, parser: LineParser) -> Iterator[Row]:
        splitter = self._splitter = LineSplitter(self._config.lines.max_line_bytes)
        try:
            with self.path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    yield from filter(None, map(parser.parse, splitter.push(block)))
                yield from filter(None, (parser.parse(splitter.rest()),))
        except OSError as exc:
            raise CaptureError(f"{self.path}: cannot be read: {exc.strerror}") from exc


class Tensor(Recording):
    """One array in a .npy file, given to the model as it is."""

    modality: Modality = "tensor"

    def items(self) -> Iterator[Item]:
        yield Item(0.0, self._load(), _PICTURE_S)

    def _load(self) -> Array:
        try:
            if self.path.stat().st_size > _NPY_LIMIT_BYTES:
                raise CaptureError(f"{self.path}: is larger than {_NPY_LIMIT_BYTES >> 20} MiB: make it smaller")
            # mapped first: a header that claims more than the file holds fails before memory is taken
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            return np.array(array)
        except OSError as exc:
            raise CaptureError(f"{self.path}: cannot be read: {exc.strerror or exc}") from exc
        except (ValueError, EOFError, tokenize.TokenError) as exc:  # numpy reads old headers with Python's tokenizer
            raise CaptureError(f"{self.path}: is no .npy file of plain numbers: save it again with numpy.save") from exc


class TensorRows(Tensor):
    """A .npy file [rows, channels] or [rows] as a series."""

    modality: Modality = "series"

    def items(self) -> Iterator[Item]:
        table = self._load()
        if table.ndim not in (1, 2) or table.dtype.kind not in "fiub" or not table.size:
            raise CaptureError(f"{self.path}: has shape {table.shape}: a series is [rows, channels] of numbers")
        rate_hz = self._config.rows_hz or 1.0
        channels = tuple(Channel(f"c{i}") for i in range(table.shape[1] if table.ndim == 2 else 1))
        for i, row in enumerate(table.reshape(len(table), -1).astype(np.float64)):
            yield Item(i / rate_hz, row.copy(), 1 / rate_hz, rate_hz, channels)


def open_recording(config: ReplayConfig) -> Recording:
    """Find out what `config.path` is. Raises CaptureError."""
    path = config.path
    _check_there(path)
    cls = Pictures if path.is_dir() else _by_content(path) or _by_name(path, config.modality)
    if cls is Tensor and config.modality == "series":
        cls = TensorRows
    # an array suits any model that takes its shape: it is given to it as it is
    if config.modality not in ("auto", cls.modality) and cls is not Tensor:
        raise CaptureError(f"{path}: is {cls.modality}, but {config.modality} is wanted: choose another file or model")
    return cls(config)


def _check_there(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError as exc:
        raise CaptureError(f"{path}: does not exist: look at the name") from exc
    except OSError as exc:
        raise CaptureError(f"{path}: cannot be reached: {exc.strerror}") from exc
    if not path.is_dir() and not path.is_file():
        raise CaptureError(f"{path}: is not a regular file and may never end: use kind = 'exec', 'lines' or 'v4l2'")
    if not os.access(path, os.R_OK):
        raise CaptureError(f"{path}: permission denied: let the agent's user read it")
    if path.is_file() and status.st_size == 0:
        raise CaptureError(f"{path}: is empty (0 bytes): record it again")


def _by_content(path: Path) -> type[Recording] | None:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return Sound
    if head.startswith(b"\x93NUMPY"):
        return Tensor
    if head.startswith(b"GIF8"):
        return Video
    # a file of concatenated JPEGs begins like a picture: there the name decides
    if path.suffix.lower() not in VIDEOS and is_image(head):
        return Pictures
    return None


def _by_name(path: Path, wanted: str) -> type[Recording]:
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return Pictures
    if suffix in VIDEOS:
        return Video
    if suffix in ROWS or wanted == "series":
        return Rows
    if suffix == ".wav" or wanted == "audio":
        return Sound
    if suffix == ".npy" or wanted == "tensor":
        return Tensor
    return Video if wanted in ("auto", "image") else Pictures


def _rate_hz(times: list[float | None]) -> float:
    """Rows per second from the first times (the median step); 1 when there are none."""
    known = [t for t in times if t is not None]
    steps = [b - a for a, b in pairwise(known) if b > a]
    return 1 / statistics.median(steps) if steps else 1.0
