"""Digits drawn by our own code: seven segments, dot matrices and pen strokes, each never twice the same.

Every function takes a random generator and gives ink from 0 to 255, cut to the digit. The stroke shapes are ours: for
each digit the ways in which people write it, as control points that are shaken, smoothed and drawn with a pen.
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

STROKES = {
    0: ([[(50, 3), (26, 12), (12, 35), (12, 65), (26, 90), (50, 97), (74, 90), (88, 65), (88, 35), (74, 12), (50, 3)]],
        [[(66, 8), (34, 8), (12, 34), (12, 68), (32, 95), (64, 94), (88, 66), (84, 30), (62, 8), (40, 5)]],
        [[(44, 2), (58, 18), (30, 18), (10, 48), (20, 86), (52, 97), (84, 76), (86, 44), (66, 20), (50, 14)]]),
    1: ([[(50, 2), (50, 50), (50, 98)]], [[(62, 2), (52, 50), (42, 98)]], [[(28, 24), (54, 3), (54, 50), (54, 98)]],
        [[(28, 24), (54, 3), (54, 97)], [(28, 97), (54, 96), (80, 97)]]),
    2: ([[(14, 28), (30, 6), (66, 4), (82, 28), (60, 58), (16, 94)], [(16, 94), (50, 94), (90, 93)]],
        [[(16, 24), (42, 3), (76, 14), (76, 42), (46, 74), (18, 94), (22, 76), (46, 82), (90, 96)]],
        [[(12, 20), (50, 2), (82, 22), (66, 54), (30, 82), (12, 94), (50, 88), (92, 94)]],
        [[(30, 30), (18, 22), (36, 4), (70, 6), (80, 30), (54, 64), (14, 92)], [(14, 92), (50, 95), (92, 88)]]),
    3: ([[(16, 14), (48, 2), (80, 18), (68, 42), (40, 48), (76, 56), (84, 80), (48, 98), (12, 86)]],
        [[(14, 6), (50, 5), (82, 5), (60, 24), (44, 40)], [(44, 40), (78, 48), (84, 78), (50, 98), (14, 88)]],
        [[(20, 10), (60, 4), (74, 24), (44, 46), (50, 48), (80, 66), (66, 94), (18, 94)]],
        [[(30, 30), (14, 24), (26, 6), (60, 4), (76, 24), (54, 44), (36, 48), (70, 54), (84, 76), (56, 98), (18, 90),
          (24, 78)]]),
    4: ([[(58, 2), (34, 34), (8, 66)], [(8, 66), (50, 66), (94, 65)], [(68, 30), (67, 60), (66, 98)]],
        [[(20, 4), (14, 30), (16, 52)], [(16, 52), (46, 56), (84, 50)], [(78, 4), (74, 50), (70, 98)]],
        [[(70, 98), (71, 50), (72, 3)], [(72, 3), (40, 36), (6, 68)], [(6, 68), (50, 68), (94, 68)]]),
    5: ([[(82, 5), (50, 5), (24, 6)], [(24, 6), (21, 25), (18, 44)],
         [(18, 44), (50, 36), (84, 56), (78, 86), (46, 98), (12, 88)]],
        [[(30, 8), (26, 26), (24, 44), (60, 42), (82, 62), (68, 92), (30, 98), (14, 88)], [(30, 8), (60, 6), (90, 3)]]),
    6: ([[(72, 4), (40, 20), (18, 54), (20, 86), (50, 98), (80, 84), (76, 58), (48, 50), (20, 68)]],
        [[(54, 2), (30, 34), (16, 70), (34, 97), (68, 94), (80, 70), (56, 54), (22, 72)]]),
    7: ([[(12, 8), (50, 6), (86, 6)], [(86, 6), (60, 50), (38, 98)]],
        [[(14, 18), (14, 6), (50, 8), (86, 4)], [(86, 4), (58, 46), (46, 98)]],
        [[(12, 8), (50, 6), (86, 6)], [(86, 6), (60, 50), (38, 98)], [(30, 52), (52, 50), (78, 50)]]),
    8: ([[(70, 14), (46, 2), (22, 18), (34, 40), (66, 58), (80, 80), (50, 98), (20, 82), (34, 58), (66, 38), (74, 18),
          (60, 6)]],
        [[(50, 4), (24, 20), (48, 46), (76, 24), (50, 4)], [(50, 46), (16, 72), (48, 97), (84, 74), (50, 46)]],
        [[(80, 10), (56, 2), (26, 14), (30, 36), (56, 50), (78, 70), (64, 95), (32, 95), (20, 74), (46, 50), (72, 32),
          (88, 12)]]),
    9: ([[(80, 26), (54, 4), (20, 22), (26, 48), (56, 52), (80, 26)], [(80, 20), (78, 60), (70, 98)]],
        [[(78, 14), (44, 2), (16, 28), (32, 52), (66, 44), (80, 16), (82, 56), (66, 88), (30, 97)]],
        [[(82, 30), (60, 4), (24, 14), (18, 42), (52, 50), (80, 26), (72, 60), (48, 98)]]),
}  # fmt: skip
"""Digit -> ways to write it -> strokes -> points in percent of the box, y downwards."""


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


def handwritten(rng: Generator, digit: int) -> np.ndarray:
    """A digit written with a pen: shaken control points, a smooth line, slant, and an elastic sheet."""
    ways = STROKES[digit]
    strokes = ways[rng.integers(len(ways))]
    shake, size = rng.uniform(1.5, 6.0), 72
    lean, narrow, turn = rng.uniform(-0.15, 0.45), rng.uniform(0.55, 1.15), rng.normal(0, 0.12)
    thick = int(rng.uniform(3.5, 11.5))
    joints: dict[tuple[int, int], np.ndarray] = {}
    ink = np.zeros((2 * size, 2 * size), np.uint8)
    for stroke in strokes:
        points = np.array([joints.setdefault(p, np.array(p) + rng.normal(0, shake, 2)) for p in stroke])
        points[0] += (points[0] - points[1]) * rng.uniform(-0.25, 0.45)  # the pen starts late or early, and overshoots
        points[-1] += (points[-1] - points[-2]) * rng.uniform(-0.25, 0.45)
        x, y = (_smooth(points).T / 100 - 0.5) * size
        x = x * narrow - y * lean
        turned = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1) + size
        cv2.polylines(ink, [np.round(turned * 16).astype(np.int32)], False, 255, thick, cv2.LINE_AA, 4)
    return bent(rng, ink, rng.uniform(0, 6.0))


def bent(rng: Generator, ink: np.ndarray, strength_px: float) -> np.ndarray:
    """Ink on an elastic sheet: each point moved by a smooth random field (Simard et al., 2003), cut to what is left."""
    ink = cv2.copyMakeBorder(ink, 8, 8, 8, 8, cv2.BORDER_CONSTANT)
    coarse = rng.normal(0, strength_px, (2, 5, 5)).astype(np.float32)
    dx, dy = (cv2.resize(field, ink.shape[::-1], interpolation=cv2.INTER_CUBIC) for field in coarse)
    y, x = np.indices(ink.shape, np.float32)
    ink = cv2.remap(ink, x + dx, y + dy, cv2.INTER_LINEAR)
    rows, columns = np.nonzero(ink.max(axis=1) > 40)[0], np.nonzero(ink.max(axis=0) > 40)[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else ink


def _smooth(points: np.ndarray) -> np.ndarray:
    """A Catmull-Rom curve through the points, 10 steps from each to the next."""
    if len(points) == 2:
        return points
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, 10, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return np.concatenate([*pieces, points[-1:]])
