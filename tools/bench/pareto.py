"""A drawing of rivals: for each stream a small panel, work saved upwards, wrong answers to the right."""

from collections.abc import Iterator, Mapping
from typing import Any

from tools.bench.chart import BLUE, GREY, GRID, INK, RED, SOFT, YELLOW, text

COLUMNS = 4
WIDE, TALL, LEFT, TOP = 178, 150, 46, 96
"""A panel, and the margins of the drawing; pixels."""
_RIGHT, _UP = WIDE - 34, TALL - 18
"""Extent of what is drawn in a panel."""
MOST_WRONG = 0.05
"""The right edge of a panel; what lies beyond is drawn on it."""
FAMILIES = {"largest": (BLUE, "fixed, largest difference"), "mean": (YELLOW, "fixed, mean difference")}


def draw(streams: Mapping[str, Any], target: float) -> str:
    """SVG of all streams; `target` is the allowed share of wrong answers."""
    rows = -(-len(streams) // COLUMNS)
    width, height = COLUMNS * WIDE + LEFT + 10, TOP + rows * (TALL + 34)
    made = list(_head(target))
    for n, (name, stream) in enumerate(streams.items()):
        row, column = divmod(n, COLUMNS)
        left, top = LEFT + column * WIDE, TOP + row * (TALL + 34)
        made += [*_panel(name, left, top, column == 0), *_points(stream["rivals"], target, left, top)]
    font = "font-family='-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"
    size = f"viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
    frame = f"<rect width='{width}' height='{height}' rx='8' fill='#ffffff' stroke='{GRID}'/>"
    return "\n".join([f"<svg xmlns='http://www.w3.org/2000/svg' {size} {font}>", frame, *made, "</svg>", ""])


def _head(target: float) -> Iterator[str]:
    yield text(20, 30, "Similar pictures: work saved, and what it costs in wrong answers", INK, 16, weight=600)
    words = "up: share of pictures not computed (ring: once settled); right: share of reused answers that differ"
    yield text(20, 50, words, SOFT, 12)
    x = 20.0
    entries = (*FAMILIES.values(), (RED, "adaptive"), (GREY, f"the allowed {target:.0%}"))
    for colour, words in entries:
        yield f"<rect x='{x:.0f}' y='62' width='11' height='11' rx='2' fill='{colour}'/>"
        yield text(x + 16, 72, words, SOFT, 12)
        x += 34 + 6.4 * len(words)


def _panel(name: str, left: float, top: float, first: bool) -> Iterator[str]:
    """Name, grid and scales; only the first of a row says what the height means."""
    yield text(left, top + 6, name, INK, 12, weight=600)
    for share in (0.0, 0.5, 1.0):
        y = top + TALL - share * _UP
        yield f"<path d='M{left} {y:.1f}h{_RIGHT}' stroke='{GRID}'/>"
        if first:
            yield text(left - 5, y + 4, f"{share:.0%}", SOFT, 10, "end")
    for share in (0.0, 0.01, 0.03, MOST_WRONG):
        words = f"{share:.0%}" + ("+" if share == MOST_WRONG else "")
        yield text(left + share / MOST_WRONG * _RIGHT, top + TALL + 14, words, SOFT, 10, "middle")


def _points(contestants: Mapping[str, Any], target: float, left: float, top: float) -> Iterator[str]:
    def place(one: Mapping[str, float], saved: str = "saved_share") -> tuple[float, float]:
        share = min(one["wrong_share_of_reused"] / MOST_WRONG, 1.0)
        return left + share * _RIGHT, top + TALL - one[saved] * _UP

    goal = left + target / MOST_WRONG * _RIGHT
    yield f"<path d='M{goal:.1f} {top + 14}V{top + TALL}' stroke='{GREY}' stroke-width='1.5' stroke-dasharray='3 2'/>"
    for family, (colour, _) in FAMILIES.items():
        ways = [place(one) for key, one in contestants.items() if key.startswith(family) and one["reused_views"]]
        if ways:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ways)
            yield f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='1.2'/>"
        yield from (f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.6' fill='{colour}'/>" for x, y in ways)
    mine = contestants["adaptive"]
    x, y = place(mine)
    yield f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='{RED}' stroke='#ffffff'/>"
    if mine["settled_saved_share"]:
        x, y = place(mine, "settled_saved_share")
        yield f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.5' fill='none' stroke='{RED}' stroke-width='1.8'/>"
