"""What a terminal is told: words of others, tables, and a line that does not stay."""

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

_WIDE: Final = 80
"""Columns of a terminal that does not say."""


def shown(text: str) -> str:
    """`text` without what would steer a terminal: only ends of lines and printable characters are left of it."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def counted(number: float, one: str, many: str = "") -> str:
    """`1 event`, `2 events`; `many` where it is not `one` with an s."""
    return f"{number:.0f} {one if number == 1 else many or one + 's'}"


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """A line per row of cells, each column as wide as its widest cell."""
    table = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def fleeting(text: str = "") -> None:
    """Show `text` as the last line of standard error until the next one, or nothing; nowhere but on a terminal.

    What is longer than a line is cut: its rest could not be taken away again.
    """
    if not sys.stderr.isatty():
        return
    wide = 0
    with contextlib.suppress(OSError):
        wide = os.get_terminal_size(sys.stderr.fileno()).columns
    line = shown(text).replace("\n", " ")[: (wide or _WIDE) - 1]
    print(f"\r\033[K{line}\r", end="", file=sys.stderr, flush=True)
