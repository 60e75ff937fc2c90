"""Turns lines of text into rows of numbers, one float64 per channel.

A value that is missing or no number is NaN and counted. A line without any value that could be meant is counted and
left out; the next one goes on. Names come from the configuration, a header line or the first line understood, and
then stay: a sensor that changes its mind does not change the meaning of a channel.
"""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.records import Channel
from agent.settings.capture import LineFormat

TIME_NAMES = ("time", "t", "ts", "time_s", "timestamp")
_ABSENT = {"", "nan", "null", "none", "na", "n/a", "-"}
_MOST_COLUMNS = 256
_FIRST_TIME = "time"


class LineSplitter:
    """Cuts a stream of bytes into lines of at most `max_bytes`; longer ones are left out and counted."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = b""
        self._skipping = False
        self.long_lines = 0

    def push(self, raw: bytes) -> list[bytes]:
        """Give bytes, cut anywhere; get the lines that are whole."""
        *lines, rest = (self._rest + raw).split(b"\n")
        if self._skipping and lines:
            lines, self._skipping = lines[1:], False
        if len(rest) > self._max_bytes or self._skipping:
            self.long_lines += not self._skipping
            rest, self._skipping = b"", True
        self._rest = rest
        whole = [line for line in lines if len(line) <= self._max_bytes]
        self.long_lines += len(lines) - len(whole)
        return whole

    def rest(self) -> bytes:
        """A last line without its end."""
        rest, self._rest = self._rest, b""
        return rest


@dataclass(frozen=True, slots=True)
class Row:
    """One understood line. `t_s` is its own time in seconds since 1970, or since whatever the sender counts from."""

    values: npt.NDArray[np.float64]
    t_s: float | None = None


class _NotUnderstoodError(Exception):
    """This line means nothing here."""


class LineParser:
    """Remembers the names of the columns and counts what it could not use."""

    def __init__(self, config: LineFormat) -> None:
        self._config = config
        self._header: list[str] = []
        self._time = config.time
        self.channels: tuple[Channel, ...] = ()
        """Known after the first row."""
        self.bad_lines = 0
        self.not_a_number = 0
        """Values delivered as NaN."""
        self.last_bad = ""
        """The last line that was not understood, shortened."""

    def parse(self, line: bytes) -> Row | None:
        """One line -> a row; None for an empty line, a header, or a bad line."""
        text = line.decode(errors="replace").strip().lstrip("\ufeff")
        if not text:
            return None
        try:
            fields = self._json(text) if self._config.format == "json" else self._csv(text)
            return self._row(fields) if fields is not None else None
        except _NotUnderstoodError:
            self.bad_lines += 1
            self.last_bad = text[:80]
            return None

    def look_at(self, line: bytes) -> None:
        """Learn the names of the columns from `line` if it is a header; a row teaches nothing and is not counted."""
        values = line.decode(errors="replace").strip().lstrip("\ufeff").split(self._config.separator)
        if self._config.format == "csv" and not self._header and _is_header(values):
            self._header = [name.strip() for name in values]

    def _csv(self, text: str) -> Mapping[str, Any] | None:
        try:
            values = next(csv.reader([text], delimiter=self._config.separator))
        except csv.Error as exc:
            raise _NotUnderstoodError from exc
        if not self._header:
            if _is_header(values):
                self._header = [name.strip() for name in values]
                return None
            self._header = self._names_for(values)
        if len(values) != len(self._header):
            raise _NotUnderstoodError
        if values == self._header:  # the writer began a new file
            return None
        return dict(zip(self._header, values, strict=True))

    def _names_for(self, values: list[str]) -> list[str]:
        """Names of the fields of a table without a header line."""
        if len(values) > _MOST_COLUMNS or all(_number(v) is None for v in values):
            raise _NotUnderstoodError
        if self._config.columns:
            return list(self._config.columns)
        names = [f"c{i}" for i in range(len(values))]
        if _number(values[0]) is None and _moment_s(values[0]) is not None:
            names = [_FIRST_TIME, *names[:-1]]
        return names

    def _json(self, text: str) -> Mapping[str, Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise _NotUnderstoodError from exc
        if isinstance(found, list):
            names = self._config.columns or tuple(f"c{i}" for i in range(len(found)))
            found = dict(zip(names, found, strict=False)) if len(found) == len(names) else None
        if not isinstance(found, dict) or not _is_text("".join(found)):
            raise _NotUnderstoodError
        return found

    def _row(self, fields: Mapping[str, Any]) -> Row:
        if not self.channels:
            self._settle(fields)
        numbers = [_number(fields.get(channel.name)) for channel in self.channels]
        if all(n is None for n in numbers) and not any(c.name in fields for c in self.channels):
            raise _NotUnderstoodError
        if all(n is None and not _is_absent(fields.get(c.name)) for n, c in zip(numbers, self.channels, strict=True)):
            raise _NotUnderstoodError
        self.not_a_number += sum(n is None for n in numbers)
        values = np.array([math.nan if n is None else n for n in numbers])
        return Row(values, _moment_s(fields.get(self._time)) if self._time else None)

    def _settle(self, fields: Mapping[str, Any]) -> None:
        """Decide, at the first row, which fields are channels and which is the time."""
        time = self._config.time or next((n for n in fields if n.strip().lower() in TIME_NAMES), "")
        numeric = [n for n, v in fields.items() if _number(v) is not None or _is_absent(v)]
        names = [n for n in self._config.columns or numeric if n != time][:_MOST_COLUMNS]
        if not names or all(_number(fields.get(n)) is None for n in names):
            raise _NotUnderstoodError
        self._time = time
        self.channels = tuple(Channel(n, self._config.units.get(n, "1")) for n in names)


def _is_header(values: list[str]) -> bool:
    return all(v.strip() and _number(v) is None and _moment_s(v) is None and not _is_absent(v) for v in values)


def _is_text(name: str) -> bool:
    """JSON can spell half of a character ("\\ud800"): no event could carry such a name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_absent(value: Any) -> bool:
    not_finite = isinstance(value, float) and not math.isfinite(value)
    return value is None or not_finite or str(value).strip().lower() in _ABSENT


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        return None  # Python reads 1_000 as a number; no sensor means that
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _moment_s(value: Any) -> float | None:
    """Seconds from a number or from an ISO 8601 time (UTC when it names no zone), or None."""
    number = _number(value)
    if number is not None or not isinstance(value, str):
        return number
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
