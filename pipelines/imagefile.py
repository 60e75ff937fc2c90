"""How large the picture in an image file is, read from its header without decoding it.

Owns the check that comes before a decoder may allocate memory: a file of a few hundred bytes can claim billions of
pixels. Knows PNG, JPEG, GIF, BMP, WebP and PNM and refuses every other kind, because what it cannot measure it cannot
limit. It also sees that the end of a PNG or JPEG is there, since decoders paint a missing half grey and say nothing.
Sources: PNG (W3C third edition, 5.2, 11.2.1), JPEG (ITU-T T.81, B.1, B.2), GIF89a (section 18), BMP
(BITMAPINFOHEADER), WebP (RFC 9649), PNM (netpbm, pnm(5)).
"""

import re
import struct
from collections.abc import Callable
from pathlib import Path

from agent.errors import CaptureError

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}

_Reader = Callable[[bytes, str], tuple[int, int]]


def is_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (18 bytes or more) is of a kind that `image_size` knows."""
    return _reader(head) is not None


def image_size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height in pixels of the whole image file `data`; `where` names it. Raises CaptureError."""
    reader = _reader(data)
    if reader is None:
        kind = "the file is empty" if not data else f"it starts with {data[:4].hex(' ')}"
        raise CaptureError(f"{where}: no {_KINDS} picture ({kind}): give a file of one of these kinds")
    try:
        return reader(data, where)
    except (struct.error, IndexError, ValueError) as exc:
        raise CaptureError(f"{where}: the image header ends too early: the file is damaged, copy it again") from exc


def check_size(where: str | Path, width: int, height: int, max_megapixels: float) -> None:
    """Raises CaptureError when a picture of this size must not be decoded."""
    if width < 1 or height < 1:
        raise CaptureError(f"{where}: claims {width} x {height} pixels: it is damaged")
    if width * height > max_megapixels * 1e6:
        raise CaptureError(
            f"{where}: claims {width} x {height} pixels, more than max_megapixels = {max_megapixels:g}:"
            " make it smaller, or raise the limit"
        )


def _reader(head: bytes) -> _Reader | None:
    return next((reader for magic, reader in _READERS if re.match(magic, head, re.DOTALL)), None)


def _cut(where: str) -> CaptureError:
    return CaptureError(f"{where}: the image is cut off: its end is missing, copy it again")


def _png(data: bytes, where: str) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise CaptureError(f"{where}: the PNG has no IHDR chunk where one must be: the file is damaged")
    if b"IEND" not in data[-64:] and b"IEND" not in data:
        raise _cut(where)
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes, where: str) -> tuple[int, int]:
    at, size = 2, None
    while True:
        if data[at] != 0xFF:
            raise CaptureError(f"{where}: the JPEG has no marker at byte {at}: the file is damaged")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        elif marker == 0xDA and size:
            # inside entropy-coded data every FF is followed by 00 or a restart marker, so FF D9 can only be the end
            if data.find(b"\xff\xd9", at) < 0:
                raise _cut(where)
            return size
        else:
            length, _, height, width = struct.unpack_from(">HBHH", data, at + 2)
            if marker in _START_OF_FRAME:
                size = width, height
            at += 2 + max(length, 2)


def _bmp(data: bytes, where: str) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return width, height
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    (pixels_at,) = struct.unpack_from("<I", data, 10)
    row = (abs(width) * bits + 31) // 32 * 4
    if compression in (0, 3) and len(data) < pixels_at + row * abs(height):
        raise _cut(where)
    return abs(width), abs(height)


def _webp(data: bytes, where: str) -> tuple[int, int]:
    if len(data) < 8 + struct.unpack_from("<I", data, 4)[0]:
        raise _cut(where)
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise CaptureError(f"{where}: the WebP starts with a chunk {kind!r} that says no size: the file is damaged")


def _gif(data: bytes, where: str) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _pnm(data: bytes, where: str) -> tuple[int, int]:
    words = b" ".join(line.split(b"#")[0] for line in data[2:1024].splitlines()).split()
    return int(words[0]), int(words[1])


_KINDS = "PNG, JPEG, GIF, BMP, WebP or PNM"
_READERS: tuple[tuple[bytes, _Reader], ...] = (
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"\xff\xd8", _jpeg),
    (rb"GIF8[79]a", _gif),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", _bmp),  # the size of its header: BME280 may begin a table
    (rb"RIFF....WEBP", _webp),
    (rb"P[2356]\s", _pnm),
)
"""How a file of a kind begins -> what reads its header."""
