"""The door to OpenCV's drawing: lines, areas and words on a picture, and a picture as PNG.

Owns sizes: everything is drawn on a canvas whose longer side lies between `LEAST_PX` and `MOST_PX`, so that one pen and
one font fit pictures of any size; small pictures grow, large ones shrink. Colours are BGR. Nothing here knows what a
finding is.
"""

import unicodedata
from dataclasses import dataclass

import cv2
import numpy as np

from agent.drawing.colours import BLACK, Bgr, ink_on
from agent.errors import CaptureError
from agent.records import Array

LEAST_PX, MOST_PX = 720, 1600
_AS_THEY_ARE_PX = 96
"""Smaller pictures grow pixel by pixel: what the model sees is pixels."""
_FONT = getattr(cv2, "FontFace", None)
"""OpenCV 5 has a real font with letters of most alphabets; before, there are pen strokes for ASCII."""

Rect = tuple[int, int, int, int]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Pen:
    """Sizes that fit a canvas, pixels."""

    line: int
    font: int

    @property
    def pad(self) -> int:
        return max(3, self.font // 4)


def enlarged(image: Array) -> tuple[Array, float]:
    """A BGR copy of a picture [h, w] or [h, w, 3], uint8, on which can be drawn, and how much larger it is."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise CaptureError(f"a picture of {image.dtype} {list(image.shape)} cannot be drawn on: it needs uint8 pixels")
    picture = image if image.ndim == 3 and image.shape[2] == 3 else cv2.cvtColor(np.squeeze(image), cv2.COLOR_GRAY2BGR)
    longer = max(picture.shape[:2])
    factor = min(max(LEAST_PX, longer), MOST_PX) / longer
    if factor == 1:
        return picture.copy(), 1.0
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST if longer <= _AS_THEY_ARE_PX else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=how), factor


def fitted(image: Array, width: int, height: int) -> Array:
    """The picture made to lie inside width x height, its shape kept."""
    factor = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def pen_for(canvas: Array) -> Pen:
    """Line and font that are legible on this canvas."""
    longer = max(canvas.shape[:2])
    return Pen(max(2, round(longer / 320)), max(15, round(longer / 50)))


def box(canvas: Array, rect: Rect, colour: Bgr, pen: Pen) -> None:
    """A rectangle with a dark rim, so that it shows on every ground."""
    for shade, width in ((BLACK, pen.line + 2), (colour, pen.line)):
        cv2.rectangle(canvas, rect[:2], rect[2:], shade, width, cv2.LINE_AA)


def line(canvas: Array, points: list[tuple[int, int]], colour: Bgr, pen: Pen, *, closed: bool = False) -> None:
    """A line through points, with a dark rim."""
    path = [np.array(points, np.int32)]
    for shade, width in ((BLACK, pen.line + 2), (colour, pen.line)):
        cv2.polylines(canvas, path, closed, shade, width, cv2.LINE_AA)


def thin(canvas: Array, points: Array, colour: Bgr, width: int = 1) -> None:
    """A line through points [n, 2] without a rim, for curves."""
    cv2.polylines(canvas, [np.rint(points).astype(np.int32)], False, colour, width, cv2.LINE_AA)


def dot(canvas: Array, place: tuple[int, int], colour: Bgr, pen: Pen) -> None:
    """A point with a dark rim."""
    for shade, more in ((BLACK, 2), (colour, 0)):
        cv2.circle(canvas, place, 2 * pen.line + more, shade, cv2.FILLED, cv2.LINE_AA)


def area(canvas: Array, mask: Array, colour: Bgr, pen: Pen, share: float = 0.5) -> None:
    """Tints where `mask`, bool [height, width] of the canvas, is true, and draws the border of it."""
    canvas[mask] = (canvas[mask] * (1 - share) + np.array(colour) * share).astype(np.uint8)
    rims, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, rims, -1, colour, max(1, pen.line - 1), cv2.LINE_AA)


def stretched(mask: Array, width: int, height: int) -> Array:
    """A map of whole numbers in another size, without numbers between them."""
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST).astype(np.int64)


def shade(canvas: Array, rect: Rect, share: float = 0.65, colour: Bgr = BLACK) -> None:
    """Covers a rectangle with `colour` so far that words on it can be read."""
    left, top, right, bottom = inside(rect, canvas)
    part = canvas[top:bottom, left:right]
    part[:] = (part * (1 - share) + np.array(colour) * share).astype(np.uint8)


def fill(canvas: Array, rect: Rect, colour: Bgr) -> None:
    left, top, right, bottom = inside(rect, canvas)
    canvas[top:bottom, left:right] = colour


def inside(rect: Rect, canvas: Array) -> Rect:
    """The part of a rectangle that lies on the canvas."""
    high, wide = canvas.shape[:2]
    left, right = (min(max(x, 0), wide) for x in (rect[0], rect[2]))
    top, bottom = (min(max(y, 0), high) for y in (rect[1], rect[3]))
    return left, top, right, bottom


def tag_size(text: str, pen: Pen) -> tuple[int, int]:
    """Width and height of a tag with this text, pixels."""
    return text_width(text, pen.font, 600) + 2 * pen.pad, pen.font + 2 * pen.pad


def tag(canvas: Array, text: str, place: tuple[int, int], colour: Bgr, pen: Pen) -> None:
    """Words on a plate of `colour` whose upper left corner is `place`."""
    wide, high = tag_size(text, pen)
    fill(canvas, (place[0], place[1], place[0] + wide, place[1] + high), colour)
    words(canvas, text, (place[0] + pen.pad, place[1] + pen.pad), ink_on(colour), pen.font, 600)


def words(canvas: Array, text: str, place: tuple[int, int], colour: Bgr, font_px: int, weight: int = 400) -> None:
    """Text whose letters begin at `place`, the upper left corner of a line `font_px` high."""
    below = (place[0], place[1] + round(0.82 * font_px))
    if _FONT is not None:
        cv2.putText(canvas, text, below, colour, _FONT("sans"), font_px, weight)
        return
    cv2.putText(canvas, _plain(text), below, cv2.FONT_HERSHEY_SIMPLEX, font_px / 30, colour, 1 + weight // 500, 16)


def text_width(text: str, font_px: int, weight: int = 400) -> int:
    """Width of a line of text, pixels."""
    if _FONT is not None:
        rect = cv2.getTextSize((1, 1), text, (0, 0), _FONT("sans"), font_px, weight)
        return int(rect[0]) + int(rect[2])
    (wide, _), _ = cv2.getTextSize(_plain(text), cv2.FONT_HERSHEY_SIMPLEX, font_px / 30, 1 + weight // 500)
    return int(wide)


def shortened(text: str, font_px: int, most_px: int) -> str:
    """As much of the text as fits into `most_px`."""
    if text_width(text, font_px) <= most_px:
        return text
    while text and text_width(text + "…", font_px) > most_px:
        text = text[:-1]
    return text + "…" if text else ""


def png(image: Array) -> bytes:
    """The picture as a PNG file. Raises CaptureError for what PNG cannot hold."""
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not done:
        raise CaptureError("the picture cannot be written as PNG")
    return data.tobytes()


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKD", text).replace("…", "...").encode("ascii", "ignore").decode()
