"""Counts what happens: counters, gauges and summaries, and their Prometheus text (exposition format 0.0.4).

Owns the numbers; where they are served is `agent.exposition`. Made for the hot path: `inc` and `observe` hold the
lock of their own series for well under a microsecond. Bounded: a metric keeps at most `series_limit` label
combinations (the rest is counted together under "other"), a summary keeps its newest 1,024 observations.
"""

import math
import re
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

RECENT = 1024
"""Observations over which a summary's quantiles are computed; count and sum are since the start."""
QUANTILES = (0.5, 0.95, 0.99)
OTHER = "other"
"""Label value of the series that holds what `series_limit` left no room for."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Counter:
    """A number that only grows."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add `amount`, which must not be negative."""
        if amount < 0:
            raise ValueError("a counter only grows")
        with self._lock:
            self._value += amount

    @property
    def value(self) -> float:
        """The count since the start."""
        return self._value

    def lines(self) -> Iterator[tuple[str, str, float]]:
        """(suffix of the name, quantile or "", value) for the exposition."""
        yield "", "", self._value


class Gauge:
    """A number that goes up and down, set by hand or read from a function when it is asked for."""

    __slots__ = ("_read", "_value")

    def __init__(self) -> None:
        self._read: Callable[[], float] | None = None
        self._value = 0.0

    def set(self, value: float) -> None:
        """The number is now `value`."""
        self._value = value

    def read_from(self, read: Callable[[], float]) -> None:
        """Ask `read` whenever the number is wanted. It must be quick, and is called from the serving lane."""
        self._read = read

    @property
    def value(self) -> float:
        """The number now."""
        return self._value if self._read is None else self._read()

    def lines(self) -> Iterator[tuple[str, str, float]]:
        """(suffix of the name, quantile or "", value) for the exposition."""
        yield "", "", self.value


class Summary:
    """Count and sum of observations since the start, and quantiles of the newest `RECENT`."""

    __slots__ = ("_count", "_lock", "_recent", "_sum")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent = array("d")
        self._count = 0
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Take one observation in the unit that the metric's name ends in."""
        with self._lock:
            if self._count < RECENT:
                self._recent.append(value)
            else:
                self._recent[self._count % RECENT] = value
            self._count += 1
            self._sum += value

    @property
    def count(self) -> int:
        """Observations since the start."""
        return self._count

    def quantiles(self) -> tuple[float, ...]:
        """Values at `QUANTILES` by nearest rank; NaN when nothing was observed."""
        with self._lock:
            recent = sorted(self._recent)
        if not recent:
            return (math.nan,) * len(QUANTILES)
        return tuple(recent[max(0, math.ceil(q * len(recent)) - 1)] for q in QUANTILES)

    def lines(self) -> Iterator[tuple[str, str, float]]:
        """(suffix of the name, quantile or "", value) for the exposition."""
        for quantile, value in zip(QUANTILES, self.quantiles(), strict=True):
            yield "", str(quantile), value
        yield "_sum", "", self._sum
        yield "_count", "", self._count


S = TypeVar("S", Counter, Gauge, Summary)


class Family(Generic[S]):
    """One metric with its label names; `at(...)` is the series of some label values."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], make: type[S], limit: int) -> None:
        self.name, self.text, self.label_names = name, text, labels
        self.kind = make.__name__.lower()
        self._make: type[S] = make
        self._limit = limit
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], S] = {}

    def at(self, *values: str) -> S:
        """The series with these label values, in the order of the label names. Keep it where it is used often."""
        found = self._series.get(values)
        if found is not None:
            return found
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has labels {self.label_names}, not {values}")
        with self._lock:
            full = len(self._series) >= self._limit and values not in self._series
            return self._series.setdefault((OTHER,) * len(values) if full else values, self._make())

    def series(self) -> list[tuple[tuple[str, ...], S]]:
        """All series, in the order of their label values."""
        with self._lock:
            return sorted(self._series.items())


class Registry:
    """All metrics of one agent. Asking twice for the same metric gives the same one."""

    def __init__(self, series_limit: int = 200) -> None:
        """`series_limit` is the number of label combinations kept per metric."""
        self._limit = series_limit
        self._lock = threading.Lock()
        self._families: dict[str, Family[Any]] = {}

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Family[Counter]:
        """A counter; its name ends in `_total`. `text` is one sentence for people."""
        if not name.endswith("_total"):
            raise ValueError(f"{name}: the name of a counter ends in _total")
        return self._family(name, text, tuple(labels), Counter)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Family[Gauge]:
        """A gauge; its name ends in its unit."""
        return self._family(name, text, tuple(labels), Gauge)

    def summary(self, name: str, text: str, labels: Sequence[str] = ()) -> Family[Summary]:
        """A summary with p50, p95 and p99; its name ends in its unit, such as `_seconds`."""
        return self._family(name, text, tuple(labels), Summary)

    def text(self) -> str:
        """All metrics in the exposition format 0.0.4."""
        with self._lock:
            families = sorted(self._families.items())
        return "".join(line for _, family in families for line in _expose(family))

    def _family(self, name: str, text: str, labels: tuple[str, ...], make: type[S]) -> Family[S]:
        if not all(_NAME.fullmatch(word) for word in (name, *labels)):
            raise ValueError(f"{name}{labels}: names are lower case letters, digits and '_'")
        with self._lock:
            family = self._families.setdefault(name, Family(name, text, labels, make, self._limit))
        if family.kind != make.__name__.lower() or family.label_names != labels:
            raise ValueError(f"{name} is already a {family.kind} with labels {family.label_names}")
        return family


def _expose(family: Family[Any]) -> Iterator[str]:
    text = family.text.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {family.name} {text}\n# TYPE {family.name} {family.kind}\n"
    for values, series in family.series():
        for suffix, quantile, number in series.lines():
            pairs = [*zip(family.label_names, values, strict=True), *([("quantile", quantile)] if quantile else [])]
            labels = ",".join(f'{name}="{_escape(value)}"' for name, value in pairs)
            yield f"{family.name}{suffix}{'{' + labels + '}' if labels else ''} {_number(number)}\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
