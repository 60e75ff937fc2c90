"""Digits of displays, drawn by our own code: seven segments and dot matrices, each never twice the same.

Every function takes a random generator and gives ink from 0 to 255, cut to the digit.
"""

import cv2
import numpy as np
from numpy.random import Generator

SEGMENTS = ("abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg")
"""Lit segments by digit: a top, b c right, d bottom, e f left, g middle."""

DOTS = (
    "01110 10001 10011 10101 11001 10001 01110", "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00010 00100 01000 11111", "11111 00010 00100 00010 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010", "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110", "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110", "01110 10001 10001 01111 00001 00010 01100",
)  # fmt: skip


def seven_segment(rng: Generator, lit: str, ghost: float = 0.0) -> np.ndarray:
    """A seven-segment cell with the segments in `lit` on; the others show with `ghost` (0..1) of the ink."""
    high, wide = 72, int(rng.uniform(34, 52))
    thick, gap = rng.uniform(5, 12), rng.choice((rng.uniform(0, 2), rng.uniform(0, 5)))
    cut = rng.uniform(0.1, 0.5) if rng.random() < 0.8 else 0.0
    ink = np.zeros((high, wide), np.uint8)
    half = thick / 2
    left, right, top, middle, bottom = half, wide - 1 - half, half, high / 2, high - 1 - half
    ends = {"a": (left, top, right, top), "b": (right, top, right, middle), "c": (right, middle, right, bottom),
            "d": (left, bottom, right, bottom), "e": (left, middle, left, bottom), "f": (left, top, left, middle),
            "g": (left, middle, right, middle)}  # fmt: skip
    for name, line in sorted(ends.items(), key=lambda item: item[0] in lit):
        level = 255 if name in lit else int(255 * ghost)
        if level:
            cv2.fillConvexPoly(ink, _segment(*line, half, gap, cut * thick), level, cv2.LINE_AA, 4)
    slant = rng.uniform(0, 0.18) if rng.random() < 0.5 else 0.0
    if slant:
        move = np.array([[1, -slant, slant * high], [0, 1, 0]], np.float32)
        ink = cv2.warpAffine(ink, move, (wide + int(slant * high) + 1, high))
    return ink


def _segment(x1: float, y1: float, x2: float, y2: float, half: float, gap: float, cut: float) -> np.ndarray:
    """The six corners of a segment, in sixteenths of a pixel."""
    along = np.array([x2 - x1, y2 - y1]) / max(np.hypot(x2 - x1, y2 - y1), 1e-6)
    across = np.array([-along[1], along[0]]) * half
    start, end = np.array([x1, y1]) + along * gap, np.array([x2, y2]) - along * gap
    reach = along * cut
    corners = [start - reach / 2, start + across + reach, end + across - reach, end + reach / 2,
               end - across - reach, start - across + reach]  # fmt: skip
    return np.round(np.array(corners) * 16).astype(np.int32)


def dot_matrix(rng: Generator, digit: int, ghost: float = 0.0) -> np.ndarray:
    """A digit of 5 x 7 dots, round or square."""
    pitch = 10
    radius = int(rng.uniform(0.32, 0.56) * pitch * 16)
    round_dots = rng.random() < 0.5
    ink = np.zeros((7 * pitch, 5 * pitch), np.uint8)
    for row, line in enumerate(DOTS[digit].split()):
        for column, dot in enumerate(line):
            level = 255 if dot == "1" else int(255 * ghost)
            x, y = (column * 16 + 8) * pitch, (row * 16 + 8) * pitch
            if level and round_dots:
                cv2.circle(ink, (x, y), radius, level, -1, cv2.LINE_AA, 4)
            elif level:
                cv2.rectangle(ink, (x - radius, y - radius), (x + radius, y + radius), level, -1, cv2.LINE_8, 4)
    return ink
