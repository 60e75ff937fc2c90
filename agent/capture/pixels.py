"""Reads the size of a picture from its header, before anything is decoded.

A few hundred bytes can claim a picture of gigabytes; whoever decodes first and asks later is out of memory. Knows
PNG, JPEG, GIF, BMP, WebP and PNM; what it does not know is refused.
"""

import struct
from pathlib import Path

from agent.errors import CaptureError

HEADER_BYTES = 1 << 18
"""How far a JPEG's size may lie behind its metadata."""
_KNOWN = "PNG, JPEG, GIF, BMP, WebP or PNM"
_JPEG_SIZE_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def picture_size(head: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of the picture that begins with `head`; None when it is no known picture."""
    try:
        return _picture_size(head)
    except (struct.error, ValueError, IndexError):
        return None


def check_size(thing: str | Path, width: int, height: int, max_megapixels: float) -> None:
    """Raises CaptureError when a picture of this size must not be decoded."""
    if width < 1 or height < 1:
        raise CaptureError(f"{thing}: claims {width} x {height} pixels: it is damaged")
    if width * height > max_megapixels * 1e6:
        raise CaptureError(
            f"{thing}: claims {width} x {height} pixels, more than max_megapixels = {max_megapixels:g}:"
            " make it smaller, or raise the limit"
        )


def check_file(path: Path, max_megapixels: float) -> None:
    """Raises CaptureError unless `path` is a known picture of a size that may be decoded."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as exc:
        raise CaptureError(f"{path}: cannot be read: {exc.strerror}") from exc
    if not head:
        raise CaptureError(f"{path}: is empty (0 bytes): take the picture again")
    size = picture_size(head)
    if size is None:
        raise CaptureError(f"{path}: is not a {_KNOWN} picture, or its header is damaged: convert it, or take it again")
    check_size(path, *size, max_megapixels)


def _picture_size(head: bytes) -> tuple[int, int] | None:
    size: tuple[int, int] | None = None
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        size = struct.unpack(">II", head[16:24])
    elif head.startswith(b"\xff\xd8"):
        size = _jpeg(head)
    elif head[:6] in (b"GIF87a", b"GIF89a"):
        size = struct.unpack("<HH", head[6:10])
    elif head.startswith(b"BM"):
        size = _bmp(head)
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        size = _webp(head)
    elif head[:2] in (b"P2", b"P3", b"P5", b"P6"):
        size = _pnm(head)
    return size


def _jpeg(head: bytes) -> tuple[int, int]:
    at = 2
    while True:
        marker, length = struct.unpack(">HH", head[at : at + 4])
        if marker & 0xFF00 != 0xFF00:
            raise ValueError("no marker")
        if marker & 0xFF in _JPEG_SIZE_MARKERS:
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        # 0xFFFF is a fill byte in front of a marker
        at += 1 if marker == 0xFFFF else 2 + length


def _bmp(head: bytes) -> tuple[int, int]:
    if struct.unpack("<I", head[14:18])[0] == 12:  # the header of OS/2
        width, height = struct.unpack("<HH", head[18:22])
    else:
        width, height = struct.unpack("<ii", head[18:26])
    return width, abs(height)  # a negative height means: top row first


def _webp(head: bytes) -> tuple[int, int]:
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _pnm(head: bytes) -> tuple[int, int]:
    words = b" ".join(line.split(b"#")[0] for line in head[2:1024].splitlines()).split()
    return int(words[0]), int(words[1])
