"""Pictures of one digit as a camera sees a cell of a display: where it sits, in which light, through which lens.

Owns the kinds of scene (printed, segment, dots, wheel, hand, none) and the distortions. Picture i of a seed is always
the same, whatever process makes it. `prepared` is what the model's own pre steps make of one. Class 10 is a cell
without a digit. Not made: an LCD cell of which only the unlit segments show; with its contrast stretched, it is an 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from agent.records import View
from pipelines.image import Resize
from pipelines.pixels import Contrast
from tools.digit_fonts import Face
from tools.digit_shapes import SEGMENTS, bent, dot_matrix, handwritten, seven_segment

SIZE_PX = 28
NONE = 10
CANVAS_PX = 56
"""Scenes are painted at twice the size that the model takes."""
NO_DIGITS = "AEFHKLMNPRVWXYaefhkmntvwx%&+=-.:#"
"""Signs that nobody takes for a digit."""
SIGNS = "0123456789" + NO_DIGITS
PRE = (Resize(SIZE_PX, SIZE_PX, "area"), Contrast())
SHARES = {"printed": 0.25, "segment": 0.16, "dots": 0.07, "wheel": 0.14, "hand": 0.26, "none": 0.12}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where ink comes from. Printed and wheel scenes need printed faces; hand scenes can do with our own pen."""

    printed: Sequence[Face] = ()
    hand: Sequence[Face] = ()
    drawn_hand: float = 0.75
    """Share of hand scenes that our own pen writes."""


def photo(seed: int, index: int, sources: Sources, shares: dict[str, float]) -> tuple[np.ndarray, int]:
    """Picture `index` of `seed`, grey, uint8, 11 to 56 pixels square, and its class."""
    rng = np.random.default_rng((seed, index))
    kind = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    digit = NONE if kind == "none" else int(rng.integers(10))
    ink = _KINDS[kind](rng, digit, sources)
    scanned = kind == "hand" and rng.random() < 0.3
    return cv2.GaussianBlur(ink, (0, 0), 1.0) if scanned else _photographed(rng, _tilted(rng, ink)), digit


def prepared(image: np.ndarray) -> np.ndarray:
    """The picture as the model's pre steps leave it: uint8 [28, 28]."""
    view = View(image)
    for step in PRE:
        view = step(view)
    return view.data


def _printed(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    signs = sources.printed[rng.integers(len(sources.printed))].signs
    canvas, ink = _blank(), _varied(rng, signs[str(digit)], 2.5)
    box = _place(rng, ink, rng.uniform(0.55, 0.96), rng.uniform(0.8, 1.7))
    _paste(canvas, ink, *box)
    if rng.random() < 0.3:  # the cell was cut a little wide and shows a strip of what stands beside it
        for side in (-1, 1):
            other = signs[str(rng.integers(10))]
            strip = rng.uniform(0, 0.1) * CANVAS_PX
            width = max(4, int(box[2] * rng.uniform(0.8, 1.2)))
            _paste(canvas, other, strip - width if side < 0 else CANVAS_PX - strip, box[1], width, box[3])
    return canvas


def _segment(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    del sources
    lit = SEGMENTS[digit]
    if rng.random() < 0.25:  # the ways in which makers differ
        lit = {6: "cdefg", 7: "abcf", 9: "abcfg"}.get(digit, lit)
    ghost = rng.uniform(0.03, 0.22) if rng.random() < 0.35 else 0.0
    ink = seven_segment(rng, lit, ghost)
    canvas = _blank()
    _paste(canvas, ink, *_place(rng, ink, rng.uniform(0.6, 0.97), rng.uniform(0.8, 1.5)))
    if rng.random() < 0.3:
        x, y = rng.uniform(0.86, 1.0) * CANVAS_PX, rng.uniform(0.82, 0.95) * CANVAS_PX
        cv2.circle(canvas, (int(x), int(y)), int(rng.uniform(2, 4)), 255, -1, cv2.LINE_AA)
    return canvas


def _dots(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    del sources
    ink = dot_matrix(rng, digit, rng.uniform(0.02, 0.15) if rng.random() < 0.3 else 0.0)
    canvas = _blank()
    _paste(canvas, ink, *_place(rng, ink, rng.uniform(0.6, 0.97), rng.uniform(0.8, 1.3)))
    return canvas


def _wheel(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    """A counter wheel, turned by up to 0.42 of a digit: the class is the digit that shows most."""
    signs = sources.printed[rng.integers(len(sources.printed))].signs
    canvas = _blank()
    pitch = rng.uniform(0.9, 1.25) * CANVAS_PX
    high = pitch * rng.uniform(0.6, 0.82)
    turn = rng.uniform(-0.42, 0.42) if rng.random() < 0.6 else rng.normal(0, 0.04)
    down = 1 if rng.random() < 0.8 else -1
    wide = rng.uniform(0.4, 0.8) * CANVAS_PX
    left = (CANVAS_PX - wide) / 2 + rng.uniform(-0.06, 0.06) * CANVAS_PX
    for step in (-1, 0, 1):
        ink = signs[str((digit + down * step) % 10)]
        share = min(1.0, ink.shape[1] / (0.62 * ink.shape[0]))
        centre = CANVAS_PX / 2 + (step + turn) * pitch
        _paste(canvas, ink, left + wide * (1 - share) / 2, centre - high / 2, wide * share, high)
    return canvas


def _hand(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    if sources.hand and rng.random() >= sources.drawn_hand:
        ink = _varied(rng, sources.hand[rng.integers(len(sources.hand))].signs[str(digit)], 5.0)
    else:
        ink = handwritten(rng, digit)
    canvas = _blank()
    _paste(canvas, ink, *_place(rng, ink, rng.uniform(0.55, 0.9), rng.uniform(0.85, 1.2)))
    return canvas


def _none(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    del digit
    canvas, way = _blank(), rng.random()
    if way < 0.3:
        return canvas
    if way < 0.55 and sources.printed:
        ink = sources.printed[rng.integers(len(sources.printed))].signs[str(rng.choice(list(NO_DIGITS)))]
        _paste(canvas, ink, *_place(rng, ink, rng.uniform(0.4, 0.9), rng.uniform(0.8, 1.4)))
    elif way < 0.8:  # the cut went between two digits
        halves = [handwritten(rng, int(d)) if not sources.printed else
                  sources.printed[rng.integers(len(sources.printed))].signs[str(d)] for d in rng.integers(2, 10, 2)]
        high, wide = rng.uniform(0.6, 0.95) * CANVAS_PX, rng.uniform(0.6, 0.9) * CANVAS_PX
        middle, gap = rng.uniform(0.44, 0.56) * CANVAS_PX, rng.uniform(0.05, 0.2) * CANVAS_PX
        _paste(canvas, halves[0], middle - gap / 2 - wide, (CANVAS_PX - high) / 2, wide, high)
        _paste(canvas, halves[1], middle + gap / 2, (CANVAS_PX - high) / 2, wide, high)
    else:
        for _ in range(rng.integers(1, 4)):  # lines that cross the cell, none of them upright: that is a 1
            a, b = rng.uniform(-0.2, 1.2, 2) * CANVAS_PX
            cv2.line(canvas, _at(-5, a), _at(CANVAS_PX + 5, b), 255, int(rng.integers(1, 9)), cv2.LINE_AA)
    return canvas


def _varied(rng: Generator, ink: np.ndarray, strength_px: float) -> np.ndarray:
    """The ink of a font a little bent, thinner or fatter, so that a few hundred fonts stand for more."""
    way = rng.random()
    if way < 0.3:
        side = int(rng.integers(2, 6))
        ink = cv2.dilate(cv2.copyMakeBorder(ink, 4, 4, 4, 4, cv2.BORDER_CONSTANT), np.ones((side, side), np.uint8))
    elif way < 0.4:
        thin = cv2.erode(ink, np.ones((2, 2), np.uint8))
        ink = thin if thin.max() > 100 else ink
    return bent(rng, ink, rng.uniform(0, strength_px)) if rng.random() < 0.5 else ink


_KINDS = {"printed": _printed, "segment": _segment, "dots": _dots, "wheel": _wheel, "hand": _hand, "none": _none}


def _blank() -> np.ndarray:
    return np.zeros((CANVAS_PX, CANVAS_PX), np.uint8)


def _at(x: float, y: float) -> tuple[int, int]:
    return round(x), round(y)


def _place(rng: Generator, ink: np.ndarray, share: float, stretch: float) -> tuple[float, float, float, float]:
    """Left, top, width, height for `ink`: `share` of the cell's height, its shape stretched, near the middle."""
    high = share * CANVAS_PX
    wide = min(high * ink.shape[1] / ink.shape[0] * stretch, 0.96 * CANVAS_PX)
    x, y = (rng.uniform(-0.5, 0.5) * (0.8 * (CANVAS_PX - side) + 0.06 * CANVAS_PX) for side in (wide, high))
    return (CANVAS_PX - wide) / 2 + x, (CANVAS_PX - high) / 2 + y, wide, high


def _paste(canvas: np.ndarray, ink: np.ndarray, left: float, top: float, wide: float, high: float) -> None:
    size = max(1, round(wide)), max(1, round(high))
    ink = cv2.resize(ink, size, interpolation=cv2.INTER_AREA)
    x, y = round(left), round(top)
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + size[0], CANVAS_PX), min(y + size[1], CANVAS_PX)
    if x1 < x2 and y1 < y2:
        part = canvas[y1:y2, x1:x2]
        np.maximum(part, ink[y1 - y : y2 - y, x1 - x : x2 - x], out=part)


def _tilted(rng: Generator, ink: np.ndarray) -> np.ndarray:
    """The plane of the display seen from the side, turned and leaning."""
    size = float(CANVAS_PX)
    corners = np.array([(0, 0), (size, 0), (size, size), (0, size)], np.float32)
    turn, lean = np.deg2rad(rng.normal(0, 4)), rng.normal(0, 0.07)
    middle = corners - size / 2
    turned = np.stack([middle[:, 0] * np.cos(turn) - middle[:, 1] * (np.sin(turn) + lean),
                       middle[:, 0] * np.sin(turn) + middle[:, 1] * np.cos(turn)], axis=1)  # fmt: skip
    target = (turned + size / 2 + rng.normal(0, 0.025 * size, (4, 2))).astype(np.float32)
    return cv2.warpPerspective(ink, cv2.getPerspectiveTransform(corners, target), (CANVAS_PX, CANVAS_PX))


def _photographed(rng: Generator, ink: np.ndarray) -> np.ndarray:
    """Ink under light, through a lens and a sensor: uint8 [56, 56] or smaller."""
    step = rng.uniform(25, 225) if rng.random() < 0.6 else rng.uniform(120, 250)
    dark = rng.uniform(0, 255 - step)
    light = ink.astype(np.float32) / 255.0
    image = dark + step * (light if rng.random() < 0.55 else 1.0 - light)
    if rng.random() < 0.25:
        _bezel(rng, image)
    image = _lit(rng, image, step)
    if rng.random() < 0.7:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 2.2))
    if rng.random() < 0.15:
        image = _shaken(rng, image)
    if rng.random() < 0.5:
        side = int(rng.integers(11, CANVAS_PX))
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    noise = rng.normal(0, min(rng.exponential(4.0), 0.12 * step + 2.0), image.shape)
    seen = (image + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        _, data = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))])
        seen = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    return seen


def _bezel(rng: Generator, image: np.ndarray) -> None:
    """An edge of the window that the digit lies behind, on one or more sides."""
    level = rng.uniform(0, 255)
    for turned in (image, image.T, image[:, ::-1], image.T[:, ::-1]):
        if rng.random() < 0.4:
            turned[:, : int(rng.integers(1, 7))] = level


def _lit(rng: Generator, image: np.ndarray, step: float) -> np.ndarray:
    """Light from one side, the shade of a round wheel, a reflection."""
    y, x = np.indices(image.shape, np.float32) / CANVAS_PX - 0.5
    if rng.random() < 0.6:
        image = image * (1 + rng.normal(0, 0.25) * x + rng.normal(0, 0.25) * y)
    if rng.random() < 0.2:
        image = image * (1 - rng.uniform(0, 1.6) * y * y)
    if rng.random() < 0.15:
        cx, cy = rng.uniform(-0.6, 0.6, 2)
        spread = rng.uniform(0.1, 0.35)
        image = image + rng.uniform(0.2, 0.8) * step * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))
    return image.astype(np.float32)


def _shaken(rng: Generator, image: np.ndarray) -> np.ndarray:
    length = int(rng.integers(3, 8))
    line = np.zeros((length, length), np.float32)
    end = _at(length / 2 * (1 + np.cos(rng.uniform(0, np.pi))), length / 2 * (1 + np.sin(rng.uniform(0, np.pi))))
    cv2.line(line, (length - 1 - end[0], length - 1 - end[1]), end, 1.0)
    return cv2.filter2D(image, -1, line / line.sum()) if line.sum() else image
