"""Content-defined chunks: where a file is cut, and the list that says so.

A cut depends on the 32 bytes before it alone, so a change in one place moves no cut elsewhere: a device cuts the files
that it has in the same way, finds most chunks of the new file among them, and asks for the rest. The list is a blob of
its own: per chunk 4 bytes of length (big-endian) and 32 bytes of SHA-256, in file order.

The hash is a gear hash (Xia et al., Ddelta, 2014): h = (h << 1) + gear[byte] mod 2^32. After 32 bytes the oldest is
shifted out, so h at each byte is a sum of 32 terms, made here by five doublings over whole arrays.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from agent.package.document import refused
from agent.package.manifest import FileEntry

LEAST_BYTES: Final = 4096
MOST_BYTES: Final = 65536
CUT_BELOW: Final = (1 << 32) // 12288
"""A cut follows a byte where h is below this: every 12 KiB on average, which with LEAST_BYTES makes 16 KiB."""
ENTRY_BYTES: Final = 36
WINDOW_BYTES: Final = 32
_BLOCK_BYTES: Final = 1 << 20

GEAR: Final[NDArray[np.uint32]] = np.array(
    [int.from_bytes(hashlib.sha256(b"limpet-gear" + bytes([n])).digest()[:4], "big") for n in range(256)], np.uint32
)
"""gear[n]: the first 4 bytes of SHA-256("limpet-gear" n)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file: where it lies, and what it hashes to."""

    offset: int
    length: int
    sha256: bytes


def cut(file: BinaryIO) -> tuple[Chunk, ...]:
    """The chunks of a file, read from where it stands to its end, in blocks. Raises OSError."""
    found: list[Chunk] = []
    start, held = 0, b""
    for block, places in _places(file):
        held += block
        end = start + len(held)
        for stop in _stops(start, end, places):
            found.append(_chunk(start, held[: stop - start]))
            held, start = held[stop - start :], stop
    return (*found, _chunk(start, held)) if held else tuple(found)


def encode_chunks(chunks: tuple[Chunk, ...]) -> bytes:
    """The list as a blob."""
    return b"".join(chunk.length.to_bytes(4, "big") + chunk.sha256 for chunk in chunks)


def decode_chunks(data: bytes, entry: FileEntry) -> tuple[Chunk, ...]:
    """The chunks of `entry`, from the blob that `entry.chunks` names. Raises UpdateError when they do not fill it."""
    if len(data) % ENTRY_BYTES:
        raise refused(f"chunk list of {entry.path}: {len(data)} bytes are no whole number of entries")
    found: list[Chunk] = []
    offset = 0
    for at in range(0, len(data), ENTRY_BYTES):
        length = int.from_bytes(data[at : at + 4], "big")
        if not 0 < length <= MOST_BYTES:
            raise refused(f"chunk list of {entry.path}: a chunk of {length} bytes, 1 to {MOST_BYTES} are allowed")
        found.append(Chunk(offset, length, data[at + 4 : at + ENTRY_BYTES]))
        offset += length
    if offset != entry.length:
        raise refused(f"chunk list of {entry.path}: it adds up to {offset} bytes, the file has {entry.length}")
    return tuple(found)


def _places(file: BinaryIO) -> Iterator[tuple[bytes, list[int]]]:
    """Each block of the file, and the offsets in the file after which the hash allows a cut."""
    tail, offset = b"", 0
    while block := file.read(_BLOCK_BYTES):
        seen = tail + block
        first = offset - len(tail)
        hits = np.flatnonzero(_hashes(seen)[len(tail) :] < CUT_BELOW)
        yield block, (hits + first + len(tail) + 1).tolist()
        tail, offset = seen[-(WINDOW_BYTES - 1) :], offset + len(block)


def _hashes(data: bytes) -> NDArray[np.uint32]:
    """The gear hash at every byte; before the first byte there is nothing."""
    sums = GEAR[np.frombuffer(data, np.uint8)]
    span = 1
    while span < WINDOW_BYTES:
        sums[span:] = sums[span:] + (sums[:-span] << np.uint32(span))
        span *= 2
    return sums


def _stops(start: int, end: int, places: list[int]) -> Iterator[int]:
    """Where the bytes from `start` to `end` are cut; what is left over waits for the next block."""
    for place in places:
        while place - start > MOST_BYTES:
            start += MOST_BYTES
            yield start
        if place - start >= LEAST_BYTES:
            start = place
            yield start
    while end - start >= MOST_BYTES:
        start += MOST_BYTES
        yield start


def _chunk(offset: int, data: bytes) -> Chunk:
    return Chunk(offset, len(data), hashlib.sha256(data).digest())
