"""Draws what was found on the picture it was found in.

Owns the look of findings: boxes with label and score, the points of a body with the bones between them, tinted areas,
zones and lines, and a banner for what is said of the whole picture. Words are laid where they hide each other least.
Picture in, picture out; the input is not changed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.drawing import canvas as draw
from agent.drawing.canvas import Pen, Rect
from agent.drawing.colours import BLACK, GROUND, PALETTE, WHITE, Bgr, colour_of
from agent.records import Array, Finding

_BONES = (
    ("left ear", "left eye"), ("left eye", "nose"), ("nose", "right eye"), ("right eye", "right ear"),
    ("left shoulder", "right shoulder"), ("left shoulder", "left elbow"), ("left elbow", "left wrist"),
    ("right shoulder", "right elbow"), ("right elbow", "right wrist"), ("left shoulder", "left hip"),
    ("right shoulder", "right hip"), ("left hip", "right hip"), ("left hip", "left knee"),
    ("left knee", "left ankle"), ("right hip", "right knee"), ("right knee", "right ankle"),
)  # fmt: skip
_LEFT, _RIGHT = PALETTE[:2]
"""Orange and sky blue."""
_MIDDLE: Bgr = (240, 240, 240)
_MOST_LINES = 5
_MOST_TAGS = 60
_WORTH_A_LINE = 0.01
"""Least score of a finding that gets a line below the first."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A zone or a line of the configuration: its name and corners, fractions of the picture."""

    name: str
    corners: tuple[tuple[float, float], ...]
    closed: bool


@dataclass(frozen=True, slots=True)
class Tint:
    """A map of classes over the source picture: int [rows, columns], and what its numbers are called.

    Numbers without a label, and labels that are not told, are not shown.
    """

    numbers: Array
    labels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn besides the findings."""

    labels: Sequence[str] = ()
    """The model's, which decide the colours."""
    tint: Tint | None = None
    shapes: tuple[Shape, ...] = field(default=())
    caption: str = ""
    """A line of small print, e.g. the time in a film."""


def drawn(image: Array, findings: Iterable[Finding], scene: Scene | None = None) -> Array:
    """The picture, uint8 BGR or grey, with all that was found, in a size that is good to look at.

    Raises CaptureError when `image` is no picture.
    """
    scene, found = scene or Scene(), list(findings)
    canvas, factor = draw.enlarged(image)
    pen, taken = draw.pen_for(canvas), list[Rect]()
    if scene.tint is not None:
        _tint(canvas, scene.tint, found, scene, pen)
    for shape in scene.shapes:
        _shape(canvas, shape, pen)
    points = [f for f in found if f.box and _is_point(f)]
    areas = _told_once([f for f in found if f.box and not _is_point(f)])
    if scene.tint is None:
        for finding, _ in reversed(areas):
            draw.box(canvas, _scaled(finding, factor), colour_of(finding.label, scene.labels), pen)
    _body(canvas, points, factor, pen)
    for finding, where in areas[:_MOST_TAGS]:
        text = _words(finding, area=scene.tint is not None) + (f" in {where}" if where else "")
        _label(canvas, text, finding, factor, scene, pen, taken)
    if scene.caption:
        _caption(canvas, scene.caption, pen)
    return _banner(canvas, [f for f in found if not f.box], scene, pen)


def _is_point(finding: Finding) -> bool:
    assert finding.box is not None
    return finding.box[0] == finding.box[2] and finding.box[1] == finding.box[3]


def _told_once(areas: list[Finding]) -> list[tuple[Finding, str]]:
    """Boxes with the places they are in, without those that only say a place: `door/person#7` is a word of person#7."""
    plain = {finding.label for finding in areas if "/" not in finding.label}
    places: dict[str, list[str]] = {}
    for finding in areas:
        place, _, label = finding.label.rpartition("/")
        if place and label in plain:
            seconds = f" {finding.value:.1f} s" if isinstance(finding.value, float) and finding.unit == "s" else ""
            places.setdefault(label, []).append(place + seconds)
    alone = [f for f in areas if "/" not in f.label or f.label.rpartition("/")[2] not in plain]
    return [(f, ", ".join(places.get(f.label, ()))) for f in alone]


def _scaled(finding: Finding, factor: float) -> Rect:
    assert finding.box is not None
    left, top, right, bottom = (round(side * factor) for side in finding.box)
    return left, top, right, bottom


def _tint(canvas: Array, tint: Tint, found: list[Finding], scene: Scene, pen: Pen) -> None:
    high, wide = canvas.shape[:2]
    numbers = draw.stretched(tint.numbers, wide, high)
    told = {finding.label for finding in found}
    for number in np.unique(numbers).tolist():
        label = tint.labels[number] if 0 <= number < len(tint.labels) else str(number)
        if label in told:
            draw.area(canvas, numbers == number, colour_of(label, scene.labels), pen)


def _shape(canvas: Array, shape: Shape, pen: Pen) -> None:
    high, wide = canvas.shape[:2]
    points = [(round(x * wide), round(y * high)) for x, y in shape.corners]
    colour = colour_of(shape.name)
    draw.line(canvas, points, colour, pen, closed=shape.closed)
    left, top = min(points)
    draw.tag(canvas, shape.name, (max(0, left), max(0, top)), colour, Pen(pen.line, max(12, pen.font * 3 // 4)))


def _body(canvas: Array, points: list[Finding], factor: float, pen: Pen) -> None:
    places = {f.label: _scaled(f, factor)[:2] for f in points}
    for a, b in _BONES:
        if a in places and b in places:
            draw.line(canvas, [places[a], places[b]], _side(a, b), pen)
    for label, place in places.items():
        draw.dot(canvas, place, _side(label, label), pen)


def _side(a: str, b: str) -> Bgr:
    """Left is orange and right is blue, what spans both is white."""
    sides = {"left" in name for name in (a, b) if "left" in name or "right" in name}
    return _MIDDLE if len(sides) != 1 else _LEFT if sides == {True} else _RIGHT


def _label(
    canvas: Array, text: str, finding: Finding, factor: float, scene: Scene, pen: Pen, taken: list[Rect]
) -> None:
    """The tag of a box, at the corner where it hides least of the others."""
    left, top, right, bottom = draw.inside(_scaled(finding, factor), canvas)
    wide, high = draw.tag_size(text, pen)
    most_x, most_y = max(0, canvas.shape[1] - wide), max(0, canvas.shape[0] - high)
    corners = (
        (left, top - high), (left, top), (left, bottom), (right - wide, top - high), (left, bottom - high),
        (right, top), (right - wide, bottom),
    )  # fmt: skip
    middle = ((left + right - wide) // 2, (top + bottom - high) // 2)
    ways = [(min(max(0, x), most_x), min(max(0, y), most_y)) for x, y in
            ((middle, *corners) if scene.tint is not None else corners)]  # fmt: skip
    place = min(ways, key=lambda way: sum(_shared((*way, way[0] + wide, way[1] + high), rect) for rect in taken))
    taken.append((*place, place[0] + wide, place[1] + high))
    draw.tag(canvas, text, place, colour_of(finding.label, scene.labels), pen)


def _shared(a: Rect, b: Rect) -> int:
    """How many pixels two rectangles have in common."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _words(finding: Finding, *, area: bool = False) -> str:
    if area and isinstance(finding.value, float):
        return f"{finding.label} {finding.value:.0%}"
    held = finding.value
    unit = f" {finding.unit}" if finding.unit not in (None, "1") else ""
    if held is None or held == finding.label:
        return f"{finding.label} {finding.score:.2f}"
    value = f"{held:.3g}{unit}" if isinstance(held, float) else held
    return f"{finding.label} {value} {finding.score:.2f}"


def _banner(canvas: Array, found: list[Finding], scene: Scene, pen: Pen) -> Array:
    """The canvas, and below it the best findings of the whole picture in lines, each with its score as a bar."""
    rows = sorted(found, key=lambda f: -f.score)[:_MOST_LINES]
    rows = [f for i, f in enumerate(rows) if i == 0 or f.score >= _WORTH_A_LINE]
    if not rows:
        return canvas
    wide = canvas.shape[1]
    font = max(pen.font, round(0.03 * wide))
    step = round(1.6 * font)
    strip = np.full((step * len(rows) + font // 2, wide, 3), GROUND, np.uint8)
    for i, finding in enumerate(rows):
        y, foot = font // 4 + i * step, font // 4 + (i + 1) * step - font // 6
        share = min(1.0, max(0.0, finding.score))
        bar = (0, foot - max(3, font // 6), round(wide * share), foot)
        draw.fill(strip, bar, colour_of(finding.label, scene.labels))
        score = f"{finding.score:.3f}"
        at = wide - draw.text_width(score, font, 600) - 2 * pen.pad
        text = draw.shortened(_named(finding), font, at - font - 2 * pen.pad)
        draw.words(strip, text, (2 * pen.pad, y), WHITE, font, 600 if i == 0 else 400)
        draw.words(strip, score, (at, y), WHITE, font, 600)
    return np.vstack([canvas, strip])


def _named(finding: Finding) -> str:
    plain = finding.value is None or finding.value == finding.label
    return finding.label if plain else f"{finding.label} {finding.value}"


def _caption(canvas: Array, text: str, pen: Pen) -> None:
    wide, _ = draw.tag_size(text, pen)
    draw.tag(canvas, text, (max(0, canvas.shape[1] - wide), 0), BLACK, pen)
