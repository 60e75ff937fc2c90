"""What becomes of ink between the display or the paper and the model: plane, light, lens, sensor, file.

Owns the distortions, each drawn anew from a random generator. `photographed` is a camera somewhere before a device or a
sheet, `scanned` a flat even picture. Both give grey uint8 [n, n], 8 to 56 pixels, of either polarity.
"""

import cv2
import numpy as np
from numpy.random import Generator

CANVAS_PX = 56
"""Scenes are painted at twice the size that the model takes."""


def scanned(rng: Generator, ink: np.ndarray) -> np.ndarray:
    """Ink as a scanner or a clean cut-out shows it: even light, no noise, seldom at all sharp."""
    image = cv2.GaussianBlur(ink, (0, 0), rng.uniform(0.3, 1.6))
    image = image if rng.random() < 0.6 else 255 - image
    return coarse(rng, image) if rng.random() < 0.35 else image


def coarse(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A digit that was few pixels high and then enlarged, as by a camera's digital zoom."""
    side = int(rng.integers(8, 20))
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    how = (cv2.INTER_CUBIC, cv2.INTER_LINEAR)[rng.integers(2)]
    return cv2.resize(small, (CANVAS_PX, CANVAS_PX), interpolation=how)


def tilted(rng: Generator, ink: np.ndarray) -> np.ndarray:
    """The plane of the display seen from the side, turned and leaning."""
    size = float(CANVAS_PX)
    corners = np.array([(0, 0), (size, 0), (size, size), (0, size)], np.float32)
    turn, lean = np.deg2rad(rng.normal(0, 4)), rng.normal(0, 0.07)
    middle = corners - size / 2
    turned = np.stack([middle[:, 0] * np.cos(turn) - middle[:, 1] * (np.sin(turn) + lean),
                       middle[:, 0] * np.sin(turn) + middle[:, 1] * np.cos(turn)], axis=1)  # fmt: skip
    target = (turned + size / 2 + rng.normal(0, 0.025 * size, (4, 2))).astype(np.float32)
    return cv2.warpPerspective(ink, cv2.getPerspectiveTransform(corners, target), (CANVAS_PX, CANVAS_PX))


def photographed(rng: Generator, ink: np.ndarray) -> np.ndarray:
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
    elif rng.random() < 0.1:
        image = coarse(rng, image)
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
    end = _whole(length / 2 * (1 + np.cos(rng.uniform(0, np.pi))), length / 2 * (1 + np.sin(rng.uniform(0, np.pi))))
    cv2.line(line, (length - 1 - end[0], length - 1 - end[1]), end, 1.0)
    return cv2.filter2D(image, -1, line / line.sum()) if line.sum() else image


def _whole(x: float, y: float) -> tuple[int, int]:
    return round(x), round(y)
