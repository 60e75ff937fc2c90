"""A repository on a web server: urllib3 within our limits.

Rules: https, certificates always verified; plain http only to this machine or to a private address, where nobody has
a name to put into a certificate and where the content is signed anyway: what http gives away is which models a device
fetches, and a stranger on the path could hold updates back until the signed metadata expires. Redirects are counted,
never lead from https to http, and obey the same rules. No body is decompressed: what is signed is what is sent.
"""

import http.client
import io
import ipaddress
import random
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationValueError, SSLError
from urllib3.response import BaseHTTPResponse

from agent import __version__
from agent.clock import Clock
from agent.errors import UpdateError
from agent.updates.fetch import Answer, Fetcher, InterruptedTransferError
from agent.updates.pace import Limits, Metered, Pace

READ_BYTES: Final = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class WebFetcher(Fetcher):
    """Fetches over https, and over http where that is allowed."""

    def __init__(
        self,
        limits: Limits | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        ca: Path | None = None,
        way: Callable[[str], None] | None = None,
    ) -> None:
        """`ca`: a PEM file with the certificates to trust instead of the system's. `way`: refuses a URL, redirects
        included, by an UpdateError; by default `refuse_open_way`. Raises UpdateError."""
        super().__init__(limits, clock, rng)
        self._way = way or refuse_open_way
        self._pool = urllib3.PoolManager(
            num_pools=4, maxsize=1, retries=False, ssl_context=_trust(ca),
            headers={"User-Agent": f"limpet/{__version__}"},
        )  # fmt: skip
        self._pool.pool_classes_by_scheme = {
            "http": _pool_class(urllib3.HTTPConnectionPool, HTTPConnection, self._pace, self._clock),
            "https": _pool_class(urllib3.HTTPSConnectionPool, HTTPSConnection, self._pace, self._clock),
        }

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    @contextmanager
    def _answer(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        response = self._final(url, headers)
        try:
            yield Answer(response.status, response.headers, _body(url, response))
        finally:
            response.close()

    def _final(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """The answer after all redirects."""
        here = url
        for _ in range(self.limits.redirects + 1):
            self._way(here)
            response = self._ask(here, headers)
            if response.status not in _REDIRECTS:
                return response
            response.close()
            there = _joined(here, response.headers.get("Location", ""))
            if here.startswith("https:") and not there.startswith("https:"):
                raise UpdateError(f"{url}: redirects from https to {there}: refused", "DOWNLOAD_FAILED")
            here = there
        raise UpdateError(f"{url}: more than {self.limits.redirects} redirects, the last to {here}", "DOWNLOAD_FAILED")

    def _ask(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        silence_s = self._pace.patience_s()
        timeout = urllib3.Timeout(connect=min(self.limits.connect_s, silence_s), read=silence_s)
        self._pace.begin()
        try:
            return self._pool.request(
                "GET", url, headers={**self._pool.headers, **headers}, preload_content=False, decode_content=False,
                redirect=False, timeout=timeout,
            )  # fmt: skip
        except SSLError as exc:
            raise UpdateError(
                f"{url}: TLS failed: {exc}: check the device's clock and the server's certificate, or name its CA",
                "DOWNLOAD_FAILED",
            ) from exc
        except LocationValueError as exc:
            raise UpdateError(f"{url}: this is no URL to fetch from: {exc}", "DOWNLOAD_FAILED") from exc
        except HTTPError as exc:
            raise InterruptedTransferError(f"{url}: no answer: {exc}") from exc


def _joined(here: str, there: str) -> str:
    """Where a redirect leads. Raises UpdateError (DOWNLOAD_FAILED)."""
    try:
        return urljoin(here, there)
    except ValueError as exc:
        raise UpdateError(f"{here}: redirects to {there!r}, which is no URL: {exc}", "DOWNLOAD_FAILED") from exc


def refuse_open_way(url: str) -> None:
    """Raises UpdateError (DOWNLOAD_FAILED) for anything but https, or http to this machine or a private address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as exc:
        raise UpdateError(f"{url!r} is no URL: {exc}", "DOWNLOAD_FAILED") from exc
    if parts.scheme == "https" and host:
        return
    if parts.scheme != "http" or not _is_near(host):
        raise UpdateError(
            f"{url}: use https; plain http is for this machine and private addresses such as 192.168.1.5 only",
            "DOWNLOAD_FAILED",
        )


def _is_near(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as exc:
        raise UpdateError(f"{ca}: the certificates to trust cannot be read: {exc}", "DOWNLOAD_FAILED") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _body(url: str, response: BaseHTTPResponse) -> Iterator[bytes]:
    """What arrives, as it arrives: waiting for a full block would hide a trickle."""
    try:
        while block := response.read1(READ_BYTES):
            yield block
    except (HTTPError, OSError, http.client.HTTPException) as exc:
        raise InterruptedTransferError(f"{url}: the connection broke: {exc}") from exc


class _Response(http.client.HTTPResponse):
    """An answer whose every byte, status line and headers included, passes the pace."""

    def __init__(self, pace: Pace, clock: Clock, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(Metered(self.fp.detach(), sock, pace, clock), READ_BYTES)


def _pool_class(pool: Any, connection: Any, pace: Pace, clock: Clock) -> Any:
    """urllib3's `pool` with connections that receive through `pace`; it has no other place to put one."""

    class Connection(connection):  # type: ignore[misc]
        response_class = staticmethod(partial(_Response, pace, clock))

    class Pool(pool):  # type: ignore[misc]
        ConnectionCls = Connection

    return Pool
