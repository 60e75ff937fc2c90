"""What the cameras of the benchmark see: a real recording where there is one, else a street made here.

The made films are MPEG-4 of 640 x 360 at 25 pictures per second, written with OpenCV's own encoder, so that a fresh
clone needs nothing. A moving one has boxes that wander over a textured ground; the static one has the ground alone
with the noise of a sensor, as a camera sees an empty yard.
"""

from pathlib import Path

import cv2
import numpy as np

from agent.capture.camera import video_frames
from agent.records import Array
from tools.bench.run import Run

REAL = "inputs/bottle-detection.mp4"
FPS, SIZE_PX = 25, (640, 360)
_BOXES = 6


def film(run: Run) -> Path:
    """A film in which things move."""
    return run.real(REAL) or _write(run.folder / "moving.mp4", run.many(500, 60), _BOXES)


def static_film(run: Run) -> Path:
    """A film in which nothing moves but the noise."""
    return _write(run.folder / "static.mp4", run.many(500, 60), 0)


def first_picture(path: Path) -> Array:
    """uint8 [height, width, 3] BGR."""
    return next(video_frames(path, 0.0, 64.0))[1]


def _write(path: Path, pictures: int, boxes: int) -> Path:
    if path.exists():
        return path
    rng = np.random.default_rng(20260102)
    ground = cv2.GaussianBlur(rng.integers(0, 255, (SIZE_PX[1], SIZE_PX[0], 3), np.uint8), (0, 0), 4)
    ground = cv2.normalize(ground, None, 40, 215, cv2.NORM_MINMAX)
    places, steps = rng.uniform(0, SIZE_PX, (boxes, 2)), rng.uniform(-6, 6, (boxes, 2))
    sides, colours = rng.integers(30, 90, (boxes, 2)), rng.integers(0, 255, (boxes, 3))
    noise = rng.normal(0, 2.0, (8, *ground.shape))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE_PX)
    for number in range(pictures):
        picture = ground.copy()
        for at, side, colour in zip((places + steps * number) % SIZE_PX, sides, colours, strict=True):
            cv2.rectangle(picture, at.astype(int), (at + side).astype(int), colour.tolist(), -1)
        writer.write((picture + noise[number % len(noise)]).clip(0, 255).astype(np.uint8))
    writer.release()
    return path
