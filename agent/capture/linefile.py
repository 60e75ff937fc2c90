"""Rows from lines that arrive: appended to a file, written into a pipe, sent by a serial port or a command.

A file that is rotated or cut is followed; a pipe whose writer goes away waits for the next one. Bytes come through a
`Port`; everything above it is the same for all of them.
"""

import os
import select
import stat
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from agent.capture.lines import LineParser, LineSplitter
from agent.capture.source import Closing, EndOfStream, Patience, Stamp
from agent.errors import CaptureError
from agent.records import Sample
from agent.settings.capture import LineFormat, LinesConfig

_READ_BYTES = 1 << 16
_LOOK_S = 0.1  # a regular file cannot be waited for without inotify


class Port(Protocol):
    """Something that delivers bytes."""

    thing: str

    def read(self, timeout_s: float) -> bytes:
        """Some bytes, b"" when none came in time. Raises CaptureError, EndOfStream."""

    def close(self) -> None:
        """Let go of it."""


class LineSource(Closing):
    """Rows from a port. What is no row is counted; only when no row comes for too long the source is broken."""

    def __init__(self, port: Port, lines: LineFormat, patience: Patience, stamp: Stamp) -> None:
        self._port, self._patience, self._stamp = port, patience, stamp
        self._splitter = LineSplitter(lines.max_line_bytes)
        self._parser = LineParser(lines)
        self._ready: deque[bytes] = deque()
        self._over: EndOfStream | None = None

    def read(self, timeout_s: float) -> Sample | None:
        """The next row, float64 [channels]. Raises CaptureError, EndOfStream."""
        if not self._ready and self._over is None:
            self._fill(timeout_s)
        while self._ready:
            row = self._parser.parse(self._ready.popleft())
            if row is not None:
                self._patience.heard()
                return self._stamp.sample("series", row.values, channels=self._parser.channels)
        if self._over is not None:
            raise self._over
        bad = f" ({self._parser.bad_lines} were not understood, the last: {self._parser.last_bad!r})"
        advice = "is the sender running, and is [lines] set to what it writes?"
        self._patience.check(self._port.thing, "usable line" + bad * (self._parser.bad_lines > 0), advice)
        return None

    def counts(self) -> Mapping[str, int]:
        """bad_lines: not understood; long_lines: above max_line_bytes; not_a_number: values delivered as NaN."""
        parser = self._parser
        return {
            "bad_lines": parser.bad_lines,
            "long_lines": self._splitter.long_lines,
            "not_a_number": parser.not_a_number,
        }

    def offer_header(self, line: bytes) -> None:
        """A line that may name the columns but is no news: the first of a file read from its end."""
        self._parser.look_at(line)

    def close(self) -> None:
        """Let go of the port."""
        self._port.close()

    def _fill(self, timeout_s: float) -> None:
        try:
            self._ready.extend(self._splitter.push(self._port.read(timeout_s)))
        except EndOfStream as exc:
            self._over = exc
            self._ready.append(self._splitter.rest())


class FifoPort:
    """A named pipe. Writers may come and go: an end of file only means that the last one left."""

    def __init__(self, path: Path) -> None:
        self.thing = str(path)
        self._path = path
        self._fd = self._open()

    def read(self, timeout_s: float) -> bytes:
        """See `Port`."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return b""
        raw = os.read(self._fd, _READ_BYTES)
        if not raw:
            # a pipe without writers that once had one is always "ready": a fresh opening waits again
            fresh = self._open()
            os.close(self._fd)
            self._fd = fresh
        return raw

    def close(self) -> None:
        """See `Port`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise CaptureError(f"{self._path}: the pipe cannot be opened: {exc.strerror}") from exc


class TailPort:
    """The end of a growing file. Follows the name: a file that was rotated or cut is read from its start."""

    def __init__(self, path: Path, stamp: Stamp, *, from_end: bool) -> None:
        self.thing = str(path)
        self._path, self._stamp = path, stamp
        self._fd, self._inode = self._open()
        self._at = os.fstat(self._fd).st_size if from_end else 0

    def read(self, timeout_s: float) -> bytes:
        """See `Port`."""
        raw = os.pread(self._fd, _READ_BYTES, self._at)
        if not raw:
            self._stamp.clock.sleep(min(timeout_s, _LOOK_S))
            self._follow()
            raw = os.pread(self._fd, _READ_BYTES, self._at)
        self._at += len(raw)
        return raw

    def close(self) -> None:
        """See `Port`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _follow(self) -> None:
        if os.fstat(self._fd).st_size < self._at:
            self._at = 0
        try:
            renamed = self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return  # between the two steps of a rotation; the deadline decides when that is too long
        if renamed and not os.pread(self._fd, 1, self._at):
            os.close(self._fd)
            self._fd, self._inode = self._open()
            self._at = 0

    def _open(self) -> tuple[int, int]:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise CaptureError(f"{self._path}: cannot be read: {exc.strerror}") from exc
        return fd, os.fstat(fd).st_ino


def open_lines(config: LinesConfig, stamp: Stamp) -> LineSource:
    """Open the file or pipe of `config`. Raises CaptureError."""
    patience = Patience(stamp.clock, config.read_timeout_s, config.read_timeout_s)
    try:
        mode = config.path.stat().st_mode
    except OSError as exc:
        raise CaptureError(f"{config.path}: cannot be opened: {exc.strerror}: does the sender run?") from exc
    if stat.S_ISFIFO(mode):
        return LineSource(FifoPort(config.path), config.lines, patience, stamp)
    if not stat.S_ISREG(mode):
        raise CaptureError(f"{config.path}: is neither a file nor a pipe: for a port use kind = 'serial'")
    source = LineSource(TailPort(config.path, stamp, from_end=config.start == "end"), config.lines, patience, stamp)
    if config.start == "end":
        with config.path.open("rb") as file:
            source.offer_header(file.readline(config.lines.max_line_bytes))
    return source
