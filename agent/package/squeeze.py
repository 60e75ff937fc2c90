"""Whole files and deltas as xz, with limits: what comes out ends at the signed length, and so does the memory.

A delta is the xz stream of (new - base) mod 256, byte by byte, between two files of equal length: the same layers
trained on, quantised with the same scales, differ by a little in many bytes, and that packs well.
"""

import hashlib
import lzma
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import numpy as np

from agent.package.document import refused

MEMORY_LIMIT_BYTES: Final = 64 << 20
"""Most memory of the decoder: a dictionary of 8 MiB needs 9."""
BLOCK_BYTES: Final = 1 << 18
_FILTERS: Final = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 8 << 20}]


def squeeze(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks as one xz stream, piece by piece."""
    coder = lzma.LZMACompressor(lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=_FILTERS)
    for block in blocks:
        yield coder.compress(block)
    yield coder.flush()


def expand(blocks: Iterable[bytes], length: int, what: str) -> Iterator[bytes]:
    """The plain bytes of one xz stream, in pieces of at most BLOCK_BYTES.

    Raises UpdateError (VERIFY_FAILED) when the stream is damaged, asks for more memory than its limit, ends early,
    goes on after its end, or holds more than `length` bytes: no byte beyond is made.
    """
    left = length
    for piece in _pieces(blocks, what):
        left -= len(piece)
        if left < 0:
            raise refused(f"{what}: it unpacks to more than the signed {length} bytes")
        yield piece
    if left:
        raise refused(f"{what}: it unpacks to {left} bytes less than the signed {length}")


def difference(base: BinaryIO, new: BinaryIO) -> Iterator[bytes]:
    """(new - base) mod 256 of two files of equal length, in blocks."""
    while block := new.read(BLOCK_BYTES):
        old = np.frombuffer(base.read(len(block)), np.uint8)
        yield (np.frombuffer(block, np.uint8) - old).tobytes()


def patch(base: BinaryIO, delta: Iterable[bytes], length: int, out: BinaryIO, what: str) -> str:
    """Write base + delta to `out`; returns the sha256 of what was written, which alone tells whether it is right.

    Raises UpdateError (VERIFY_FAILED) as `expand` does, and when `base` ends early; OSError when the disk fails.
    """
    state = hashlib.sha256()
    for piece in expand(delta, length, what):
        old = base.read(len(piece))
        if len(old) != len(piece):
            raise refused(f"{what}: the file that it builds on is shorter than the new one")
        made = (np.frombuffer(piece, np.uint8) + np.frombuffer(old, np.uint8)).tobytes()
        state.update(made)
        out.write(made)
    return state.hexdigest()


def _pieces(blocks: Iterable[bytes], what: str) -> Iterator[bytes]:
    """What comes out of one whole stream, in pieces of at most BLOCK_BYTES."""
    coder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT_BYTES)
    try:
        for block in blocks:
            if coder.eof and block:
                raise refused(f"{what}: there is more after its end")
            yield coder.decompress(block, BLOCK_BYTES)
            while not coder.eof and not coder.needs_input:
                yield coder.decompress(b"", BLOCK_BYTES)
            if coder.unused_data:
                raise refused(f"{what}: there is more after its end")
    except lzma.LZMAError as exc:
        raise refused(f"{what}: this is no xz stream that can be unpacked here: {exc}") from exc
    if not coder.eof:
        raise refused(f"{what}: it ends early")
