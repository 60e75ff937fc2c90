"""The words of both sides: kinds of messages, their head, and what a host answers when it cannot.

The agent and the host import this file, so it needs Python 3.8 and its standard library.
"""

from __future__ import annotations

import array
import socket
import struct

PROTOCOL = 1
OPEN, LAYOUT, CONNECT, ENDED, RUN, DONE, FAILED = 1, 2, 3, 4, 5, 16, 17
"""Kinds of messages."""
HEAD = struct.Struct("<II")
"""Kind and number, before every body."""
PACKET_BYTES = 1 << 17
"""Largest message."""


class Refused(Exception):  # noqa: N818  it is an answer, not a fault of this program
    """What the other side is told. `missing`: this Python has no runtime for such a file."""

    def __init__(self, text: str, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it; an empty packet when the other side has hung up."""
    packet, ancillary, _, _ = connection.recvmsg(PACKET_BYTES, socket.CMSG_SPACE(16), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return packet, list(descriptors)
