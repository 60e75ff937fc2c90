"""Serves /metrics over HTTP on a loopback port or a Unix socket, as a lane.

Owns the listening socket. One connection at a time with one deadline for the whole exchange, so that a slow client
costs the agent at most two seconds of this lane and nothing else. Refuses addresses that other machines can reach
unless the operator allowed them: the endpoint has neither password nor TLS.
"""

import contextlib
import ipaddress
import logging
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.errors import ConfigError, UplinkError
from agent.metrics import CONTENT_TYPE, Registry
from agent.settings.metrics import MetricsConfig

log = logging.getLogger(__name__)

REQUEST_LIMIT = 8192
"""Largest request head, bytes."""
EXCHANGE_S = 2.0
"""Time for a whole exchange, seconds."""
TURN_S = 1.0
"""Longest wait for a connection before the lane beats again, seconds."""


class Exposition:
    """The /metrics endpoint of one registry."""

    def __init__(self, config: MetricsConfig, registry: Registry) -> None:
        """Checks the address. Raises ConfigError for one that is not allowed, or when `config.listen` is missing."""
        if config.listen is None:
            raise ConfigError("[metrics] listen is not set: give an address such as '127.0.0.1:9464'")
        self._listen = config.listen
        self._registry = registry
        self.address: str | None = None
        """Where it listens, once it does: "127.0.0.1:40001" or "unix:/path"."""
        if not self._listen.startswith("unix:"):
            _check_host(_split(self._listen)[0], config.allow_remote)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Serve until `stop`. Raises UplinkError when the address cannot be taken."""
        with self._open() as listener:
            log.info("metrics listen=%s", self.address)
            while not stop.is_set():
                beat()
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection, contextlib.suppress(OSError):  # the client's trouble, and it sees it
                    self._serve(connection)

    @contextlib.contextmanager
    def _open(self) -> Iterator[socket.socket]:
        unix = Path(self._listen.removeprefix("unix:")) if self._listen.startswith("unix:") else None
        try:
            listener = _listen_unix(unix) if unix else _listen_tcp(*_split(self._listen))
        except OSError as exc:
            raise UplinkError(
                f"[metrics] listen = {self._listen!r} cannot be opened: {exc.strerror or exc}: "
                "choose another port or path, or stop what uses it"
            ) from exc
        with listener:
            listener.settimeout(TURN_S)
            self.address = self._listen if unix else _spell(*listener.getsockname()[:2])
            try:
                yield listener
            finally:
                self.address = None
                if unix:
                    unix.unlink(missing_ok=True)

    def _serve(self, connection: socket.socket) -> None:
        until_s = time.monotonic() + EXCHANGE_S
        head = _read_head(connection, until_s)
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ")[0].split(b"?")[0]
        if b"\r\n\r\n" not in head:
            status, body = "431 Request Header Fields Too Large", "the request is too long or did not end\n"
        elif method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", "only GET\n"
        elif path != b"/metrics":
            status, body = "404 Not Found", "the metrics are at /metrics\n"
        else:
            status, body = "200 OK", self._registry.text()
        raw = body.encode()
        fields = (f"Content-Type: {CONTENT_TYPE}", f"Content-Length: {len(raw)}", "Connection: close")
        answer = "\r\n".join((f"HTTP/1.1 {status}", *fields, "", ""))
        connection.settimeout(max(0.05, until_s - time.monotonic()))
        connection.sendall(answer.encode() + (b"" if method == b"HEAD" else raw))


def _read_head(connection: socket.socket, until_s: float) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < REQUEST_LIMIT:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            break
        connection.settimeout(left_s)
        more = connection.recv(REQUEST_LIMIT)
        if not more:
            break
        head += more
    return head


def _split(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if int(port) > 65535:
        raise ConfigError(f"[metrics] listen = {listen!r}: port {port} does not exist: it must be 0 to 65535")
    return host.strip("[]"), int(port)


def _spell(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_host(host: str, allow_remote: bool) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not allow_remote:
        raise ConfigError(
            f"[metrics] listen on {host!r} would show the metrics to other machines: "
            "use 127.0.0.1, [::1] or a Unix socket, or set allow_remote = true"
        )


def _listen_tcp(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=8)


def _listen_unix(path: Path) -> socket.socket:
    """Readable and writable by owner and group. A socket that nobody serves any more is taken over."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) != 0:
                path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(8)
    except OSError:
        listener.close()
        raise
    return listener
