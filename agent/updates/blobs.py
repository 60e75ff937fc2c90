"""Where the bytes of a file come from, the network and this device, and what proves them once they are put together."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError

from agent.errors import UpdateError
from agent.package import Blob, FileEntry
from agent.updates.fetch import Fetcher
from agent.updates.parts import BLOCK_BYTES, Part, sha256_of

Have = Callable[[str], Path | None]
"""Where a file with this sha256 (hex) lies on this device, if anywhere."""
Near = Callable[[FileEntry], Iterable[Path]]
"""Files of other versions that may share pieces with a new one."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where blobs come from: the network and this device."""

    fetcher: Fetcher
    blobs_url: str
    have: Have
    near: Near
    parts: Path

    def url(self, sha256: str) -> str:
        """Where the blob of this name lies."""
        return f"{self.blobs_url}/{sha256}"

    def part(self, name: str, length: int) -> Part:
        """A part among the others."""
        return Part(self.parts / name, length, self.fetcher.limits.keep_free_bytes)

    def bring(self, blob: Blob, count: Callable[[int], None] | None = None) -> Part:
        """The blob as a proved part. Raises UpdateError."""
        part = self.part(blob.sha256, blob.length)
        self.fetcher.blob(self.url(blob.sha256), part.path, blob.length, blob.sha256, count)
        return part

    def small(self, blob: Blob) -> bytes:
        """A blob in memory, proved. Raises UpdateError."""
        url = self.url(blob.sha256)
        try:
            data = self.fetcher.download_bytes(url, blob.length)
        except DownloadHTTPError as exc:
            raise UpdateError(str(exc), "DOWNLOAD_FAILED") from exc
        if hashlib.sha256(data).hexdigest() != blob.sha256:
            raise UpdateError(f"{url}: these are not the bytes that were signed", "VERIFY_FAILED")
        return data


class DearerError(UpdateError):
    """This way works, but another one costs less."""


def nothing_near(entry: FileEntry) -> Iterable[Path]:
    """On a device that has no other version."""
    del entry
    return ()


def made(
    entry: FileEntry, source: Source, blocks: Iterable[bytes], count: Callable[[int], None] | None = None
) -> Part:
    """A part written from `blocks` and proved. Raises UpdateError (VERIFY_FAILED), and leaves nothing then."""
    part = source.part(f"{entry.stored.sha256}.made", entry.stored.length)
    part.drop()
    part.make_room()
    done = 0
    with part.opened(0) as out:
        for block in blocks:
            out.write(block)
            done += len(block)
            if count:
                count(done)
    return proved(part, entry)


def proved(part: Part, entry: FileEntry) -> Part:
    """`part` if it is the signed file. Raises UpdateError (VERIFY_FAILED), and drops it then."""
    if not part.proves(lambda file: sha256_of(file) == entry.stored.sha256):
        part.drop()
        raise UpdateError(f"{entry.path}: what was put together is not what was signed", "VERIFY_FAILED")
    return part


def blocks(path: Path) -> Iterator[bytes]:
    """What a file holds, piece by piece."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
