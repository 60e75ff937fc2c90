"""Medians with their spread, of rounds that ran interleaved."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of a few rounds. Raises ValueError when there are none, or one is no number."""
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"no figures to take a median of: {list(values)}")
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "rounds": len(values)}


def ratios(values: Sequence[float], floor: Sequence[float]) -> dict[str, float]:
    """The same of each round's value over its floor in the same round."""
    return spread([value / base for value, base in zip(values, floor, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed, nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """What each contender returned in each round; in every other round they run in reverse, so that none is always
    first."""
    found: dict[str, list[Any]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders.items())
        for name, contend in order if number % 2 == 0 else order[::-1]:
            found[name].append(contend())
    return found


def words(figure: Mapping[str, float], digits: int = 2) -> str:
    """A spread for a table: median (least - most)."""
    return f"{figure['median']:,.{digits}f} ({figure['least']:,.{digits}f} - {figure['most']:,.{digits}f})"
