"""Polygons: what lies inside, and on which side of a line. Pure numpy.

A polygon is a list of corners (x, y); it closes itself and may be concave. What its edge runs through twice (a figure
of eight) is outside: the even-odd rule. Coordinates count pixel edges, as in `pipelines.image`.
"""

import math

import numpy as np

from agent.records import Array

Point = tuple[float, float]
Polygon = tuple[Point, ...]


def inside(polygon: Polygon, x: Array, y: Array) -> Array:
    """Which of the points lie inside; bool of the shape that `x` and `y` broadcast to.

    Source: crossing number of a ray to the right; an edge counts its upper end and not its lower one, so that polygons
    that share an edge never share a point.
    """
    made = np.zeros(np.broadcast(x, y).shape, bool)
    for (ax, ay), (bx, by) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if ay == by:
            continue
        spans = (ay > y) != (by > y)
        made ^= spans & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return made


def cover(polygon: Polygon, width: int, height: int) -> Array:
    """bool [height, width]: the pixels that the polygon touches, so that a mask leaves no seam.

    A pixel counts when its middle lies inside, or an edge runs through it.
    """
    made = inside(polygon, (np.arange(width) + 0.5)[None, :], (np.arange(height) + 0.5)[:, None])
    for (ax, ay), (bx, by) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        steps = max(2, 2 * math.ceil(max(abs(bx - ax), abs(by - ay))) + 1)  # two points per pixel leave out none
        columns = np.clip(np.floor(np.linspace(ax, bx, steps)).astype(int), 0, width - 1)
        rows = np.clip(np.floor(np.linspace(ay, by, steps)).astype(int), 0, height - 1)
        made[rows, columns] = True
    return made


def area(polygon: Polygon) -> float:
    """Area by the shoelace formula; 0 when all corners lie on a line."""
    pairs = zip(polygon, (*polygon[1:], polygon[0]), strict=True)
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) / 2


def side(line: tuple[Point, Point], point: Point) -> float:
    """Positive on the right of the line when one looks from its first point to its second, in a picture (y down)."""
    (ax, ay), (bx, by) = line
    return (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax)


def crosses(line: tuple[Point, Point], start: Point, end: Point) -> int:
    """1 when the way from `start` to `end` crosses the line from its left to its right, -1 the other way, else 0.

    A way that ends on the line has crossed it when it started on the left, so that stopping on it counts once.
    """
    before, after = side(line, start) >= 0, side(line, end) >= 0
    if before == after:
        return 0
    one, other = side((start, end), line[0]), side((start, end), line[1])
    if (one > 0) == (other > 0) and one != 0 and other != 0:
        return 0
    return 1 if after else -1


def distance(line: tuple[Point, Point], point: Point) -> float:
    """From a point to the nearest point of the line between two points."""
    (ax, ay), (bx, by) = line
    dx, dy = bx - ax, by - ay
    along = ((point[0] - ax) * dx + (point[1] - ay) * dy) / (dx * dx + dy * dy)
    along = min(max(along, 0.0), 1.0)
    return math.hypot(point[0] - ax - along * dx, point[1] - ay - along * dy)
