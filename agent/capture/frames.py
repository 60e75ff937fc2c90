"""Cuts the output of a child into frames: raw pictures of known size, or YUV4MPEG2, which carries its size.

The YUV4MPEG2 format: a line "YUV4MPEG2 W640 H480 ...", then per frame a line "FRAME ..." and the planes
(mjpegtools, yuv4mpeg(5)). It spares a second program that would have to be asked for the size of a stream.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from agent.capture.camera import to_bgr
from agent.capture.child import Child
from agent.errors import CaptureError
from agent.records import Array
from agent.settings.capture import PixFmt
from pipelines.imagefile import check_size

_BITS: dict[PixFmt, int] = {"bgr24": 24, "rgb24": 24, "gray": 8, "yuv420p": 12, "nv12": 12, "yuyv422": 16}
_LONGEST_LINE = 256
_FRAME = b"FRAME\n"
"""The line before a frame that has no parameters."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the bytes of a raw frame lie."""

    pix_fmt: PixFmt
    width: int
    height: int

    @property
    def size(self) -> int:
        """Bytes of a frame."""
        return self.width * self.height * _BITS[self.pix_fmt] // 8

    def picture(self, raw: Array) -> Array:
        """uint8 [size] -> BGR or grey, see `to_bgr`."""
        return to_bgr(raw, self.pix_fmt, self.width, self.height)

    def check(self, thing: str, max_megapixels: float) -> None:
        """Raises CaptureError for a size that cannot be."""
        check_size(thing, self.width, self.height, max_megapixels)
        if self.pix_fmt in ("yuv420p", "nv12", "yuyv422") and (self.width % 2 or self.height % 2):
            raise CaptureError(f"{thing}: {self.width} x {self.height}: {self.pix_fmt} needs an even width and height")


class Cutter(Protocol):
    """Puts frames together from what a child writes; keeps what it has between calls."""

    def take(self, child: Child, timeout_s: float) -> tuple[Layout, Array] | None:
        """One turn of reading: the next frame, raw, when it has become whole."""


class RawFrames:
    """Frames without anything between them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._frame = np.empty(layout.size, np.uint8)
        self._filled = 0

    def take(self, child: Child, timeout_s: float) -> tuple[Layout, Array] | None:
        """See `Cutter`."""
        self._filled += child.read_into(self._frame[self._filled :].data, timeout_s)
        if self._filled < self.layout.size:
            return None
        frame, self._frame, self._filled = self._frame, np.empty(self.layout.size, np.uint8), 0
        return self.layout, frame


class Y4mFrames:
    """YUV4MPEG2 with 4:2:0 planes or grey. A frame's line is read together with its planes, as it nearly always is."""

    def __init__(self, max_megapixels: float) -> None:
        self._max_megapixels = max_megapixels
        self._header = b""
        self._byte = bytearray(1)
        self._layout: Layout | None = None
        self._frame: Array = np.empty(0, np.uint8)
        """A line and the planes behind it."""
        self._filled = 0

    def take(self, child: Child, timeout_s: float) -> tuple[Layout, Array] | None:
        """See `Cutter`. Raises CaptureError when the stream is something else."""
        if self._layout is None:
            self._read_header(child, timeout_s)
            return None
        self._filled += child.read_into(self._frame[self._filled :].data, timeout_s)
        if self._filled < len(self._frame) or not self._in_place(child.thing):
            return None
        planes = self._frame[len(_FRAME) :]
        self._begin(self._layout)
        return self._layout, planes

    def _begin(self, layout: Layout) -> None:
        self._layout, self._filled = layout, 0
        self._frame = np.empty(len(_FRAME) + layout.size, np.uint8)

    def _in_place(self, thing: str) -> bool:
        """Whether the planes stand where they belong; behind a line with parameters they are moved there, and their
        last bytes are still to come."""
        line, end, _ = self._frame[:_LONGEST_LINE].tobytes().partition(b"\n")
        if not end or not line.startswith(_FRAME[:-1]):
            raise CaptureError(f"{thing}: the YUV4MPEG2 stream lost its place: start it again")
        beyond = len(line) + 1 - len(_FRAME)
        if beyond:
            self._frame[len(_FRAME) : -beyond] = self._frame[len(line) + 1 :]
            self._frame[: len(_FRAME)] = np.frombuffer(_FRAME, np.uint8)
            self._filled -= beyond
        return not beyond

    def _read_header(self, child: Child, timeout_s: float) -> None:
        """One byte further: what follows the line belongs to the first frame."""
        if not child.read_into(memoryview(self._byte), timeout_s):
            return
        if self._byte == b"\n":
            self._begin(_layout(child.thing, self._header, self._max_megapixels))
        self._header += self._byte
        if len(self._header) > _LONGEST_LINE:
            raise CaptureError(f"{child.thing}: does not write YUV4MPEG2: with ffmpeg use -f yuv4mpegpipe")


def _layout(thing: str, header: bytes, max_megapixels: float) -> Layout:
    words = header.decode(errors="replace").split(" ")
    fields = {word[0]: word[1:] for word in words[1:] if word}
    colours = fields.get("C", "420")
    pix_fmt: PixFmt = "gray" if colours == "mono" else "yuv420p"
    known = colours in ("mono", "420", "420jpeg", "420mpeg2", "420paldv")
    if words[0] != "YUV4MPEG2" or not known or not (fields.get("W", "").isdigit() and fields.get("H", "").isdigit()):
        raise CaptureError(
            f"{thing}: does not write YUV4MPEG2 in 8-bit 4:2:0: with ffmpeg use -pix_fmt yuv420p -f yuv4mpegpipe"
        )
    layout = Layout(pix_fmt, int(fields["W"]), int(fields["H"]))
    layout.check(thing, max_megapixels)
    return layout
