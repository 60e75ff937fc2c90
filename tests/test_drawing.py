"""Pixels of what people look at: boxes where they belong, colours that keep to their label, plots that lose no peak."""

import re

import cv2
import numpy as np
import pytest

from agent.drawing.blocks import blocks
from agent.drawing.canvas import LEAST_PX, MOST_PX, png, shortened, text_width
from agent.drawing.colours import PALETTE, colour_of, ink_on, kind_of
from agent.drawing.picture import Scene, Shape, Tint, drawn
from agent.drawing.plot import Curve, plotted
from agent.drawing.sheet import sheet
from agent.errors import CaptureError
from agent.records import Finding

LABELS = ("person", "dog", "cat")


def grey(high=720, wide=720, value=128):
    return np.full((high, wide, 3), value, np.uint8)


def shows(picture, colour, near=12):
    """Where the picture has a colour."""
    return (np.abs(picture.astype(int) - colour) <= near).all(axis=2)


def test_a_box_is_drawn_where_it_is_and_the_picture_is_left_alone():
    """Its four sides have the label's colour, its inside that of the picture; the input keeps its pixels."""
    image = grey()
    made = drawn(image, [Finding("dog", 0.9, (100, 200, 500, 600))], Scene(LABELS))
    there = shows(made, colour_of("dog", LABELS))
    assert there[400, 100]
    assert there[400, 500]
    assert there[200, 480]
    assert there[600, 300]
    assert (made[300:550, 150:450] == 128).all()
    assert (image == 128).all()


@pytest.mark.parametrize(("size", "longer"), [((28, 28), LEAST_PX), ((120, 160), LEAST_PX), ((900, 1200), 1200),
                                              ((3000, 4000), MOST_PX)])  # fmt: skip
def test_pictures_of_any_size_are_drawn_in_one_that_is_good_to_look_at(size, longer):
    """Small ones grow, large ones shrink, boxes with them."""
    high, wide = size
    made = drawn(grey(high, wide), [Finding("cat", 0.5, (wide / 4, high / 4, wide / 2, high / 2))], Scene(LABELS))
    assert max(made.shape[:2]) == longer
    column = shows(made, colour_of("cat", LABELS))[round(made.shape[0] * 0.4)]
    assert abs(np.flatnonzero(column).mean() / made.shape[1] - 0.375) < 0.01


def test_grey_pictures_are_drawn_in_colour_and_arrays_that_are_none_are_refused():
    """[h, w] becomes three channels; floats are no picture."""
    assert drawn(np.zeros((100, 100), np.uint8), []).shape == (720, 720, 3)
    with pytest.raises(CaptureError, match="it needs uint8 pixels"):
        drawn(np.zeros((10, 10)), [])


def test_words_of_two_boxes_in_one_place_do_not_hide_each_other():
    """The second tag goes to another corner."""
    both = [Finding("person", 0.9, (200, 300, 400, 500)), Finding("dog", 0.8, (200, 300, 400, 500))]
    made = drawn(grey(), both, Scene(LABELS))
    alone = [shows(drawn(grey(), [one], Scene(LABELS)), colour_of(one.label, LABELS)).sum() for one in both]
    together = [shows(made, colour_of(one.label, LABELS)).sum() for one in both]
    assert together[0] > 0.9 * alone[0] - 4 * 800  # the other box's line lies over its own
    assert together[1] > 0.3 * alone[1]


def test_a_track_is_named_with_the_zone_it_is_in_once():
    """door/person#7 is a word in person#7's tag and no second box."""
    box = (200, 300, 400, 500)
    alone = drawn(grey(), [Finding("person#7", 0.9, box)], Scene(LABELS))
    made = drawn(grey(), [Finding("person#7", 0.9, box), Finding("door/person#7", 0.9, box, value=3.2, unit="s")],
                 Scene(LABELS))  # fmt: skip
    colour = colour_of("person", LABELS)
    assert shows(made, colour).sum() > shows(alone, colour).sum()
    assert (made[310:490, 210:390] == 128).all()
    assert kind_of("door/person#7") == "person"


def test_points_of_a_body_are_joined_by_bones():
    """Left is orange, right is blue, and what joins two points lies between them."""
    points = {"left hip": (500, 300), "left knee": (500, 500), "right hip": (200, 300), "right knee": (200, 500)}
    made = drawn(grey(), [Finding(label, 0.9, (*at, *at)) for label, at in points.items()])
    assert shows(made, (0, 159, 230))[400, 500]
    assert shows(made, (233, 180, 86))[400, 200]
    assert shows(made, (240, 240, 240))[300, 350]


def test_a_segmented_area_is_tinted_and_the_rest_is_not():
    """Only classes that are told; the picture shows through."""
    numbers = np.zeros((10, 10), int)
    numbers[:5, :5], numbers[5:, 5:] = 2, 1
    made = drawn(grey(), [Finding("cat", 1.0, (0, 0, 360, 360), value=0.25)], Scene(LABELS, Tint(numbers, LABELS)))
    mixed = np.add(np.multiply(colour_of("cat", LABELS), 0.5), 64)
    assert np.abs(made[100, 100] - mixed).max() <= 2
    assert (made[100, 600] == 128).all()
    assert (made[600, 600] == 128).all()


def test_what_is_said_of_the_whole_picture_stands_below_it():
    """A line per label with its score as a bar; the picture itself stays whole."""
    found = [Finding("cat", 0.75), Finding("dog", 0.2), Finding("person", 0.001)]
    made = drawn(grey(), found, Scene(LABELS))
    assert (made[:720] == 128).all()
    bars = shows(made[720:], colour_of("cat", LABELS)).any(axis=0)
    assert abs(np.flatnonzero(bars).max() / 720 - 0.75) < 0.01
    assert not shows(made[720:], colour_of("person", LABELS)).any()


def test_zones_and_lines_are_drawn_in_fractions_of_the_picture():
    """A polygon is closed, a line is not."""
    shapes = (Shape("yard", ((0.2, 0.5), (0.5, 0.5), (0.5, 0.9), (0.2, 0.9)), closed=True),
              Shape("gate", ((0.8, 0.2), (0.8, 0.8)), closed=False))  # fmt: skip
    made = drawn(grey(), [], Scene(shapes=shapes))
    assert shows(made, colour_of("yard"))[round(0.7 * 720), 144]
    assert shows(made, colour_of("gate"))[400, 576]


def test_a_colour_keeps_to_its_label():
    """By its place among the model's labels, else by its letters; tracks and zones have that of their class."""
    assert colour_of("dog", LABELS) == colour_of("yard/dog#3", LABELS) == PALETTE[1]
    assert colour_of("dog") == colour_of("dog#9")
    assert len(set(PALETTE)) == len(PALETTE) == 21


def _linear(colours):
    shares = np.array(colours, float)[:, ::-1] / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("matrix", [
    [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
], ids=["protan", "deutan"])  # fmt: skip
def test_the_first_colours_are_told_apart_by_the_colour_blind(matrix):
    """As Vienot, Brettel and Mollon (1999) simulate it: no two of the seven fall together."""
    seen = _linear(PALETTE[:7]) @ np.array(matrix).T
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(7, 1)]
    assert apart.min() > 0.08


def test_words_on_a_plate_are_black_or_white_whichever_is_read_better():
    """WCAG asks for a contrast of 3 for large bold letters."""
    luminance = lambda c: float(_linear([c])[0] @ [0.2126, 0.7152, 0.0722])  # noqa: E731
    for colour in PALETTE:
        light, dark = sorted((luminance(colour), luminance(ink_on(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, colour


def test_long_words_are_cut_to_their_room():
    """With an ellipsis; short ones stay."""
    assert shortened("cat", 20, 400) == "cat"
    cut = shortened("a very long label of a class that nobody can read", 20, 150)
    assert cut.endswith("…")
    assert text_width(cut, 20) <= 150


def test_a_png_holds_the_very_pixels():
    """Decoded, it is the picture again."""
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    assert (cv2.imdecode(np.frombuffer(png(image), np.uint8), cv2.IMREAD_COLOR) == image).all()


def test_half_blocks_show_two_pixels_in_a_character():
    """The upper one is the letter's colour, the lower one the ground's; every line sets colours back."""
    image = np.zeros((4, 2, 3), np.uint8)
    image[0::2], image[1::2] = (10, 20, 30), (200, 100, 50)
    text = blocks(image, 2, 2)
    lines = text.split("\n")
    assert len(lines) == 2
    for line in lines:
        assert re.findall(r"\x1b\[38;2;30;20;10;48;2;50;100;200m", line)
        assert line.count("▀") == 2
        assert line.endswith("\x1b[0m")


@pytest.mark.parametrize("shape", [(1, 1), (1000, 3), (3, 1000), (720, 1280)])
def test_a_picture_of_any_shape_fits_the_terminal(shape):
    """Never wider or higher than asked for."""
    lines = blocks(np.zeros((*shape, 3), np.uint8), 80, 24).split("\n")
    assert 1 <= len(lines) <= 24
    assert max(line.count("▀") for line in lines) <= 80


def test_a_sheet_shows_every_picture_in_order():
    """Six pictures of 16 : 9 lie in rows; a single one stays as it is."""
    pictures = [np.full((90, 160, 3), 40 * i + 30, np.uint8) for i in range(6)]
    made = sheet(pictures)
    values = [v for v in dict.fromkeys(made[:, :, 0].ravel().tolist()) if v != 24]
    assert values == [40 * i + 30 for i in range(6)]
    assert sheet(pictures[:1]) is pictures[0]
    with pytest.raises(ValueError, match="needs a picture"):
        sheet([])


def sound(seconds=10.0, rate=1000):
    t_s = np.arange(round(seconds * rate)) / rate
    return Curve("sound", t_s, 0.1 * np.sin(t_s * 50))


def test_a_plot_tints_what_was_found_and_draws_a_bar_as_high_as_its_score():
    """Two spans of one label in a row of its own, half a score half as high."""
    found = [Finding("cat", 1.0, interval=(2.0, 4.0)), Finding("cat", 0.5, interval=(6.0, 8.0))]
    made = plotted("x", [sound()], found, LABELS)
    bars = shows(made, colour_of("cat", LABELS), near=2)
    columns = bars.any(axis=0)
    plot = np.flatnonzero(columns)
    share = (plot - 150) / (1400 - 150 - 24)
    assert share.min() == pytest.approx(0.2, abs=0.01)
    assert share.max() == pytest.approx(0.8, abs=0.01)
    high, low = bars[:, 150 + round(0.38 * 1226)].sum(), bars[:, 150 + round(0.78 * 1226)].sum()
    assert high == pytest.approx(2 * low, abs=2)
    tinted = [150 + round(share * 1226) for share in (0.3, 0.7)]
    assert (made[60:260, tinted] == 255).all(axis=2).sum() == 0
    assert (made[60:260, 150 + round(0.5 * 1226)] == 255).all(axis=1).sum() > 50


def test_bars_over_each_other_have_one_score():
    """That of the best one; numbers under other bars would be unreadable. Bars side by side have one each."""
    curve = Curve("sound", np.linspace(0, 4, 4000), np.zeros(4000))

    def inked(*spans):
        """The columns in which something is written on a bar."""
        found = [Finding("yes", score, interval=span) for score, span in spans]
        row = plotted("t", [curve], found)[-92:-56, 150:]
        bar = np.all(row == np.array(colour_of("yes")), axis=2)
        paper = np.all(row > 220, axis=2)
        return np.flatnonzero((bar.any(axis=0)) & ((~bar & ~paper).any(axis=0)))

    over = inked((0.9, (0.0, 1.0)), (0.96, (0.5, 1.5)), (0.93, (1.0, 2.0)))
    second = 1226 / 4
    assert over.size
    assert over.min() > 0.5 * second
    assert over.max() < second
    beside = inked((0.9, (0.0, 1.0)), (0.96, (2.0, 3.0)))
    assert beside.min() < 0.5 * second
    assert beside.max() > 2 * second


def test_a_plot_loses_no_peak_of_a_long_sound():
    """One sample of a million is a line from top to bottom."""
    curve = sound(1000.0)
    curve.values[400_000] = 1.0
    made = plotted("x", [curve], [])
    column = 150 + round(0.4 * 1226)
    ink = shows(made[60:260, column - 2 : column + 3], (70, 70, 70), near=2).any(axis=1)
    assert ink.sum() > 150


def test_a_plot_takes_holes_constants_and_many_channels():
    """NaN is left out, a flat line is drawn, six channels at most."""
    t_s = np.arange(100.0)
    holes = np.where(t_s % 7 == 0, np.nan, t_s)
    flat, empty = np.full(100, 5.0), np.full(100, np.nan)
    made = plotted("x", [Curve("a", t_s, holes), Curve("b", t_s, flat), Curve("c", t_s, empty)], [])
    assert made.shape[1] == 1400
    assert plotted("x", [Curve(str(i), t_s, t_s) for i in range(9)], []).shape[0] < 1600
    with pytest.raises(ValueError, match="needs a curve"):
        plotted("x", [], [])


@pytest.mark.parametrize("top", [5e-324, 1e-322, 1e-310, 1e299, 1.7e308])
def test_a_plot_takes_the_smallest_and_the_largest_numbers(top):
    """As values and as times, where a power of ten is no longer a number."""
    t_s = np.arange(4.0)
    values = np.array([-top, 0.0, top, 1.0 if top > 1 else top])
    assert plotted("x", [Curve("a", t_s, values)], []).shape[1] == 1400
    if top < 1:
        assert plotted("x", [Curve("a", np.array([0.0, top]), np.ones(2))], []).shape[1] == 1400


def test_a_plot_of_days_is_marked_in_days():
    """The axis has the unit that fits; a single reading is a plot too."""
    t_s = np.arange(0, 10 * 86400, 600.0)
    days, seconds = (plotted("x", [Curve("a", t_s * f, t_s)], []) for f in (1, 1e-5))
    assert (days[-40:, :140] != seconds[-40:, :140]).any()
    assert plotted("x", [Curve("a", np.zeros(1), np.ones(1))], []).size
