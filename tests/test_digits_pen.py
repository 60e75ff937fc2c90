"""The pen that writes training digits: all ways are written, no two alike, none cut off by the edge of its sheet."""

import numpy as np
import pytest

from tools import digit_camera, digit_pen, digit_scenes
from tools.digit_strokes import WAYS


def _rng(*seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("digit", range(10))
def test_a_digit_is_cut_to_its_ink_and_never_twice_the_same(digit):
    """The same seed gives the same ink, another one other ink; there is ink in every outer row and column."""
    seen = set()
    for seed in range(40):
        ink = digit_pen.handwritten(_rng(digit, seed), digit)
        again = digit_pen.handwritten(_rng(digit, seed), digit)
        assert ink.dtype == np.uint8 and np.array_equal(ink, again)
        assert all(edge.max() > 40 for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))
        seen.add(ink.tobytes())
    assert len(seen) == 40


def test_every_way_of_writing_stays_on_the_sheet(monkeypatch):
    """Slant, turn and overshoot lead at most one digit in a hundred to the edge of the paper, with any pen."""
    drawn = []
    real = digit_pen._drawn
    monkeypatch.setattr(digit_pen, "_drawn", lambda *args: drawn.append(real(*args)) or drawn[-1])
    for digit, ways in list(WAYS.items()):
        for n, way in enumerate(ways):
            monkeypatch.setitem(digit_pen.WAYS, digit, [way])
            for seed in range(20):
                digit_pen.handwritten(_rng(digit, n, seed), digit)
    cut = [max(edge.max() for edge in (s[0], s[-1], s[:, 0], s[:, -1])) > 0 for s in drawn]
    assert len(cut) > 1000
    assert np.mean(cut) < 0.01


def test_a_photograph_is_a_grey_picture_of_few_pixels():
    """Of any scene: uint8, square, 11 to 56 pixels, and the model's own steps make 28 x 28 of it."""
    sources = digit_scenes.Sources(drawn_hand=1.0)
    for index in range(60):
        image, digit = digit_scenes.photo(5, index, sources, {"hand": 0.5, "segment": 0.25, "dots": 0.25})
        again, _ = digit_scenes.photo(5, index, sources, {"hand": 0.5, "segment": 0.25, "dots": 0.25})
        assert image.dtype == np.uint8 and image.shape[0] == image.shape[1]
        assert 11 <= image.shape[0] <= digit_camera.CANVAS_PX and 0 <= digit < 10
        assert np.array_equal(image, again)
        assert digit_scenes.prepared(image).shape == (28, 28)
