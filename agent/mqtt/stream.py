"""A socket of which both directions are gathered: what is sent within a turn leaves in one write, as one TLS record.

Python's `ssl.SSLSocket` makes a record and a system call of every send, and two system calls of every record that it
reads. Here TLS works in memory, and paho uses a `Stream` as it would the socket. Rules: what `send` took leaves in
order, with `flush` at the latest; what came in passes a sieve first; an error of the peer is told after everything that
arrived before it.
"""

import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

RECORD_BYTES: Final = 16 << 10
"""Most that one TLS record holds; so much leaves without waiting for `flush`."""
READ_BYTES: Final = 64 << 10

Sift = Callable[[bytes], bytes]
"""Takes what came in, and returns what paho is to read of it."""


class Wrapping:
    """What paho asks of an SSL context, its one place where a socket may be wrapped: it makes a `Stream` of it."""

    check_hostname = True
    """`ssl` compares the name itself; without TLS there is none to compare."""

    def __init__(self, context: ssl.SSLContext | None, sift: Sift) -> None:
        """Without a context the stream is in the clear."""
        self._context = context
        self._sift = sift

    def wrap_socket(self, sock: socket.socket, server_hostname: str, *, do_handshake_on_connect: bool) -> "Stream":
        """A stream over `sock`, which it owns from then on; the handshake is the caller's."""
        assert not do_handshake_on_connect
        if self._context is None:
            return Stream(sock, self._sift)
        return TlsStream(sock, self._sift, self._context, server_hostname)


class Stream:
    """One connection. Not thread-safe; raises what a socket and `ssl` raise."""

    def __init__(self, sock: socket.socket, sift: Sift) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what leaves here has been gathered already
        self._sock = sock
        self._sift = sift
        self._clear = bytearray()
        """Taken by `send`."""
        self._unsent = bytearray()
        """Ready for the network, not taken by it yet."""
        self._come, self._read = b"", 0
        self._end: OSError | EOFError | None = None
        """What is told when everything that came is read."""

    # --- as paho opens and closes a socket ------------------------------------------------------------------------

    def settimeout(self, timeout_s: float | None) -> None:
        """How long the handshake may wait for the peer."""
        self._sock.settimeout(timeout_s)

    def setblocking(self, flag: bool) -> None:
        """False after the handshake: from then on nothing waits."""
        self._sock.setblocking(flag)

    def do_handshake(self) -> None:
        """Nothing to agree on."""

    def fileno(self) -> int:
        """For `select`; -1 when closed."""
        return self._sock.fileno()

    def version(self) -> str | None:
        """The protocol that protects it: "TLSv1.3"; None in the clear."""
        return None

    def close(self) -> None:
        """Send what the network still takes at once, and let the socket go."""
        try:
            self.flush()
        except OSError:
            pass  # the peer has gone before
        finally:
            self._sock.close()

    # --- sending --------------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> bool:
        """True when something waits for `flush`."""
        return bool(self._clear or self._unsent)

    def send(self, data: bytes | bytearray) -> int:
        """Take all of `data`; how much may wait is the caller's to limit."""
        self._clear += data
        if len(self._clear) >= RECORD_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Send what the network takes now."""
        if self._clear:
            self._unsent += self._sealed(self._clear)
            self._clear.clear()
        if self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                return
            del self._unsent[:sent]

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Ask the network once, and sift what came. An error waits until `recv` comes to it."""
        if self._end is not None:
            return
        try:
            raw = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._end = exc
            return
        self._take_in(self._opened(raw))
        if not raw:
            self._end = self._end or EOFError()

    def _take_in(self, clear: bytes) -> None:
        self._come, self._read = self._come[self._read :] + self._sift(clear), 0

    @property
    def readable(self) -> bool:
        """True when `recv` has something to say: bytes, or the end."""
        return self._read < len(self._come) or self._end is not None

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes of what was received; none at the end; BlockingIOError when there is nothing."""
        if self._read == len(self._come):
            if isinstance(self._end, EOFError):
                return b""
            raise self._end or BlockingIOError
        start, self._read = self._read, min(self._read + size, len(self._come))
        return self._come[start : self._read]

    # --- protecting -----------------------------------------------------------------------------------------------

    def _sealed(self, clear: bytearray) -> bytes | bytearray:
        return clear

    def _opened(self, raw: bytes) -> bytes:
        return raw


class TlsStream(Stream):
    """The same within TLS."""

    def __init__(self, sock: socket.socket, sift: Sift, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock, sift)
        self._from_peer, self._to_peer = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._from_peer, self._to_peer, server_hostname=host)
        self._room = bytearray(READ_BYTES)

    def version(self) -> str | None:
        """The protocol that was agreed on: "TLSv1.3"."""
        return self._tls.version()

    def do_handshake(self) -> None:
        """Agree on keys; raises ssl.SSLError, or TimeoutError when the peer says nothing."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
            finally:  # what is said to the peer, an alert too
                self._sock.sendall(self._to_peer.read())
            self._hear(self._sock.recv(READ_BYTES))
        self._take_in(self._opened(b""))  # `select` would not tell of what came along

    def _hear(self, raw: bytes) -> None:
        if raw:
            self._from_peer.write(raw)
        else:
            self._from_peer.write_eof()

    def _sealed(self, clear: bytearray) -> bytes:
        self._tls.write(clear)
        return self._to_peer.read()

    def _opened(self, raw: bytes) -> bytes:
        """Every whole record."""
        if raw:
            self._from_peer.write(raw)
        opened, room = [], self._room
        try:
            while count := cast("int", self._tls.read(READ_BYTES, room)):
                opened.append(room[:count])
            self._end = EOFError()
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._end = EOFError()
        except OSError as exc:
            self._end = exc
        if self._to_peer.pending:  # TLS answered by itself: a new key, an alert
            self._unsent += self._to_peer.read()
        return b"".join(opened)
