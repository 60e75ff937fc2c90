"""A new file out of chunks: those that other versions have, those of an earlier try, and the rest by ranges.

The chunk list says what belongs where; each piece that is found is hashed before it is believed, and a piece that came
over the network is counted as there only when it hashes right. The whole file is proved at the end like any other.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agent.package import FileEntry
from agent.package.chunks import Chunk, cut, decode_chunks
from agent.updates.blobs import DearerError, Source, proved
from agent.updates.parts import Part
from agent.updates.spans import Span, merged

SPAN_COST_BYTES: Final = 150
"""What one more range costs in a request and its answer."""


@dataclass(frozen=True, slots=True)
class Chunked:
    """The way by chunks, as long as it costs less than `limit_bytes`."""

    limit_bytes: int

    def __call__(self, entry: FileEntry, source: Source, count: Callable[[int], None]) -> Part:
        """Raises UpdateError; DearerError when too much is missing. The part stays when the link breaks."""
        assert entry.chunks
        chunks = decode_chunks(source.small(entry.chunks), entry)
        part = source.part(f"{entry.sha256}.chunks", entry.length)
        part.make_room()
        with part.opened(part.size()) as file:
            file.truncate(entry.length)
            missing = _fill_from_here(file, chunks, source.near(entry))
            spans = _spans(missing)
            cost = sum(len(span) + SPAN_COST_BYTES for span in spans)
            if cost >= self.limit_bytes:
                part.drop()
                raise DearerError(f"{cost} bytes are missing, another way takes {self.limit_bytes}")
            self._pull(entry, source, file, chunks, count)
        return proved(part, entry)

    @staticmethod
    def _pull(
        entry: FileEntry, source: Source, file: BinaryIO, chunks: tuple[Chunk, ...], count: Callable[[int], None]
    ) -> None:
        received = 0

        def pull() -> None:
            nonlocal received
            missing = [chunk for chunk in chunks if not _holds(file, chunk)]
            there = entry.length - sum(chunk.length for chunk in missing)
            count(there)
            for offset, data in source.fetcher.spans(source.url(entry.sha256), _spans(missing), entry.length):
                file.seek(offset)
                file.write(data)
                received += len(data)
                there += len(data)
                count(min(there, entry.length))

        source.fetcher.retried(pull, lambda: received)


def _fill_from_here(file: BinaryIO, chunks: tuple[Chunk, ...], near: Iterable[Path]) -> list[Chunk]:
    """Copy what other files have to its places; what is still missing."""
    wanted = {chunk.sha256: chunk for chunk in chunks if not _holds(file, chunk)}
    places: dict[bytes, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.sha256 in wanted:
            places.setdefault(chunk.sha256, []).append(chunk)
    for path in near:
        if places:
            _copy(path, places, file)
    return [chunk for same in places.values() for chunk in same]


def _copy(path: Path, places: dict[bytes, list[Chunk]], file: BinaryIO) -> None:
    """Move the chunks that `path` has out of `places`, into `file`. A file that cannot be read has none."""
    try:
        with path.open("rb") as other:
            found = [chunk for chunk in cut(other) if chunk.sha256 in places]
            for chunk in found:
                other.seek(chunk.offset)
                data = other.read(chunk.length)
                for place in places.pop(chunk.sha256, ()):
                    file.seek(place.offset)
                    file.write(data)
    except FileNotFoundError:
        return


def _holds(file: BinaryIO, chunk: Chunk) -> bool:
    file.seek(chunk.offset)
    return hashlib.sha256(file.read(chunk.length)).digest() == chunk.sha256


def _spans(chunks: Iterable[Chunk]) -> tuple[Span, ...]:
    return merged(Span(chunk.offset, chunk.offset + chunk.length) for chunk in chunks)
