"""A static web server on loopback that can be made to fail in every way a download meets.

`files` maps paths to bytes, `faults` maps a path to what goes wrong there; a fault with `times` left wears off. Without
faults it serves like nginx does: strong ETags, If-Range, one range or several. It notes every request.
"""

import hashlib
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Fault:
    """What goes wrong; the default is nothing."""

    times: int = 1 << 30
    """How many requests meet it."""
    status: int = 0
    """Answer with this status and no file."""
    location: str = ""
    """Redirect there."""
    page: bool = False
    """A captive portal: status 200 and HTML, whatever was asked for."""
    cut_after: int = -1
    """Close the connection after so many bytes of the body."""
    reset: bool = False
    """With `cut_after`: by a reset instead of an orderly close."""
    flip: int = -1
    """Flip a bit of this byte of the file."""
    no_range: bool = False
    """Answer 200 with all of it to a request for a range."""
    first_range_only: bool = False
    no_etag: bool = False
    endless: bool = False
    """A chunked body that never ends."""
    unsized: bool = False
    """No Content-Length: the end is where the connection closes."""
    trickle_s: float = 0.0
    """Wait so long before every byte, headers too when `trickle_headers`."""
    trickle_after: int = 0
    trickle_headers: bool = False
    silent: bool = False
    """Accept, read the request, say nothing."""


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    path: str
    range: str
    if_range: str


class FaultServer:
    """Use in a `with`; `url` is its base."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.faulty = self
        self._server.handle_error = lambda *_: None
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https" if tls else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self):
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def asked(self, part=""):
        """Paths of the requests that contain `part`, in order."""
        return [request.path for request in self.requests if part in request.path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        mine = self.server.faulty
        path = self.path.lstrip("/")
        path = path if path in mine.files else unquote(path)
        mine.requests.append(Request(path, self.headers.get("Range", ""), self.headers.get("If-Range", "")))
        fault = mine.faults.get(path) or mine.faults.get("*") or Fault()
        fault.times -= 1
        if fault.times < 0:
            fault = Fault()
        self.fault = fault
        self._answer(path, mine.files.get(path))

    def _answer(self, path, data):
        fault = self.fault
        if fault.silent:
            self.server.faulty.closing.wait(60)
            self.close_connection = True
        elif fault.location:
            self._send(302, {"Location": fault.location}, b"")
        elif fault.status:
            self._send(fault.status, {}, b"no")
        elif fault.page:
            self._send(200, {"Content-Type": "text/html"}, b"<html>please log in</html>")
        elif fault.endless:
            self._endless()
        elif data is None:
            self._send(404, {}, b"not here")
        else:
            self._file(bytearray(data))

    def _file(self, data):
        fault = self.fault
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if fault.flip >= 0:
            data[fault.flip] ^= 1
        headers = {} if fault.no_etag else {"ETag": etag}
        wanted = self.headers.get("Range", "")
        if self.headers.get("If-Range", etag) != etag or fault.no_range or not wanted:
            self._send(200, headers, bytes(data))
            return
        spans = []
        for item in wanted.removeprefix("bytes=").split(","):
            first, _, last = item.partition("-")
            spans.append((int(first), min(int(last or len(data) - 1), len(data) - 1)))
        if any(first > last for first, last in spans):
            self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            return
        if fault.first_range_only:
            spans = spans[:1]
        self._ranges(headers, bytes(data), spans)

    def _ranges(self, headers, data, spans):
        if len(spans) == 1:
            first, last = spans[0]
            self._send(206, headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1])
            return
        body = b""
        for first, last in spans:
            head = f"\r\n--SEP\r\nContent-Type: text/plain\r\nContent-Range: bytes {first}-{last}/{len(data)}"
            body += head.encode() + b"\r\n\r\n" + data[first : last + 1]
        self._send(206, headers | {"Content-Type": "multipart/byteranges; boundary=SEP"}, body + b"\r\n--SEP--\r\n")

    def _send(self, status, headers, body):
        fault = self.fault
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.unsized:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        if fault.trickle_headers:
            self._slowly(b"".join(self._headers_buffer), fault.trickle_s)
            self._headers_buffer = []
        self.end_headers()
        if fault.cut_after >= 0:
            self._cut(body[: fault.cut_after])
        elif fault.trickle_s:
            self._write(body[: fault.trickle_after])
            self._slowly(body[fault.trickle_after :], fault.trickle_s)
        else:
            self._write(body)

    def _cut(self, body):
        self._write(body)
        self.wfile.flush()
        self.close_connection = True
        if self.fault.reset:
            time.sleep(0.05)  # what was sent is to arrive before the reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_WR)

    def _endless(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        piece = b"x" * 65536
        for _ in range(400):  # 26 MB
            self._write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self._write(b"0\r\n\r\n")

    def _slowly(self, data, wait_s):
        for byte in data:
            if self.server.faulty.closing.wait(wait_s):
                return
            self._write(bytes([byte]))

    def _write(self, data):
        self.wfile.write(data)
        self.server.faulty.sent_bytes += len(data)
