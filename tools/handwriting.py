"""Real handwritten digits in the files that data sets of them come in, for measuring and never for training.

Owns the formats: IDX images with their labels, tables of MNIST, optdigits, USPS and Semeion as text, and pictures that
are named after their digit; each may be gzipped. Gives grey pictures with light ink on dark, whatever the file has.
"""

import gzip
import hashlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

Digit = tuple[np.ndarray, int]
"""Picture uint8 [n, n], and the digit it shows."""

CELL_PX, INK_PX = 28, 20
"""A small picture, whose ink fills it, is enlarged so that its height takes 20 of the cell's 28 pixels."""
PICTURES = (".png", ".bmp", ".jpg")
TABLES = {65: (0, 64, 16.0, 0.0), 257: (1, 257, 2.0, 1.0), 266: (0, 256, 1.0, 0.0), 785: (1, 785, 255.0, 0.0)}
"""Columns of a table -> first pixel, the one behind the last, span of the values, what is added to them: optdigits
(label last), USPS (label first), Semeion (label as ten columns behind), MNIST (label first)."""


def digits(folder: Path) -> dict[str, list[Digit]]:
    """Every file below `folder` that holds digits, by name. Raises SystemExit when there is none."""
    found = {str(path.relative_to(folder)): list(_read(path)) for path in sorted(folder.rglob("*")) if path.is_file()}
    kept = {name: read for name, read in found.items() if read}
    singles = [name for name, read in kept.items() if len(read) == 1]
    if singles:
        kept["pictures"] = [kept.pop(name)[0] for name in singles]
    if not kept:
        raise SystemExit(f"{folder}: no digits: put IDX, CSV, Semeion or USPS files there, or pictures such as 7_1.png")
    return kept


def halves(read: list[Digit]) -> tuple[list[Digit], list[Digit]]:
    """One half to look at while something is improved, and one to measure it at the end; told apart by the pixels."""
    made: tuple[list[Digit], list[Digit]] = ([], [])
    for image, digit in read:
        made[hashlib.sha256(image.tobytes()).digest()[0] & 1].append((image, digit))
    return made


def _read(path: Path) -> Iterator[Digit]:
    """The digits of one file; nothing when it is none of the formats."""
    name = path.name.removesuffix(".gz")
    if re.search(r"images[.-]idx3", name):
        yield from _idx(path)
    elif Path(name).suffix in PICTURES:
        yield from _picture(path)
    elif Path(name).suffix in (".csv", ".data", ".tes", ".tra", ".test", ".train", ".txt"):
        yield from _table(_bytes(path).decode(errors="replace"))


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _idx(path: Path) -> Iterator[Digit]:
    images, labels = _bytes(path), _bytes(path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1")))
    _, count, high, wide = struct.unpack(">4I", images[:16])
    pixels = np.frombuffer(images, np.uint8, count * high * wide, 16).reshape(count, high, wide)
    yield from zip(map(_cell, pixels), map(int, labels[8:]), strict=True)


def _picture(path: Path) -> Iterator[Digit]:
    """Named 7.png, 7_12.png or sample7.png, or in a folder 7."""
    named = re.fullmatch(r"[a-z]*(\d)([_-].*)?", path.stem) or re.fullmatch(r"(\d)", path.parent.name)
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if named else None
    if named and image is not None:
        yield _cell(image), int(named[1])


def _table(text: str) -> Iterator[Digit]:
    for line in text.splitlines():
        columns = re.split(r"[,;\s]+", line.strip(" ,"))
        if len(columns) not in TABLES or not re.fullmatch(r"-?[\d.eE+-]+", columns[-1]) or not columns[0][:1].isdigit():
            continue
        first, last, span, add = TABLES[len(columns)]
        row = np.array(columns, float)
        label = row[256:].argmax() if len(row) == 266 else row[-1] if len(row) == 65 else row[0]
        side = round((last - first) ** 0.5)
        yield _cell(np.round((row[first:last].reshape(side, side) + add) * (255 / span)).astype(np.uint8)), int(label)


def _cell(image: np.ndarray) -> np.ndarray:
    """Light ink on dark, in a square of at least 28 pixels."""
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    image = 255 - image if np.median(edge) > 127 else image
    if min(image.shape) >= CELL_PX:
        return image
    margin = (CELL_PX - INK_PX) // 2
    large = cv2.resize(image, (INK_PX, INK_PX), interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(large, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
