"""Every file of a package by the cheapest way that works: it is here, a delta, missing chunks, xz, or the whole file.

Which way is cheapest is counted in bytes over the network. Whatever the way, the sha256 of the finished file as the
disk gives it back decides; a clever way that fails is followed by the next one, and the whole file is the last. What an
xz stream or a delta unpacks to ends at the signed length. Parts stay between tries, so a cut link costs nothing twice.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.durable import sync_folder
from agent.errors import UpdateError
from agent.package import Delta, FileEntry
from agent.updates.blobs import DearerError, Have, Near, Source, blocks, made, nothing_near, proved
from agent.updates.chunked import Chunked
from agent.updates.fetch import Fetcher
from agent.updates.parts import Part, is_whole

log = logging.getLogger(__name__)

_ANOTHER_WAY = frozenset({"VERIFY_FAILED", "DOWNLOAD_FAILED", "NO_SPACE"})
"""After these another way is tried; not after the end of the time, nor when the caller's `progress` refuses."""

Progress = Callable[[int, int], None]
"""Told (done, total) bytes of all files together, as they will lie on the disk."""


def fetch_files(
    entries: Sequence[FileEntry], into: Path, have: Have, fetcher: Fetcher, blobs_url: str,
    progress: Progress | None = None, *, near: Near = nothing_near, parts: Path | None = None,
) -> None:  # fmt: skip
    """Bring `entries` to `into`/<path>, as they lie on a device: sealed files sealed. What is there already stays.

    `parts`: the folder of unfinished files, on the same file system; `into`/.parts without it, and removed when all is
    done. `progress` may raise UpdateError to end it. Raises UpdateError: NO_SPACE, TIMED_OUT, DOWNLOAD_FAILED (call
    again, it goes on), VERIFY_FAILED.
    """
    own = parts is None
    source = Source(fetcher, blobs_url.rstrip("/"), have, near, parts or into / ".parts")
    try:
        source.parts.mkdir(parents=True, exist_ok=True)
        missing = [entry for entry in entries if not _is_there(entry, into)]
        _make_room(missing, source)
        total = sum(entry.stored.length for entry in entries)
        done = total - sum(entry.stored.length for entry in missing)
        for entry in missing:
            bring_file(entry, into / entry.path, source, _shifted(progress, done, total))
            done += entry.stored.length
        if own:
            shutil.rmtree(source.parts)
    except OSError as exc:
        raise UpdateError(f"{into}: the disk refuses: {exc}", "FAILED") from exc


def bring_file(entry: FileEntry, target: Path, source: Source, count: Callable[[int], None]) -> None:
    """One file by the cheapest way that works. Raises UpdateError when none does, OSError when the disk refuses."""
    _make_folders(target)
    for cost, name, way in ways(entry, source):
        try:
            way(entry, source, count).land(target)
        except DearerError as exc:
            log.debug("update file=%s way=%s reason=%s", entry.path, name, exc)
        except UpdateError as exc:
            if name == "whole" or exc.reason not in _ANOTHER_WAY:
                raise
            log.warning("update file=%s way=%s state=failed reason=%s: another way", entry.path, name, exc)
        else:
            log.info("update file=%s way=%s bytes=%d of=%d", entry.path, name, cost, entry.stored.length)
            count(entry.stored.length)
            return


Way = Callable[[FileEntry, Source, Callable[[int], None]], Part]


def ways(entry: FileEntry, source: Source) -> list[tuple[int, str, Way]]:
    """(bytes over the network, name, way), cheapest first; of chunks only the list is known to cost anything."""
    found: list[tuple[int, str, Way]] = [(entry.stored.length, "whole", _whole)]
    if source.have(entry.stored.sha256):
        found.append((0, "here", _here))
    if entry.xz:
        found.append((entry.xz.length, "xz", _xz))
    based = [delta for delta in entry.deltas if source.have(delta.base)]
    if based:
        best = min(based, key=lambda delta: delta.length)
        found.append((best.length, "delta", _Patched(best)))
    least = min(cost for cost, _, _ in found)
    if entry.chunks and entry.chunks.length < least and any(True for _ in source.near(entry)):
        found.append((entry.chunks.length, "chunks", Chunked(least)))
    return sorted(found, key=lambda way: (way[0], way[1] == "whole"))


def _whole(entry: FileEntry, source: Source, count: Callable[[int], None]) -> Part:
    return source.bring(entry.stored, count)


def _here(entry: FileEntry, source: Source, count: Callable[[int], None]) -> Part:
    path = source.have(entry.stored.sha256)
    if path is None:
        raise UpdateError(f"{entry.path}: gone from this device", "VERIFY_FAILED")
    return made(entry, source, blocks(path), count)


def _xz(entry: FileEntry, source: Source, count: Callable[[int], None]) -> Part:
    from agent.package.squeeze import expand

    assert entry.xz
    packed = source.bring(entry.xz, _scaled(count, entry.xz.length, entry.length))
    try:
        return made(entry, source, expand(blocks(packed.path), entry.length, f"{entry.path}.xz"))
    finally:
        packed.drop()


@dataclass(frozen=True, slots=True)
class _Patched:
    """The way by a delta from a file that is here."""

    delta: Delta

    def __call__(self, entry: FileEntry, source: Source, count: Callable[[int], None]) -> Part:
        from agent.package.squeeze import patch

        path = source.have(self.delta.base)
        if path is None:
            raise UpdateError(f"{entry.path}: its base is gone from this device", "VERIFY_FAILED")
        delta = source.bring(self.delta.blob, _scaled(count, self.delta.length, entry.length))
        part = source.part(f"{entry.sha256}.made", entry.length)
        try:
            with path.open("rb") as base, part.opened(0) as out:
                patch(base, blocks(delta.path), entry.length, out, f"delta of {entry.path}")
            return proved(part, entry)
        finally:
            delta.drop()


def _is_there(entry: FileEntry, into: Path) -> bool:
    return is_whole(into / entry.path, entry.stored.length, entry.stored.sha256)


def _make_room(missing: Sequence[FileEntry], source: Source) -> None:
    """All of it, before the first byte. Raises UpdateError (NO_SPACE)."""
    begun = sum(source.part(entry.stored.sha256, entry.stored.length).size() for entry in missing)
    source.part("all", sum(entry.stored.length for entry in missing) - begun).make_room()


def _make_folders(target: Path) -> None:
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True)
        sync_folder(target.parent.parent)


def _shifted(progress: Progress | None, done: int, total: int) -> Callable[[int], None]:
    """Counts of one file as counts of all; never backwards, even when a second way begins anew."""
    most = done

    def count(here: int) -> None:
        nonlocal most
        most = max(most, done + here)
        if progress:
            progress(most, total)

    return count


def _scaled(count: Callable[[int], None], of: int, length: int) -> Callable[[int], None]:
    return lambda done: count(done * length // max(of, 1))
