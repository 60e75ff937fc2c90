"""The door to CBOR (RFC 8949): one deterministic way out, one strict way in.

Owns the choice of what the wire may carry: whole numbers of 64 bits, floats, text, bytes, booleans, null, arrays and
maps. Refuses everything else that CBOR could say: tags (no dates, bignums, shared references), indefinite lengths,
duplicate keys, undefined, trailing bytes, deep nesting. Callers limit the size of what they hand in.
"""

import io
from functools import lru_cache
from typing import Any, NoReturn

import cbor2

from agent.errors import EnvelopeError

MAX_DEPTH = 16
"""Nesting of arrays and maps, the outermost counted."""

_BUILT_IN_TAGS = (
    0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 43001, 55799,
)  # fmt: skip


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not allowed")


_NO_TAGS = dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag)
"""cbor2 would turn these tags into Python objects by itself; `tag_hook` sees only the others."""


def encode(value: Any) -> bytes:
    """Deterministic encoding (RFC 8949, 4.2.1): shortest heads and floats, map keys in bytewise order.

    `value` is made of None, bool, int of 64 bits, float, str, bytes, lists, tuples and dicts; what comes from a
    rule passes `agent.codec.plain` first, which refuses anything else.
    """
    return cbor2.dumps(value, canonical=True)


def encode_sorted(items: list[Any]) -> bytes:
    """A map as `encode` writes it, from its keys and values by turns, the keys already in bytewise order of their
    encoding (RFC 8949, 4.2.1): shorter ones first, then by letters. The order is not looked at."""
    as_array = cbor2.dumps(items, canonical=True)
    return head(5, len(items) // 2) + as_array[len(head(4, len(items))) :]


def decode(data: bytes, what: str = "message", max_depth: int = MAX_DEPTH) -> Any:
    """Strictly decode one whole CBOR item. Raises EnvelopeError that names `what` and never repeats its content."""
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=_NO_TAGS,
            max_depth=max_depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        ).decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise EnvelopeError(f"{what} is not well-formed CBOR") from exc
    if stream.tell() != len(data):
        raise EnvelopeError(f"{what} has bytes after its end")
    return value


def array_of(items: list[bytes]) -> bytes:
    """Join items that are already encoded into one CBOR array, without decoding them."""
    return head(4, len(items)) + b"".join(items)


@lru_cache(maxsize=1024)
def head(major: int, count: int) -> bytes:
    """The first bytes of an item: major type 0-7 and its count in the shortest form (RFC 8949, 3)."""
    if count < 24:
        return bytes((major << 5 | count,))
    for info, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if count < 1 << 8 * width:
            return bytes((major << 5 | info,)) + count.to_bytes(width, "big")
    raise EnvelopeError("a CBOR count must fit in 64 bits")

