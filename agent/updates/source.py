"""The repository that an update comes from: the configured server, a folder, or a tar file on a stick. Same checks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.depot.places import PARTS
from agent.durable import read_limited
from agent.errors import UpdateError
from agent.package import FileEntry
from agent.settings.updates import UpdatesConfig
from agent.updates.client import ROOT_LIMIT_BYTES, Repository
from agent.updates.fetch import Fetcher
from agent.updates.floor import Floor
from agent.updates.local import BASE, LocalFetcher
from agent.updates.pace import Limits
from agent.updates.stick import unpacked
from agent.updates.taking import Kin
from agent.updates.ways import fetch_files
from agent.updates.web import WebFetcher


class Signed:
    """A repository that is open: proved metadata, small targets, files."""

    def __init__(self, repository: Repository, fetcher: Fetcher) -> None:
        self._repository, self._fetcher = repository, fetcher

    def refresh(self) -> None:
        """Newest metadata. Raises UpdateError."""
        self._repository.refresh()

    def read(self, path: str, limit_bytes: int, local: Path | None = None, /) -> bytes | None:
        """A small target, proved; None when there is none of this name. Raises UpdateError."""
        return self._repository.read(path, limit_bytes, local)

    def fetch(
        self, entries: Sequence[FileEntry], into: Path, kin: Kin, progress: Callable[[int, int], None], /
    ) -> None:
        """Bring `entries` into the folder `into` by the cheapest way. Raises UpdateError."""
        blobs_url = self._repository.blobs_url
        fetch_files(entries, into, kin.have, self._fetcher, blobs_url, progress, near=kin.near)


@contextmanager
def opened(config: UpdatesConfig, place: Path | None = None) -> Iterator[Signed]:
    """The configured repository, or the one in the folder or tar file `place`. Raises UpdateError."""
    root = _anchor(config)
    limits = _limits(config)
    if place is not None:
        with ExitStack() as held:
            limit_bytes = int(config.size_mb * 1e6)
            if not place.is_dir():
                place = held.enter_context(unpacked(place, config.folder / PARTS / "stick", limit_bytes))
            yield from _held(config, BASE, root, LocalFetcher(place, limits))
        return
    if not config.repository:
        words = "no repository is configured: set [updates] repository, or take one along: limpet update --from"
        raise UpdateError(words, "REJECTED_UNSUPPORTED")
    fetcher = WebFetcher(limits, ca=config.ca)
    try:
        yield from _held(config, config.repository, root, fetcher)
    finally:
        fetcher.close()


def _held(config: UpdatesConfig, url: str, root: bytes, fetcher: Fetcher) -> Iterator[Signed]:
    floor = Floor(config.folder / "floor.json")
    with Repository(config.folder / "metadata", url, root, fetcher, floor) as repository:
        yield Signed(repository, fetcher)


def _anchor(config: UpdatesConfig) -> bytes:
    """The pinned root. Raises UpdateError: without it nothing can be believed."""
    if config.root is None:
        raise UpdateError("there is no trust anchor: set [updates] root to the repository's root.json", "FAILED")
    try:
        return read_limited(config.root, ROOT_LIMIT_BYTES)
    except OSError as exc:
        words = f"{config.root}: the trust anchor cannot be read: {exc.strerror}"
        raise UpdateError(f"{words}: nothing is installed without it", "FAILED") from exc
    except ValueError as exc:
        raise UpdateError(f"{exc}: this is no root.json", "FAILED") from exc


def _limits(config: UpdatesConfig) -> Limits:
    return Limits(
        slowest_bytes_s=config.slowest_bytes_s, total_s=config.download_s,
        bandwidth_bytes_s=config.bandwidth_kib_s * 1024, keep_free_bytes=int(config.keep_free_mb * 1e6),
    )  # fmt: skip
