"""Digits and other signs rendered from the fonts of Debian packages, for training the digit reader.

Owns the list of families, apart for training and for measuring: a family is in one of the two, never in both. Fonts are
read where apt puts them and nothing of them is kept but the pictures made from them. Refuses to go on when a package is
missing, because another set of fonts makes another model.
"""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEIGHT_PX = 72
"""Height of the em square that glyphs are rendered at."""

TRAIN = {
    "fonts-3270": "", "fonts-cantarell": "", "fonts-comfortaa": "", "fonts-courier-prime": "", "fonts-dejavu-core": "",
    "fonts-dejavu-extra": "", "fonts-dosis": "", "fonts-eurofurence": "", "fonts-freefont-ttf": "", "fonts-go": "",
    "fonts-hack": "", "fonts-inconsolata": "", "fonts-jetbrains-mono": "", "fonts-lato": "", "fonts-liberation": "",
    "fonts-ocr-a": "", "fonts-play": "", "fonts-radisnoir": "", "fonts-roboto-unhinted": "", "fonts-tuffy": "",
    "fonts-urw-base35": "Nimbus|URW|P052|C059", "fonts-yanone-kaffeesatz": "",
}  # fmt: skip
"""Package -> regular expression of the file names to use ("" all): printed digits to learn from."""

TRAIN_HAND = {
    "fonts-breip": "", "fonts-bwht": "", "fonts-comic-neue": "", "fonts-ecolier-court": "", "fonts-femkeklaver": "",
    "fonts-humor-sans": "",
}  # fmt: skip
HELD_PRINTED = {
    "fonts-cabin": "", "fonts-fantasque-sans": "", "fonts-jura": "", "fonts-league-mono": "", "fonts-ocr-b": "",
    "fonts-open-sans": "", "fonts-oxygen": "", "fonts-quicksand": "", "fonts-sil-andika": "",
}  # fmt: skip
HELD_DISPLAY = {"fonts-dseg": "DSEG7(Classic|Modern)-"}
HELD_HAND = {"fonts-dkg-handwriting": "", "fonts-sjfonts": "SteveHand"}


@dataclass(frozen=True, slots=True)
class Face:
    """One font file and its rendered signs: ink from 0 to 255, cut to the sign."""

    path: Path
    signs: dict[str, np.ndarray]


def faces(packages: dict[str, str], signs: str) -> list[Face]:
    """The faces of `packages` that have every one of `signs`, in the order of their paths."""
    paths = sorted(path for package, pattern in packages.items() for path in _files(package, pattern))
    made = (Face(path, {sign: _render(path, sign) for sign in signs}) for path in paths)
    kept = [face for face in made if all(ink.size and ink.max() > 100 for ink in face.signs.values())]
    # a font without digits draws the same box for each
    return [face for face in kept if len({ink.tobytes() for ink in face.signs.values()}) == len(face.signs)]


def digest(*package_sets: dict[str, str]) -> str:
    """sha256 over the font files of all sets: two machines with the same digest draw the same digits."""
    state = hashlib.sha256()
    for packages in package_sets:
        for path in sorted(path for package, pattern in packages.items() for path in _files(package, pattern)):
            state.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def _files(package: str, pattern: str) -> list[Path]:
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False)
    if listed.returncode:
        every = " ".join(sorted(TRAIN | TRAIN_HAND | HELD_PRINTED | HELD_DISPLAY | HELD_HAND))
        raise SystemExit(f"digit_fonts: {package} is not installed: apt-get install --no-install-recommends {every}")
    paths = {Path(line) for line in listed.stdout.splitlines() if line.lower().endswith((".ttf", ".otf"))}
    stems = {}
    for path in sorted(paths):  # the same face often comes as ttf and otf
        if re.search(pattern, path.name):
            stems.setdefault(path.stem, path)
    return list(stems.values())


def _render(path: Path, sign: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont  # of the training environment alone

    font = ImageFont.truetype(str(path), HEIGHT_PX)
    canvas = Image.new("L", (3 * HEIGHT_PX, 3 * HEIGHT_PX))
    ImageDraw.Draw(canvas).text((HEIGHT_PX, HEIGHT_PX // 2), sign, fill=255, font=font)
    ink = np.asarray(canvas)
    rows, columns = np.nonzero(ink.max(axis=1))[0], np.nonzero(ink.max(axis=0))[0]
    if not rows.size:
        return np.zeros((0, 0), np.uint8)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
