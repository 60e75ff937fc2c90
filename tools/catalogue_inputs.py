"""Pictures and sounds for the golden inputs of the catalogue: drawn and computed here, of nobody and by nobody.

They show nothing that a model should know; what counts is that a model gives the same numbers on every machine.
`make(name)` knows them by the stem of the file's name. Needs OpenCV; the committed files are what counts, another
version of it may draw an edge differently.
"""

import io
import wave
from collections.abc import Callable
from pathlib import PurePath

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
RATE_HZ = 16_000
_WIDTH_PX, _HEIGHT_PX = 256, 192


def make(name: str) -> bytes:
    """The bytes of the file `name`: png or wav. Raises KeyError for a stem that nobody drew."""
    path = PurePath(name)
    if path.suffix == ".png":
        done, data = cv2.imencode(".png", PICTURES[path.stem](), [cv2.IMWRITE_PNG_COMPRESSION, 9])
        assert done, name
        return data.tobytes()
    return _wav(SOUNDS[path.stem]())


def scene() -> Picture:
    """A figure of ellipses between a lawn and the sky."""
    picture = _slope((230, 190, 150), (250, 230, 215))
    picture[110:] = _slope((60, 120, 70), (40, 90, 50))[110:]
    cv2.rectangle(picture, (18, 60), (74, 128), (70, 80, 120), -1, cv2.LINE_AA)
    for centre, axes, angle, colour in (
        ((168, 42), (11, 14), 0, (150, 180, 225)), ((168, 33), (12, 8), 0, (30, 40, 60)),
        ((168, 84), (20, 32), 0, (60, 50, 190)), ((147, 84), (6, 30), 12, (60, 50, 180)),
        ((189, 84), (6, 30), -12, (60, 50, 180)), ((159, 138), (8, 36), 3, (120, 70, 40)),
        ((177, 138), (8, 36), -3, (120, 70, 40)),
    ):  # fmt: skip
        cv2.ellipse(picture, centre, axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
    return picture


def face() -> Picture:
    """Two eyes, a nose, a mouth, in an oval."""
    picture = _slope((120, 110, 100), (90, 85, 80))
    for centre, axes, colour in (
        ((128, 92), (52, 68), (35, 45, 60)), ((128, 104), (46, 60), (150, 175, 220)),
        ((109, 92), (9, 5), (245, 245, 245)), ((147, 92), (9, 5), (245, 245, 245)),
        ((109, 92), (4, 4), (50, 40, 30)), ((147, 92), (4, 4), (50, 40, 30)),
        ((109, 82), (12, 3), (40, 50, 70)), ((147, 82), (12, 3), (40, 50, 70)),
        ((128, 112), (6, 9), (130, 155, 205)), ((128, 136), (19, 6), (90, 90, 180)),
    ):  # fmt: skip
        cv2.ellipse(picture, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (5, 5), 0).astype(np.uint8)


def rings() -> Picture:
    """Coloured waves around three points: every frequency that a convolution may like."""
    y, x = np.mgrid[0:_HEIGHT_PX, 0:_WIDTH_PX].astype(np.float64)
    waves = [np.hypot(x - a, y - b) for a, b in ((60, 50), (200, 80), (110, 170))]
    levels = [127.5 + 110 * np.sin(distance / width) for distance, width in zip(waves, (5.0, 8.0, 12.0), strict=True)]
    return np.stack(levels, axis=-1).round().astype(np.uint8)


def seven() -> Picture:
    """A seven, 28 x 28, white on black."""
    picture = np.zeros((28, 28, 3), np.uint8)
    cv2.polylines(picture, [np.array([[7, 7], [20, 7], [12, 22]])], False, (255, 255, 255), 2, cv2.LINE_AA)
    return picture


def glide() -> npt.NDArray[np.float64]:
    """A voice without words: harmonics of a gliding pitch under three moving formants, to the end; 1.1 s."""
    t_s = np.arange(int(1.1 * RATE_HZ)) / RATE_HZ
    pitch_hz = 130 + 35 * np.sin(2 * np.pi * 1.3 * t_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    formants_hz = (500 + 250 * np.sin(5 * t_s), 1500 + 500 * np.sin(3 * t_s + 1), np.full_like(t_s, 2600.0))
    sound = np.zeros_like(t_s)
    for number in range(1, 28):
        gain = sum(1 / (1 + ((number * pitch_hz - formant) / 120) ** 2) for formant in formants_hz)
        sound += gain / number**0.5 * np.sin(number * phase)
    swell = np.clip((t_s - 0.2) / 0.08, 0, 1)
    return np.asarray(0.25 * swell * sound / np.abs(sound).max())


def whistle() -> npt.NDArray[np.float64]:
    """A rising tone over a little noise of a fixed seed; 1.1 s."""
    t_s = np.arange(int(1.1 * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(7).normal(0, 0.004, t_s.size)
    return np.asarray(0.2 * np.sin(2 * np.pi * (300 * t_s + 700 * t_s**2)) + noise)


PICTURES: dict[str, Callable[[], Picture]] = {"scene": scene, "face": face, "rings": rings, "seven": seven}
SOUNDS: dict[str, Callable[[], npt.NDArray[np.float64]]] = {"glide": glide, "whistle": whistle}


def _slope(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Picture:
    share = np.linspace(0, 1, _HEIGHT_PX)[:, None, None]
    rows = np.array(top) * (1 - share) + np.array(bottom) * share
    return np.broadcast_to(rows, (_HEIGHT_PX, _WIDTH_PX, 3)).round().astype(np.uint8)


def _wav(sound: npt.NDArray[np.float64]) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((sound * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()
