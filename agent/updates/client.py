"""The repository as this device believes it: TUF's client workflow, made to survive power cuts and wrong clocks.

python-tuf decides what is trusted; `HardenedUpdater` closes what it leaves open on a device. Metadata is on the disk
before it counts (otherwise a power cut brings the last version back and a rollback is accepted). Every start begins
with the pinned root, so a damaged file heals. Roots that are here do not count against the 256 new ones of one run, so
a device that slept through 300 rotations arrives. Time comes from `agent.updates.floor`. Targets are written beside
their place, never to /tmp. One process at a time.
"""

import datetime
import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from tuf.api import exceptions
from tuf.api.metadata import TargetFile
from tuf.ngclient.updater import Updater

from agent.durable import holds, locked, read_limited, sync_folder, write_durably
from agent.errors import UpdateError
from agent.updates.fetch import Fetcher
from agent.updates.floor import Floor
from agent.updates.parts import Part

log = logging.getLogger(__name__)

ROOT_LIMIT_BYTES: Final = 512_000
LOCK: Final = "lock"


class HardenedUpdater(Updater):
    """tuf.ngclient.Updater with durable writes, a pinned root, our clock and resumed downloads."""

    def __init__(
        self, folder: Path, metadata_url: str, root: bytes, fetcher: Fetcher, now_s: Callable[[], float] | None = None,
        targets_url: str = "", targets: Path | None = None,
    ) -> None:  # fmt: skip
        """`root`: the pinned root metadata; `now_s`: the time to judge expiry by, the clock's without it.

        Raises RepositoryError when `root` is none, OSError when `folder` cannot be written.
        """
        super().__init__(
            str(folder), metadata_url, str(targets) if targets else None, targets_url or None, fetcher, bootstrap=root
        )
        self._bytes = fetcher
        if now_s:
            self._trusted_set.reference_time = datetime.datetime.fromtimestamp(now_s(), datetime.UTC)
        sync_folder(folder)  # what a killed run renamed, and we will find, is on the disk from here on

    @property
    def expires_s(self) -> float:
        """When the timestamp that was fetched stops holding, seconds since 1970."""
        return self._trusted_set.timestamp.expires.timestamp()

    def url_of(self, info: TargetFile) -> str:
        """Where a target lies: under its hash when the repository keeps consistent snapshots."""
        folder, slash, name = info.path.rpartition("/")
        if self._trusted_set.root.consistent_snapshot:
            name = f"{next(iter(info.hashes.values()))}.{name}"
        return f"{self._target_base_url}{folder}{slash}{name}"

    def download_target(
        self, targetinfo: TargetFile, filepath: str | None = None, target_base_url: str | None = None
    ) -> str:
        """Fetch a target beside its place, prove what the disk gives back, then give it its name."""
        path = Path(filepath or self._generate_target_file_path(targetinfo))
        if target_base_url:
            raise ValueError("the base URL is the constructor's")
        path.parent.mkdir(parents=True, exist_ok=True)
        name = next(iter(targetinfo.hashes.values()))
        part = Part(path.with_name(f".{name}.part"), targetinfo.length, self._bytes.limits.keep_free_bytes)
        self._bytes.whole(self.url_of(targetinfo), part, lambda file: _fits(targetinfo, file))
        part.land(path)
        return str(path)

    def _persist_root(self, version: int, data: bytes) -> None:
        history = Path(self._dir, "root_history")
        if not history.is_dir():
            history.mkdir(parents=True)
            sync_folder(history.parent)
        self._persist_file(str(history / f"{version}.root.json"), data)

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        if not holds(path, data):
            write_durably(path, data, 0o644)

    def _update_root_symlink(self) -> None:
        link = Path(self._dir, "root.json")
        current = Path("root_history", f"{self._trusted_set.root.version}.root.json")
        if link.is_symlink() and link.readlink() == current:
            return
        fresh = link.with_name("root.json.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(current)
        fresh.rename(link)
        sync_folder(link.parent)

    def _load_root(self) -> None:
        history = Path(self._dir, "root_history")
        while True:
            try:
                data = read_limited(history / f"{self._trusted_set.root.version + 1}.root.json", ROOT_LIMIT_BYTES)
                self._trusted_set.update_root(data)
            except (OSError, ValueError, exceptions.RepositoryError):
                break  # not here, or not the next one: the repository is asked for it
        super()._load_root()


class Repository:
    """A repository's targets, each proved. Use it in a `with`: only one process may hold the metadata."""

    def __init__(
        self, folder: Path, base_url: str, root: bytes, fetcher: Fetcher, floor: Floor | None = None
    ) -> None:
        """`folder`: of the metadata. `base_url`: below it lie metadata/ and targets/. `root`: the trust anchor."""
        self._folder = folder
        self._base_url = base_url.rstrip("/")
        self._root = root
        self._fetcher = fetcher
        self._floor = floor
        self._updater: HardenedUpdater | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Raises UpdateError: REJECTED_BUSY when another process updates, FAILED when the folder cannot be used."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = self._held.enter_context(locked(self._folder / LOCK))
        except OSError as exc:
            raise _of_disk(self._folder, exc) from exc
        if not free:
            self._held.close()
            raise UpdateError(f"{self._folder}: another update is running; try again when it is done", "REJECTED_BUSY")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._updater = None
        self._held.close()

    @property
    def blobs_url(self) -> str:
        """Below it lie the blobs."""
        return f"{self._base_url}/blobs"

    def refresh(self) -> None:
        """Fetch and prove the newest metadata. Raises UpdateError; what was proved before stays."""
        try:
            with translated(self._base_url):
                self._refresh()
        except UpdateError as exc:
            if exc.reason != "REJECTED_EXPIRED" or not self._floor:
                raise
            raise UpdateError(f"{exc}{self._floor.hint()}", exc.reason) from exc

    def _refresh(self) -> None:
        if self._floor:
            self._floor.keep()
        updater = HardenedUpdater(
            self._folder, f"{self._base_url}/metadata", self._root, self._fetcher,
            self._floor.now_s if self._floor else None, f"{self._base_url}/targets",
        )  # fmt: skip
        updater.refresh()
        self._updater = updater
        if self._floor:
            self._floor.vouch(updater.expires_s)

    def known(self, path: str) -> bool:
        """Whether the repository signs a target of this name. Raises UpdateError."""
        return self._info(path) is not None

    def sha256(self, path: str) -> str:
        """The signed sha256 of a target, empty when there is no such target. Raises UpdateError."""
        info = self._info(path)
        return info.hashes.get("sha256", "") if info else ""

    def read(self, path: str, limit_bytes: int, local: Path | None = None) -> bytes | None:
        """A small target, proved; None when the repository signs none of this name.

        `local`: a file that may already be it, and then nothing is fetched. Raises UpdateError.
        """
        info = self._info(path)
        if info is None:
            return None
        if info.length > limit_bytes:
            raise UpdateError(f"{path}: {info.length} bytes, at most {limit_bytes} are taken", "VERIFY_FAILED")
        if local and (data := _kept(local, info)) is not None:
            return data
        with translated(path):
            data = self._fetcher.download_bytes(self._fresh().url_of(info), info.length)
            info.verify_length_and_hashes(data)
        return data

    def _info(self, path: str) -> TargetFile | None:
        with translated(path):
            return self._fresh().get_targetinfo(path)

    def _fresh(self) -> HardenedUpdater:
        if self._updater is None:
            raise UpdateError("the repository was not refreshed: nothing it says can be believed", "FAILED")
        return self._updater


@contextmanager
def translated(what: str) -> Iterator[None]:
    """TUF's errors and the disk's as UpdateError that names `what`."""
    try:
        yield
    except exceptions.ExpiredMetadataError as exc:
        raise UpdateError(
            f"{what}: {exc}: the repository's signatures are out of date (or this clock is): nothing is installed until"
            " its owner signs anew", "REJECTED_EXPIRED",
        ) from exc  # fmt: skip
    except exceptions.BadVersionNumberError as exc:
        text = f"{what}: {exc}: the server shows an older state than before"
        raise UpdateError(text, "REJECTED_ROLLBACK_ATTACK") from exc
    except exceptions.UnsignedMetadataError as exc:
        raise UpdateError(f"{what}: {exc}: not signed by who may", "REJECTED_BAD_SIGNATURE") from exc
    except exceptions.DownloadError as exc:
        raise UpdateError(f"{what}: {exc}", "DOWNLOAD_FAILED") from exc
    except exceptions.RepositoryError as exc:
        raise UpdateError(f"{what}: {exc}", "VERIFY_FAILED") from exc
    except OSError as exc:
        raise _of_disk(what, exc) from exc


def _of_disk(what: object, exc: OSError) -> UpdateError:
    full = exc.errno in {errno.ENOSPC, errno.EDQUOT}
    return UpdateError(f"{what}: the disk refuses: {exc}", "NO_SPACE" if full else "FAILED")


def _fits(info: TargetFile, file: BinaryIO) -> bool:
    try:
        info.verify_length_and_hashes(file)
    except exceptions.LengthOrHashMismatchError:
        return False
    return True


def _kept(path: Path, info: TargetFile) -> bytes | None:
    try:
        data = read_limited(path, info.length)
        info.verify_length_and_hashes(data)
    except (OSError, ValueError, exceptions.LengthOrHashMismatchError):
        return None
    return data
