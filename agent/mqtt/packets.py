"""The two packets of which there is one per event: PUBLISH at QoS 1 on its way out, PUBACK on its way in. Pure.

paho builds some sixty objects for such a pair, which took more time than everything else that is done for an event; it
still does all that is rare: connecting, subscribing, receiving, keeping alive. MQTT 5.0, 2.1, 3.3 and 3.4; 3.1.1 has
the same packets without properties.
"""

from collections.abc import Callable
from typing import Final

PUBLISH_QOS1: Final = 0x32
RETAIN: Final = 0x01
PUBACK: Final = 0x40
EXPIRY: Final = 0x02
"""Property: the message expires after this many seconds."""


def publish(mid: int, topic: str, payload: bytes, *, retain: bool, v5: bool, expiry_s: int | None = None) -> bytes:
    """One PUBLISH at QoS 1. `expiry_s` needs `v5`. Raises OverflowError for a topic of more than 65,535 bytes."""
    name = topic.encode()
    expiry = b"" if expiry_s is None else bytes((EXPIRY,)) + expiry_s.to_bytes(4, "big")
    properties = bytes((len(expiry),)) + expiry if v5 else b""
    variable = len(name).to_bytes(2, "big") + name + mid.to_bytes(2, "big") + properties
    first = PUBLISH_QOS1 | RETAIN if retain else PUBLISH_QOS1
    return bytes((first,)) + length(len(variable) + len(payload)) + variable + payload


def length(size: int) -> bytes:
    """A Variable Byte Integer (MQTT 5.0, 1.5.5)."""
    made = bytearray()
    while size > 127:
        made.append(size & 127 | 128)
        size >>= 7
    made.append(size)
    return bytes(made)


class Sieve:
    """Takes the PUBACKs out of what a broker sends; everything else passes as it came, for paho to read."""

    def __init__(self, answered: Callable[[int, int], None]) -> None:
        """`answered(mid, reason code)` is called for each PUBACK, in order."""
        self._answered = answered
        self._held = b""
        """The beginning of a packet that is not known to be a whole PUBACK or something else."""
        self._passing = 0
        """Bytes of a packet that are still to pass."""

    def sift(self, data: bytes) -> bytes:
        """What of `data` is not about a PUBACK."""
        data, self._held = self._held + data if self._held else data, b""
        passed, at = [], 0
        while at < len(data):
            if self._passing:
                part = data[at : at + self._passing]
                passed.append(part)
                self._passing -= len(part)
                at += len(part)
            elif (step := self._packet(data, at)) > 0:
                at += step
            elif not self._passing:
                self._held = data[at:]
                break
        return b"".join(passed)

    def _packet(self, data: bytes, at: int) -> int:
        """Length of the PUBACK at `at`; 0 when there is none, or when more has to come to know."""
        body, size = _header(data, at)
        if size is None:
            return 0
        if data[at] != PUBACK or size < body - at + 2:
            self._passing = size
            return 0
        if len(data) - at < size:
            return 0
        code = data[body + 2] if size > body - at + 2 else 0
        self._answered(int.from_bytes(data[body : body + 2], "big"), code)
        return size


def _header(data: bytes, at: int) -> tuple[int, int | None]:
    """Where the packet at `at` goes on after its length, and how long all of it is; None when that is not there yet.

    A length that is none makes a packet of what is there: it passes, and paho says so.
    """
    size = 0
    for index in range(at + 1, min(at + 5, len(data))):
        size |= (data[index] & 127) << 7 * (index - at - 1)
        if data[index] < 128:
            return index + 1, index + 1 - at + size
    return len(data), None if len(data) < at + 5 else len(data) - at
