"""Reads FlatBuffers, the format of TFLite files, by field number and without a schema compiler.

Owns the walk from table to field; what the numbers mean is the business of `agent.skeleton.tflite`. Copies only what is
asked for. Raises ValueError where an offset leads out of the file, and when more is asked for than `MOST_BYTES` hold: a
million offsets may lead to the same place, so the size of a file bounds nothing.
Source: the FlatBuffers format description (tables, vtables, vectors, strings).
"""

import struct
from dataclasses import dataclass, field
from typing import Final

MOST_BYTES: Final = 1 << 26
"""Memory that what is read of one file may take, about."""
_ELEMENT_BYTES: Final = 64
"""A number or a table in a tuple, with its place there."""


class Allowance:
    """How much may still be read of one file."""

    def __init__(self) -> None:
        self._left_bytes = MOST_BYTES

    def spend(self, size_bytes: int) -> None:
        """Raises ValueError when there is no more."""
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise ValueError("its tables lead to the same places again and again: it is made to take all memory")


@dataclass(frozen=True, slots=True)
class Table:
    """A table at byte `at` of `data`."""

    data: memoryview
    at: int
    allowance: Allowance = field(default_factory=Allowance)

    def place(self, field: int) -> int:
        """Where the field's value stands; 0 when the table does not have it."""
        vtable = self.at - _number(self.data, self.at, "<i")
        slot = 4 + 2 * field
        if slot + 2 > _number(self.data, vtable, "<H"):
            return 0
        offset = _number(self.data, vtable + slot, "<H")
        return self.at + offset if offset else 0

    def number(self, field: int, form: str = "<i", default: int = 0) -> int:
        """A whole number, `form` as in `struct`."""
        place = self.place(field)
        return _number(self.data, place, form) if place else default

    def table(self, field: int) -> "Table | None":
        place = self.place(field)
        return Table(self.data, _jump(self.data, place), self.allowance) if place else None

    def tables(self, field: int) -> "tuple[Table, ...]":
        start, count = self._vector(field, 4)
        self.allowance.spend(count * _ELEMENT_BYTES)
        return tuple(Table(self.data, _jump(self.data, start + 4 * i), self.allowance) for i in range(count))

    def text(self, field: int) -> str:
        place = self.place(field)
        return self._text(_jump(self.data, place)) if place else ""

    def numbers(self, field: int, form: str = "<i") -> tuple[float, ...]:
        """A vector of numbers, `form` of one."""
        size = struct.calcsize(form)
        start, count = self._vector(field, size)
        self.allowance.spend(count * _ELEMENT_BYTES)
        return tuple(n for (n,) in struct.iter_unpack(form, self.data[start : start + count * size]))

    def blob(self, field: int) -> memoryview:
        """A vector of bytes."""
        start, count = self._vector(field, 1)
        return self.data[start : start + count]

    def _text(self, at: int) -> str:
        raw = self.data[at + 4 : at + 4 + _number(self.data, at, "<I")]
        self.allowance.spend(len(raw))
        return bytes(raw).decode("utf-8", "replace")

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        """Where a vector's first element stands, and how many there are."""
        place = self.place(field)
        if not place:
            return 0, 0
        start = _jump(self.data, place)
        count = _number(self.data, start, "<I")
        if start + 4 + count * size > len(self.data):
            raise ValueError(f"a vector of {count} elements at byte {start} leads out of the file")
        return start + 4, count


def root(data: memoryview, identifier: bytes) -> Table:
    """The root table. Raises ValueError when the file does not begin as one of `identifier` does."""
    if bytes(data[4:8]) != identifier:
        raise ValueError(f"bytes 4 to 8 are {bytes(data[4:8])!r}, not {identifier!r}")
    return Table(data, _jump(data, 0))


def _jump(data: memoryview, place: int) -> int:
    return place + _number(data, place, "<I")


def _number(data: memoryview, place: int, form: str) -> int:
    if not 0 <= place <= len(data) - struct.calcsize(form):
        raise ValueError(f"byte {place} lies outside of the file")
    number: int = struct.unpack_from(form, data, place)[0]
    return number

