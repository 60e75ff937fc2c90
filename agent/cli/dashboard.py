"""`limpet dashboard`: serve the page that shows events in a browser.

Static files from memory, on loopback, read-only. Only files that were there at start are served: no listing, no paths
of the file system. Requests that name another host are refused, so that no other page can reach in through DNS. The
page itself is agent/dashboard; any web server may serve that folder instead.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from agent.cli.options import Commands
from agent.errors import ConfigError

FOLDER: Final = Path(__file__).resolve().parent.parent / "dashboard"
MAX_CONFIG_BYTES: Final = 64 * 1024
REQUEST_TIMEOUT_S: Final = 5.0
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class File:
    """One thing that can be asked for."""

    content_type: str
    body: bytes


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("dashboard", help="serve the page that shows events in a browser", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", help="broker and devices, JSON (docs/dashboard.md)")
    parser.add_argument("--port", type=int, default=8377, help="port on 127.0.0.1, 0 for any (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; prints the address first."""
    config = read_config(args.config) if args.config else None
    server = make_server(load_files(config), args.port, None if config is None else config["broker"])
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    with server:
        server.serve_forever(poll_interval=0.5)
    return 0


def read_config(path: Path) -> dict[str, Any]:
    """The page's configuration, checked. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(MAX_CONFIG_BYTES))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: is not JSON: {exc}") from exc
    if not isinstance(config, dict) or not isinstance(config.get("devices"), list):
        raise ConfigError(f"{path}: must be an object with \"broker\" and \"devices\" (docs/dashboard.md)")
    _origin(config.get("broker"), path)
    return config


def load_files(config: Mapping[str, Any] | None) -> dict[str, File]:
    """Every file of the page by its path. Raises ConfigError when the page was not built."""
    if not (FOLDER / "vendor/mqtt.js").exists():
        raise ConfigError("the page is not built: run 'make dashboard' (it fetches MQTT.js from a hash-pinned lock)")
    files = {
        f"/{path.relative_to(FOLDER).as_posix()}": File(f"{_TYPES[path.suffix]}; charset=utf-8", path.read_bytes())
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }
    files["/"] = files["/index.html"]
    if config is not None:
        files["/config.json"] = File("application/json", json.dumps(config).encode())
    return files


def make_server(files: Mapping[str, File], port: int, broker: str | None = None) -> HTTPServer:
    """A server on 127.0.0.1. `broker` narrows where the page may connect to. Raises ConfigError for a port in use."""
    headers = security_headers("ws: wss:" if broker is None else _origin(broker, Path("config")))
    handler = type("Handler", (_Handler,), {"files": files, "headers_sent": headers})
    try:
        return _Server(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as exc:
        why = getattr(exc, "strerror", "there are 0 to 65535")
        raise ConfigError(f"port {port} cannot be used: {why}: choose another with --port") from exc


def security_headers(broker: str) -> dict[str, str]:
    """What a browser is allowed to do with the page: its own files, one broker, no markup from strings."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self' {broker}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def _origin(broker: object, path: Path) -> str:
    """Scheme, host and port of the broker's address: nothing that could add to the policy."""
    parts = urlsplit(broker) if isinstance(broker, str) else None
    try:
        port = parts.port if parts else None
    except ValueError:
        parts = None
    host = parts.hostname if parts and parts.scheme in ("ws", "wss") else None
    if parts is None or not host or not all(c.isalnum() or c in ".-:" for c in host):
        raise ConfigError(f"{path}: \"broker\" must be the broker's ws:// or wss:// address")
    bracketed = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{bracketed}" + (f":{port}" if port else "")


class _Server(HTTPServer):
    """One request at a time: a page of ten files for the people at one machine."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no news; anything else is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD out of `files`."""

    files: ClassVar[Mapping[str, File]]
    headers_sent: ClassVar[Mapping[str, str]]
    timeout = REQUEST_TIMEOUT_S
    server_version = "limpet"
    sys_version = ""

    def do_GET(self) -> None:
        """One file, or 404."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The headers of one file, or 404."""
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None:
        """Nobody needs a line per request."""

    def _answer(self, with_body: bool) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        file = self.files.get(urlsplit(self.path).path) if host in _NAMES else None
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND if host in _NAMES else HTTPStatus.MISDIRECTED_REQUEST)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", file.content_type)
        self.send_header("Content-Length", str(len(file.body)))
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(file.body)
