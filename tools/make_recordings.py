"""Draws the recording of the demo: a meter with a seven-segment display, filmed by a camera that is not quite still.

    python tools/make_recordings.py [FOLDER]      (default: models/digits)

Writes demo.mp4 (640 x 360, 10 frames/s, 20 s, MPEG-4) and demo.toml with what can be read, when and where. Everything
is computed from fixed numbers: the pictures before encoding are the same on every machine. The light steps
a little every second, the picture shifts by a pixel, a hand's shadow passes once: what a camera at a meter sees.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

SIZE = (640, 360)
FPS = 10
READINGS = ("01234", "01235", "56789", "56790", "90418")
SHOWN_S = 4.0
CELL = (72, 120)
"""Width and height of a cell, pixels."""
CELLS = tuple((112 + 86 * i, 126, 112 + 86 * i + CELL[0], 126 + CELL[1]) for i in range(5))
"""x1, y1, x2, y2 of every digit."""
MOST_BYTES = 400_000

# A digit in a box of 1 x 1: the middle lines of the segments a to g, and which of them each digit lights
LINES = {
    "a": ((0.24, 0.12), (0.76, 0.12)), "b": ((0.80, 0.16), (0.80, 0.46)), "c": ((0.80, 0.54), (0.80, 0.84)),
    "d": ((0.24, 0.88), (0.76, 0.88)), "e": ((0.20, 0.54), (0.20, 0.84)), "f": ((0.20, 0.16), (0.20, 0.46)),
    "g": ((0.24, 0.50), (0.76, 0.50)),
}  # fmt: skip
LIT = ("abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg")
HALF_PX = 5.5
PANEL, INK, GHOST, CASE = (158, 178, 170), (34, 42, 40), (148, 167, 160), (74, 66, 60)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent / "models" / "digits")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "demo.mp4")
    (folder / "demo.toml").write_text(description())
    print(f"{folder / 'demo.mp4'}: {(folder / 'demo.mp4').stat().st_size} bytes")


def write_video(path: Path) -> None:
    """Encode all frames. Raises SystemExit when this OpenCV cannot, or when the file became too large."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE)
    if not writer.isOpened():
        raise SystemExit(f"{path}: this OpenCV cannot write MPEG-4: install opencv-python-headless from PyPI")
    for number in range(round(len(READINGS) * SHOWN_S * FPS)):
        writer.write(frame(number / FPS))
    writer.release()
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path}: {path.stat().st_size} bytes, more than {MOST_BYTES}")


def frame(t_s: float) -> np.ndarray:
    """The picture at `t_s`: uint8 [360, 640, 3] BGR."""
    picture = meter(READINGS[min(int(t_s / SHOWN_S), len(READINGS) - 1)]).astype(np.float32)
    x = np.linspace(0, 1, SIZE[0], dtype=np.float32)
    light = 0.92 + 0.06 * np.sin(2 * np.pi * (round(t_s) / 13 + 0.4 * x))
    hand = 1 - 0.25 * np.exp(-(((x - (t_s - 9) / 1.5) / 0.15) ** 2))
    picture *= (light * hand)[None, :, None]
    # by whole pixels: what moves a little in every frame costs the encoder most
    moved = np.roll(picture, (round(1.4 * np.sin(t_s * 0.7)), round(1.4 * np.sin(t_s * 0.9))), (0, 1))
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8)


def meter(reading: str) -> np.ndarray:
    """The still meter: a case, a panel, unlit segments faint, lit ones dark."""
    picture = np.full((SIZE[1], SIZE[0], 3), CASE, np.uint8)
    cv2.rectangle(picture, (84, 98), (556, 274), PANEL, cv2.FILLED)
    cv2.rectangle(picture, (84, 98), (556, 274), (40, 36, 32), 3)
    cv2.putText(picture, "kWh", (492, 318), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (190, 190, 190), 2, cv2.LINE_AA)
    for cell, digit in zip(CELLS, reading, strict=True):
        for name in LINES:
            segment(picture, cell, name, GHOST)
        for name in LIT[int(digit)]:
            segment(picture, cell, name, INK)
    return picture


def segment(picture: np.ndarray, cell: tuple[int, int, int, int], name: str, colour: tuple[int, int, int]) -> None:
    """A bar with pointed ends, to a sixteenth of a pixel."""
    left, top, right, bottom = cell
    start, end = (np.array([left + x * (right - left), top + y * (bottom - top)]) for x, y in LINES[name])
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]]) * HALF_PX
    inset = along * HALF_PX
    corners = [start, start + inset + across, end - inset + across, end, end - inset - across, start + inset - across]
    cv2.fillConvexPoly(picture, np.rint(np.array(corners) * 16).astype(np.int32), colour, cv2.LINE_AA, 4)


def description() -> str:
    """demo.toml: what the video shows."""
    boxes = ",\n".join(f"    [{', '.join(map(str, cell))}]" for cell in CELLS)
    shown = "\n\n".join(
        f'[[reading]]\ntext = "{text}"\nt0_s = {i * SHOWN_S}\nt1_s = {(i + 1) * SHOWN_S}'
        for i, text in enumerate(READINGS)
    )
    head = "# What demo.mp4 shows; written by tools/make_recordings.py together with it."
    size = f"width = {SIZE[0]}\nheight = {SIZE[1]}\nfps = {FPS}\nframes = {round(len(READINGS) * SHOWN_S * FPS)}"
    return f"{head}\n\n{size}\n\n# x1, y1, x2, y2 of the digits, pixels\ncells = [\n{boxes},\n]\n\n{shown}\n"


if __name__ == "__main__":
    main()
