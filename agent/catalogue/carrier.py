"""Brings the pinned files of an entry: from their origin over https, or from a mirror: a server, a folder, a stick.

Who serves the bytes need not be trusted: length and sha256 are known before the first byte is asked for, a body that
goes on is cut there, and nothing looks into a file before its sha256 was found right. The way is kept narrow all the
same: https with verified certificates, http to this machine alone, no redirect to another host. What was begun stays
beside the target and goes on from there the next time.
"""

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from agent.catalogue.adding import Progress
from agent.catalogue.entry import Wanted
from agent.catalogue.origin import ORIGIN_URL
from agent.errors import ConfigError, UpdateError
from agent.updates.fetch import Fetcher
from agent.updates.local import BASE, LocalFetcher
from agent.updates.pace import Limits
from agent.updates.parts import Part, sha256_of
from agent.updates.web import WebFetcher

LIMITS = Limits(total_s=3600.0, redirects=3, keep_free_bytes=16_000_000)


class Carrier:
    """One way to the files. Not for two threads."""

    def __init__(self, fetcher: Fetcher, url_of: Callable[[Wanted], str]) -> None:
        self._fetcher = fetcher
        self._url_of = url_of
        fetcher.vouched = "pinned"

    def bring(self, wanted: Wanted, part: Path, progress: Progress, /) -> None:
        """Fill `part` until it is the pinned file, going on where an earlier try stopped.

        Raises UpdateError: NO_SPACE, TIMED_OUT and DOWNLOAD_FAILED (what came is kept), VERIFY_FAILED (it went).
        """
        url, digest = self._url_of(wanted), ""

        def good(file: BinaryIO) -> bool:
            nonlocal digest
            digest = sha256_of(file)
            return digest == wanted.sha256

        kept = Part(part, wanted.size_bytes, self._fetcher.limits.keep_free_bytes)
        try:
            self._fetcher.whole(url, kept, good, lambda done: progress(wanted, done))
        except UpdateError as exc:
            if exc.reason == "VERIFY_FAILED" and digest:
                raise UpdateError(_wrong(url, digest, wanted), exc.reason) from exc
            raise


@contextmanager
def opened(mirror: str = "", ca: Path | None = None, limits: Limits = LIMITS) -> Iterator[Carrier]:
    """The way to the origins, or to `mirror`: a URL or a folder. `ca`: certificates to trust instead of the system's.

    A mirror has the order of the origins' own server, owner/repository/commit/path; a folder may hold the files by
    their names alone as well. Raises ConfigError for a folder that is not there, UpdateError for a URL without https.
    """
    if mirror and "://" not in mirror:
        yield _folder(Path(mirror), limits)
        return
    base = mirror or ORIGIN_URL
    fetcher = WebFetcher(limits, ca=ca, way=narrow(base))
    try:
        yield Carrier(fetcher, lambda wanted: wanted.pinned.url(base))
    finally:
        fetcher.close()


def narrow(base: str) -> Callable[[str], None]:
    """A check of every URL that is asked: the host of `base` and no other, by https, or by http on this machine.

    Raises UpdateError (DOWNLOAD_FAILED), and so does the check.
    """
    only = _host(base)

    def refuse(url: str) -> None:
        if (host := _host(url)) != only:
            words = f"{url}: a redirect from {only} to {host} is refused: log in to this network, or name a mirror"
            raise UpdateError(words, "DOWNLOAD_FAILED")

    return refuse


def _host(url: str) -> str:
    """Scheme, host and port. Raises UpdateError for what may not be asked."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as exc:
        raise UpdateError(f"{url!r} is no URL: {exc}", "DOWNLOAD_FAILED") from exc
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_here(host))):
        raise UpdateError(f"{url}: use https; plain http is for this machine only", "DOWNLOAD_FAILED")
    return parts.netloc


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _folder(folder: Path, limits: Limits) -> Carrier:
    if not folder.is_dir():
        raise ConfigError(f"--mirror {folder}: there is no such folder: is the stick in, is it mounted?")

    def url_of(wanted: Wanted) -> str:
        pinned = wanted.pinned
        named = next((name for name in (pinned.place, pinned.file_name) if (folder / name).exists()), "")
        if not named:
            raise UpdateError(
                f"{folder} holds neither {pinned.place} nor {pinned.file_name}: fetch {pinned.url()} and put it there",
                "DOWNLOAD_FAILED",
            )  # fmt: skip
        return f"{BASE}/{named}"

    return Carrier(LocalFetcher(folder, limits), url_of)


def _wrong(url: str, digest: str, wanted: Wanted) -> str:
    return (
        f"{url}: its sha256 is {digest}, the catalogue says {wanted.sha256}: it was removed; these are other bytes than"
        " those that were tested: try the origin or another mirror, and tell who keeps this one"
    )
