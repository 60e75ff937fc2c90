"""The bytes of one sealed message: COSE_Encrypt0 (RFC 9052, 5.2) with AES-256-GCM.

Owns the layout of headers, nonce and additional data; knows neither epochs nor trust. The protected header carries
algorithm, message type and compression; the unprotected one the key id and the counter n as Partial IV. Site,
device, type, stream, key id and n are bound as external additional data and cost no byte on the wire.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent import cbor
from agent.errors import EnvelopeError

A256GCM: Final = 3
LABEL_TYPE: Final = -65537
"""Header labels below -65536 are for private use (IANA registry of COSE header parameters)."""
LABEL_ZIP: Final = -65538
KEY_BYTES: Final = 32
IV_BYTES: Final = 12
KID_BYTES: Final = 8
MAX_MESSAGES: Final = 1 << 20
"""Messages under one epoch key: n is below this."""
CONTEXT: Final = "limpet-msg-v1"
_TAG = b"\xd0"  # CBOR tag 16, COSE_Encrypt0
_STRUCTURE = b"\x83\x68Encrypt0"  # RFC 9052, 5.3: ["Encrypt0", protected, external]


class MessageType(IntEnum):
    """What a sealed message holds. The number stands in the protected header."""

    EVENT = 1
    BATCH = 2
    GAP = 3
    TWIN = 4
    METRIC = 5
    ALARM = 6
    STATE = 7
    CAPABILITY = 8

    @property
    def signed(self) -> bool:
        """True when a COSE_Sign1 by the device stands inside, because any reader could forge the seal alone."""
        return self in (MessageType.ALARM, MessageType.STATE)


class Zip(IntEnum):
    """How the payload was compressed before sealing."""

    NONE = 0
    DEFLATE_RAW = 1
    ZSTD = 2


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message belongs; all of it is authenticated."""

    site: str
    device: str
    stream: str
    """The name in the topic's tail: stream, facet, type, or "<op>/<id>"."""


@dataclass(frozen=True, slots=True)
class EpochKey:
    """The secret of one epoch: AES key and base IV, and the cipher made of the key once."""

    kid: bytes
    key: bytes = field(repr=False)
    base_iv: bytes = field(repr=False)
    cipher: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cipher", AESGCM(self.key))


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed message taken apart, not yet opened."""

    protected: bytes
    message_type: MessageType
    zip: Zip
    kid: bytes
    n: int
    ciphertext: bytes


@lru_cache(maxsize=32)
def protected_header(message_type: MessageType, zip_: Zip) -> bytes:
    """Deterministic CBOR of the protected header; `zip` is left out when there is none."""
    header = {1: A256GCM, LABEL_TYPE: int(message_type)}
    if zip_:
        header[LABEL_ZIP] = int(zip_)
    return cbor.encode(header)


@dataclass(frozen=True, slots=True)
class Mold:
    """What all messages of one epoch, type, compression and address have in common; made once, because there is a
    message per event."""

    epoch: EpochKey
    iv: int
    """The base IV as a number."""
    structure: bytes
    """Enc_structure before the length of its external data."""
    external: bytes
    """The external data before n."""
    start: bytes
    """The message before its Partial IV."""

    @classmethod
    def of(cls, epoch: EpochKey, message_type: MessageType, zip_: Zip, where: Address) -> "Mold":
        """Make one."""
        protected = _bytes(protected_header(message_type, zip_))
        external = _context(where, message_type) + _bytes(epoch.kid)
        start = _TAG + b"\x83" + protected + b"\xa2\x04" + _bytes(epoch.kid) + b"\x06"
        return cls(epoch, int.from_bytes(epoch.base_iv, "big"), _STRUCTURE + protected, external, start)

    def seal(self, n: int, payload: bytes) -> bytes:
        """One COSE_Encrypt0. Pure: that no n is used twice is the sealer's duty."""
        external = self.external + cbor.head(0, n)
        aad = self.structure + cbor.head(2, len(external)) + external
        ciphertext = self.epoch.cipher.encrypt((self.iv ^ n).to_bytes(IV_BYTES, "big"), payload, aad)
        counter = n.to_bytes((n.bit_length() + 7) // 8 or 1, "big")
        return b"".join((
            self.start, cbor.head(2, len(counter)), counter, cbor.head(2, len(ciphertext)), ciphertext
        ))  # fmt: skip


def open_(sealed: Sealed, epoch: EpochKey, where: Address) -> bytes:
    """The payload, still compressed. Raises EnvelopeError when a byte of message or address is not what was sealed."""
    aad = _additional(sealed.protected, _context(where, sealed.message_type), sealed.kid, sealed.n)
    try:
        return epoch.cipher.decrypt(nonce(epoch.base_iv, sealed.n), sealed.ciphertext, aad)
    except InvalidTag as exc:
        raise EnvelopeError("message is damaged, forged or stands on a topic where it was not sealed") from exc


def parse(data: bytes) -> Sealed:
    """Take a sealed message apart. Raises EnvelopeError."""
    if data[:1] != _TAG:
        raise EnvelopeError("message is not sealed")
    parts = cbor.decode(data[1:], "sealed message", max_depth=3)
    match parts:
        case [bytes() as protected, {4: bytes() as kid, 6: bytes() as counter}, bytes() as ciphertext]:
            pass
        case _:
            raise EnvelopeError("sealed message is not a COSE_Encrypt0 of the expected shape")
    if len(parts[1]) != 2 or len(kid) != KID_BYTES or not 1 <= len(counter) <= 3 or len(ciphertext) < 16:
        raise EnvelopeError("sealed message has a header that is not allowed")
    n = int.from_bytes(counter, "big")
    if n >= MAX_MESSAGES or partial_iv(n) != counter:
        raise EnvelopeError("sealed message has a counter that is not allowed")
    message_type, zip_ = _read_protected(protected)
    return Sealed(protected, message_type, zip_, kid, n, ciphertext)


def partial_iv(n: int) -> bytes:
    """n in the fewest bytes, big-endian, at least one."""
    return n.to_bytes(max(1, (n.bit_length() + 7) // 8), "big")


def nonce(base_iv: bytes, n: int) -> bytes:
    """Base IV xor n, left-padded to 12 bytes (RFC 9052, 3.1, Partial IV)."""
    return (int.from_bytes(base_iv, "big") ^ n).to_bytes(IV_BYTES, "big")


@lru_cache(maxsize=256)
def _context(where: Address, message_type: MessageType) -> bytes:
    """The part of the external additional data that stays the same: five items of an array of seven."""
    items = (CONTEXT, where.site, where.device, int(message_type), where.stream)
    return cbor.head(4, 7) + b"".join(map(cbor.encode, items))


def _additional(protected: bytes, context: bytes, kid: bytes, n: int) -> bytes:
    """Enc_structure, written out: joining bytes is three times as fast as encoding; external = [context..., kid, n]."""
    external = context + _bytes(kid) + cbor.head(0, n)
    return _STRUCTURE + _bytes(protected) + _bytes(external)


def _bytes(data: bytes) -> bytes:
    return cbor.head(2, len(data)) + data


def _read_protected(protected: bytes) -> tuple[MessageType, Zip]:
    header: Any = cbor.decode(protected, "protected header", max_depth=1)
    try:
        message_type, zip_ = MessageType(header[LABEL_TYPE]), Zip(header.get(LABEL_ZIP, 0))
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as exc:
        raise EnvelopeError("protected header names no message type or compression that this reader knows") from exc
    if protected != protected_header(message_type, zip_):
        raise EnvelopeError("protected header is not allowed: only AES-256-GCM, in deterministic encoding")
    return message_type, zip_
