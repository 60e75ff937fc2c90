"""A picture's thumbnail, made to be compared: about a thousand numbers that noise hardly moves and a thing does.

Owns the sampling and the distance. One number in some two hundred is read: every n-th row, and along it every n-th
pixel with its channels in turn, so that all colours count at the price of one. Four neighbouring samples are then
averaged, which halves the noise of a sensor and leaves a thing of a tenth of the picture's height several numbers of
its own; to average all pixels would tell more, at forty times the price. The distance is the largest difference
anywhere, not the mean: a small thing moves few numbers far.
"""

import numpy as np

from agent.records import Array

ROWS, COLUMNS = 60, 80
"""Samples down and across, at least and within a factor of two."""
LEAST_PX = 8
"""Pictures with a shorter side have no thumbnail."""


def thumbnail(pixels: Array) -> Array | None:
    """uint8, about [30, 38], of uint8 [height, width, channels] or [height, width]; of cells [n, height, width,
    channels] as if they stood below each other. None for anything else, and for what is too small."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3, 4):
        return None
    import cv2  # not above: who hears or feels imports this module, too, and OpenCV takes 20 MiB

    if pixels.ndim == 4:
        pixels = pixels.reshape(-1, *pixels.shape[2:])
    height, width = pixels.shape[:2]
    if min(height, width) < LEAST_PX:
        return None
    step = max(1, min(height // ROWS, width // COLUMNS))
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    rows = pixels[step // 2 :: step]
    samples = rows.reshape(len(rows), -1)[:, step // 2 * channels :: step * channels + (channels > 1)]
    down, across = samples.shape[0] // 2, samples.shape[1] // 2
    fitting = np.ascontiguousarray(samples[: 2 * down, : 2 * across])
    return cv2.resize(fitting, (across, down), interpolation=cv2.INTER_AREA)


def distance(one: Array, other: Array) -> float:
    """The largest difference of two thumbnails of one shape, grey levels of 255."""
    import cv2

    return cv2.norm(one, other, cv2.NORM_INF)
