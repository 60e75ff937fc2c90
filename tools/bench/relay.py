"""A TCP relay on loopback that counts what passes: the bytes of TLS records, headers of TCP and IP not among them."""

import contextlib
import socket
import threading
from collections.abc import Iterator

_BLOCK_BYTES = 1 << 16


class Relay:
    """Takes one connection after another to `port`, each direction in a thread of its own."""

    def __init__(self, port: int) -> None:
        """`port`: of the server, on loopback."""
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]
        self.up_bytes = 0
        """Bytes from clients to the server, since the start."""
        self.down_bytes = 0

    def serve(self) -> None:
        """Relay until `close`."""
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._open += [client, server]
                for pump in (lambda c=client, s=server: self._up(c, s), lambda c=client, s=server: self._down(s, c)):
                    threading.Thread(target=pump, daemon=True).start()

    def close(self) -> None:
        """End every connection."""
        for one in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        for block in _blocks(client, server):
            self.up_bytes += len(block)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        for block in _blocks(server, client):
            self.down_bytes += len(block)


def _blocks(one: socket.socket, other: socket.socket) -> Iterator[bytes]:
    """What `one` sends, counted before `other` gets it."""
    with contextlib.suppress(OSError):
        while block := one.recv(_BLOCK_BYTES):
            yield block
            other.sendall(block)
        other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay(port: int) -> Iterator[Relay]:
    """A relay to the server at `port`, at work."""
    made = Relay(port)
    thread = threading.Thread(target=made.serve)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()
