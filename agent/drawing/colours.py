"""Colours that keep to their label from picture to picture, and that people with colour blindness can tell apart.

Source: Okabe and Ito, "Color Universal Design" (2008), without black; further ones are the same, darker and lighter.
"""

import zlib
from collections.abc import Sequence

Bgr = tuple[int, int, int]

_FIRST: tuple[Bgr, ...] = (
    (0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (178, 114, 0), (0, 94, 213), (167, 121, 204),
)  # fmt: skip
"""Orange, sky blue, bluish green, yellow, blue, vermillion, reddish purple."""

BLACK: Bgr = (0, 0, 0)
WHITE: Bgr = (255, 255, 255)
GROUND: Bgr = (24, 24, 24)
"""Behind and below pictures."""


def _toned(colour: Bgr, towards: int, share: float) -> Bgr:
    blue, green, red = (round(c + (towards - c) * share) for c in colour)
    return blue, green, red


PALETTE: tuple[Bgr, ...] = (
    *_FIRST, *(_toned(c, 0, 0.35) for c in _FIRST), *(_toned(c, 255, 0.45) for c in _FIRST),
)  # fmt: skip


def kind_of(label: str) -> str:
    """The class of a label that steps behind a decoder have changed: `door/person#7` is a person."""
    return label.rpartition("/")[2].partition("#")[0]


def colour_of(label: str, labels: Sequence[str] = ()) -> Bgr:
    """The colour of a label: by its place among the model's labels, or else by its letters."""
    kind = kind_of(label)
    if kind in labels:
        return PALETTE[labels.index(kind) % len(PALETTE)]
    return _FIRST[zlib.crc32(kind.encode()) % len(_FIRST)]


def ink_on(colour: Bgr) -> Bgr:
    """Black or white, whichever is easier to read on `colour`. Luma as in ITU-R BT.601."""
    blue, green, red = colour
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else WHITE
