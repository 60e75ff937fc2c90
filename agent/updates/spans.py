"""Byte ranges over HTTP: which to ask for, and how an answer with several of them is taken apart.

Neighbours are asked for as one. What an answer claims to hold is only a place to write to: it is checked against what
was asked, and the sha256 of the finished file decides in the end. Formats: RFC 9110, sections 14 and 15.3.7.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agent.errors import UpdateError

MOST_SPANS: Final = 24
"""In one request; more makes some servers send the whole file."""
_LINE_LIMIT = 4096
_PART_LINES = 32
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")
_BOUNDARY = re.compile(r'multipart/byteranges\s*;.*?boundary="?([^\s";]{1,200})"?', re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Bytes `start` up to, not including, `end` of an object."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """In order, with those that touch or overlap as one."""
    result: list[Span] = []
    for span in sorted(spans):
        if result and span.start <= result[-1].end:
            result[-1] = Span(result[-1].start, max(span.end, result[-1].end))
        else:
            result.append(span)
    return tuple(result)


def range_header(spans: Sequence[Span]) -> str:
    """The value of Range."""
    return "bytes=" + ",".join(f"{span.start}-{span.end - 1}" for span in spans)


def content_range(value: str, length: int) -> Span | None:
    """The span that Content-Range names, if it lies within an object of `length` bytes; else None."""
    found = _CONTENT_RANGE.fullmatch(value.strip())
    if not found or found[3] not in {"*", str(length)}:
        return None
    span = Span(int(found[1]), int(found[2]) + 1)
    return span if span.start < span.end <= length else None


def boundary(content_type: str) -> bytes:
    """What separates the parts of a multipart/byteranges answer; empty when it is none."""
    found = _BOUNDARY.match(content_type)
    return found[1].encode("latin-1", "replace") if found else b""


def parts_of(chunks: Iterable[bytes], mark: bytes, length: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) out of a multipart/byteranges body. Raises UpdateError (DOWNLOAD_FAILED) on any other body."""
    body = _Body(chunks)
    begin, end = b"--" + mark, b"--" + mark + b"--"
    while (line := body.line()) != end:
        if line == begin:
            yield from _part(body, length)
        elif line:
            raise _odd("a line that is no boundary")


def _part(body: "_Body", length: int) -> Iterator[tuple[int, bytes]]:
    span = None
    for _ in range(_PART_LINES):
        line = body.line()
        if not line:
            break
        name, _, value = line.decode("latin-1").partition(":")
        if name.strip().lower() == "content-range":
            span = content_range(value, length)
    if span is None:
        raise _odd("a part without a Content-Range within the file")
    start = span.start
    for piece in body.take(len(span)):
        yield start, piece
        start += len(piece)


class _Body:
    """Lines and counted bytes out of chunks of any size; holds one chunk and one line at most."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = b""

    def line(self) -> bytes:
        """The next line without its end."""
        while b"\n" not in self._held:
            if len(self._held) > _LINE_LIMIT:
                raise _odd("a line without end")
            self._more()
        line, _, self._held = self._held.partition(b"\n")
        return line.rstrip(b"\r")

    def take(self, count: int) -> Iterator[bytes]:
        """The next `count` bytes."""
        while count:
            if not self._held:
                self._more()
            piece, self._held = self._held[:count], self._held[count:]
            count -= len(piece)
            yield piece

    def _more(self) -> None:
        try:
            self._held += next(self._chunks)
        except StopIteration:
            raise _odd("an end before its time") from None


def _odd(what: str) -> UpdateError:
    return UpdateError(f"the server's answer with several ranges has {what}", "DOWNLOAD_FAILED")
