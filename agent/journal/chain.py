"""The audit trail's chain: every entry is bound to the one before it. Pure.

    hash(n) = sha256( hash(n - 1) || "<n> <milliseconds since 1970> <line>" )          hash(0) is 32 zero bytes

`line` is compact JSON with sorted keys. Who changes, removes or inserts an entry has to rewrite all that follow; who
does so, or cuts off the end, is given away by any head (number and hash) that was published before.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry: its number and hash. Before the first one: 0 and `GENESIS`."""

    n: int = 0
    hash: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class Entry:
    """What was decided, and when."""

    t_ms: int
    line: str


@dataclass(frozen=True, slots=True)
class Link:
    """An entry in its place."""

    n: int
    entry: Entry
    hash: bytes


def follow(head: Head, entry: Entry) -> Link:
    """`entry` after `head`."""
    n = head.n + 1
    text = f"{n} {entry.t_ms} {entry.line}"
    return Link(n, entry, hashlib.sha256(head.hash + text.encode()).digest())


def first_bad(links: Iterable[Link], anchor: Head, known: Iterable[Head] = ()) -> str:
    """What is wrong with the trail that begins after `anchor`, naming the first bad entry; "" when nothing is.

    `known`: heads that were published; each must lie on this trail.
    """
    heads = {head.n: head.hash for head in known}
    at = anchor
    for link in links:
        if link.n != at.n + 1:
            return f"entry {at.n + 1} is missing: {link.n} follows on {at.n}"
        right = follow(at, link.entry)
        if right.hash != link.hash:
            return f"entry {link.n} is not what was written, or the one before it was removed"
        at = Head(link.n, link.hash)
        if heads.get(at.n, at.hash) != at.hash:
            return f"entry {at.n} is not the one whose hash was published: the trail was rewritten up to there"
    last = max(heads, default=0)
    if last > at.n:
        return f"the trail ends with entry {at.n}, and {last} was published: its end was cut off"
    return ""
