"""A repository in a tar file, as somebody brings it on a stick: unpacked beside the downloads, and gone afterwards.

The file is a stranger's. Only plain files and folders come out of it, none outside the folder they belong in, no more
and no larger than the limits; what a header, a compressor or a size may make this process hold in memory is bounded,
and a pipe or a device under the name of a file is refused instead of waited for.
"""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final

from agent.errors import UpdateError
from agent.updates.parts import BLOCK_BYTES

MEMBERS: Final = 100_000
"""Most files and folders in a tar file."""
HEADER_BYTES: Final = 1 << 20
"""Most bytes that are read to know what the next member is."""
XZ_MEMORY_BYTES: Final = 80 << 20
"""Most memory of the xz decoder: `xz -9` needs 65 MiB."""
_FAULTS: Final = (OSError, EOFError, ValueError, OverflowError, tarfile.TarError, zlib.error, lzma.LZMAError)
"""What Python's readers raise over archives that are damaged, strange or hostile."""


@contextlib.contextmanager
def unpacked(place: Path, into: Path, limit_bytes: int) -> Iterator[Path]:
    """The published repository in the tar file `place`, unpacked below `into` for the block. Raises UpdateError."""
    shutil.rmtree(into, ignore_errors=True)
    try:
        try:
            into.mkdir(parents=True)
            _extract(place, into, limit_bytes)
        except _FAULTS as exc:
            full = getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            words = f"{place}: it cannot be read as a repository: {exc}"
            raise UpdateError(words, "NO_SPACE" if full else "FAILED") from exc
        found = [p.parent for top in (into, *into.iterdir()) for p in top.glob("metadata") if p.is_dir()]
        if not found:
            raise UpdateError(f"{place}: there is no metadata/ in it: it must hold a published repository", "FAILED")
        yield found[0]
    finally:
        shutil.rmtree(into, ignore_errors=True)


def _extract(place: Path, into: Path, limit_bytes: int) -> None:
    """Raises UpdateError, and `_FAULTS`."""
    size_bytes, number = 0, 0
    with _plain(place) as file, _Metered(_clear(file)) as metered, tarfile.open(fileobj=metered, mode="r|") as archive:
        while (member := archive.next()) is not None:
            number, size_bytes = number + 1, size_bytes + member.size
            if member.size < 0 or member.issparse():
                raise tarfile.ReadError(f"{member.name}: a size that no plain file has")
            if number > MEMBERS or size_bytes > limit_bytes:
                words = f"{place}: more than {MEMBERS} files or {limit_bytes / 1e6:g} MB"
                raise UpdateError(f"{words}: raise [updates] size_mb, or unpack it and name the folder", "NO_SPACE")
            metered.left = member.size + HEADER_BYTES
            if member.isreg():
                _write(archive, member, _inside(into, member.name))
                metered.left = HEADER_BYTES
            archive.members = []  # type: ignore[attr-defined]  # it would remember each


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    reader = archive.extractfile(member)
    assert reader  # it is a plain file
    target.parent.mkdir(parents=True, exist_ok=True)
    with reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, BLOCK_BYTES)


def _inside(into: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.ReadError(f"{name}: leads out of the archive")
    return into / path


@contextlib.contextmanager
def _plain(place: Path) -> Iterator[IO[bytes]]:
    handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would make us wait for ever
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is neither a folder nor a plain file", str(place))
        yield file


def _clear(file: IO[bytes]) -> IO[bytes]:
    """The archive without its compression, whatever its name says."""
    first = file.read(6)
    file.seek(0)
    if first.startswith(b"\x1f\x8b"):
        return gzip.open(file)  # type: ignore[return-value]
    if first.startswith(b"BZh"):
        return bz2.open(file)
    return io.BufferedReader(_Xz(file), BLOCK_BYTES) if first == b"\xfd7zXZ\0" else file


class _Xz(io.RawIOBase):
    """One xz stream; `lzma.open` knows no limit of memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._coder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        data = b""
        while not data and not self._coder.eof:
            block = self._file.read(BLOCK_BYTES) if self._coder.needs_input else b""
            if self._coder.needs_input and not block:
                raise EOFError("the xz stream ends early")
            data = self._coder.decompress(block, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Metered(io.RawIOBase):
    """Gives at most `left` bytes, which who reads the archive sets anew for every member."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = HEADER_BYTES

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        """Raises ReadError when that is more than is left."""
        if not 0 <= count <= self.left:
            raise tarfile.ReadError(f"a header of more than {HEADER_BYTES} bytes")
        self.left -= count
        return self._file.read(count)
