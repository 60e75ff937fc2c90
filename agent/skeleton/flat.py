"""Reads FlatBuffers, the format of TFLite files, by field number and without a schema compiler.

Owns the walk from table to field; what the numbers mean is the business of `agent.skeleton.tflite`. Reads nothing twice
and copies only what is asked for. Raises ValueError where an offset leads out of the file.
Source: the FlatBuffers format description (tables, vtables, vectors, strings).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A table at byte `at` of `data`."""

    data: memoryview
    at: int

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
        return Table(self.data, _jump(self.data, place)) if place else None

    def tables(self, field: int) -> "tuple[Table, ...]":
        start, count = self._vector(field, 4)
        return tuple(Table(self.data, _jump(self.data, start + 4 * i)) for i in range(count))

    def texts(self, field: int) -> tuple[str, ...]:
        start, count = self._vector(field, 4)
        return tuple(_text(self.data, _jump(self.data, start + 4 * i)) for i in range(count))

    def text(self, field: int) -> str:
        place = self.place(field)
        return _text(self.data, _jump(self.data, place)) if place else ""

    def numbers(self, field: int, form: str = "<i") -> tuple[float, ...]:
        """A vector of numbers, `form` of one."""
        size = struct.calcsize(form)
        start, count = self._vector(field, size)
        return tuple(n for (n,) in struct.iter_unpack(form, self.data[start : start + count * size]))

    def blob(self, field: int) -> memoryview:
        """A vector of bytes."""
        start, count = self._vector(field, 1)
        return self.data[start : start + count]

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


def names(tables: "tuple[Table, ...]", field: int) -> Iterator[str]:
    """One text field of each table."""
    return (table.text(field) for table in tables)


def _jump(data: memoryview, place: int) -> int:
    return place + _number(data, place, "<I")


def _number(data: memoryview, place: int, form: str) -> int:
    if not 0 <= place <= len(data) - struct.calcsize(form):
        raise ValueError(f"byte {place} lies outside of the file")
    number: int = struct.unpack_from(form, data, place)[0]
    return number


def _text(data: memoryview, place: int) -> str:
    length = _number(data, place, "<I")
    return bytes(data[place + 4 : place + 4 + length]).decode("utf-8", "replace")
