"""Compression before sealing, and its bounded undoing: raw DEFLATE (RFC 1951), zstd when the machine has it.

Output beyond the limit is never produced, whatever a header promises. zstd is in Python from 3.14; before that the
`zstandard` package is used when installed. Browsers inflate raw DEFLATE by themselves, so it is what agents send.
"""

import importlib.util
import io
import sys
import zlib
from typing import Any, Final

from agent.envelope.message import Zip
from agent.errors import EnvelopeError

DEFLATE_LEVEL: Final = 4
"""A batch of events comes out 1 % larger than at level 6, in two thirds of the time."""
ZSTD_LEVEL: Final = 3
ZSTD_WINDOW_LOG: Final = 23
"""A decoder may be asked for a window of 8 MiB, not more."""


def has_zstd() -> bool:
    """True when this Python can read and write zstd."""
    return sys.version_info >= (3, 14) or importlib.util.find_spec("zstandard") is not None


def squeeze(payload: bytes, zip_: Zip) -> bytes:
    """Compress. Raises EnvelopeError for zstd where there is none."""
    if zip_ is Zip.DEFLATE_RAW:
        deflate = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflate.compress(payload) + deflate.flush()
    if zip_ is Zip.ZSTD:
        return _zstd_compress(payload)
    return payload


def expand(data: bytes, zip_: Zip, limit_bytes: int) -> bytes:
    """Undo `squeeze`; the result has at most `limit_bytes`. Raises EnvelopeError."""
    if zip_ is Zip.DEFLATE_RAW:
        return _inflate(data, limit_bytes)
    if zip_ is Zip.ZSTD:
        return _zstd_expand(data, limit_bytes)
    if len(data) > limit_bytes:
        raise _too_large(limit_bytes)
    return data


def _inflate(data: bytes, limit_bytes: int) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = inflate.decompress(data, limit_bytes + 1)
    except zlib.error as exc:
        raise EnvelopeError("message holds damaged DEFLATE data") from exc
    if len(out) > limit_bytes:
        raise _too_large(limit_bytes)
    if not inflate.eof or inflate.unused_data:
        raise EnvelopeError("message holds DEFLATE data that ends too early or too late")
    return out


def _zstd_compress(payload: bytes) -> bytes:
    if not has_zstd():
        raise EnvelopeError("zstd is not available here: install the 'zstandard' package or seal with DEFLATE")
    if sys.version_info >= (3, 14):
        from compression import zstd

        return bytes(zstd.compress(payload, ZSTD_LEVEL))
    import zstandard

    return bytes(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(payload))


def _zstd_expand(data: bytes, limit_bytes: int) -> bytes:
    if not has_zstd():
        raise EnvelopeError("message is compressed with zstd: install the 'zstandard' package to read it")
    reader, broken = _zstd_reader(data)
    try:
        with reader:
            out: bytes = reader.read(limit_bytes + 1)
    except broken as exc:
        raise EnvelopeError("message holds damaged zstd data") from exc
    if len(out) > limit_bytes:
        raise _too_large(limit_bytes)
    return out


def _zstd_reader(data: bytes) -> tuple[Any, tuple[type[Exception], ...]]:
    if sys.version_info >= (3, 14):
        from compression import zstd

        options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        return zstd.ZstdFile(io.BytesIO(data), options=options), (zstd.ZstdError, EOFError)
    import zstandard

    made = zstandard.ZstdDecompressor(max_window_size=1 << ZSTD_WINDOW_LOG)
    return made.stream_reader(data), (zstandard.ZstdError,)


def _too_large(limit_bytes: int) -> EnvelopeError:
    return EnvelopeError(f"message is larger than {limit_bytes} bytes when expanded: it is refused")
