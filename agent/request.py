"""A signed request: what a technician's tool writes, and a device reads. docs/wire-format.md, section 12, says how.

Owns the bytes alone: a COSE_Sign1 whose payload says for whom, from when until when, the how-manieth of its key, and
with which arguments; site, device, operation and id are signed too, and travel in the topic only. Pure: the time is
passed in. Rules. Size before parsing, signature before content, no claim that this version does not know. Whose key may
ask for what is not decided here: a role never stands in a message.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent import cbor
from agent.envelope import signed
from agent.envelope.keys import SigningKey, VerifyKey
from agent.envelope.signed import Signed
from agent.envelope.topics import name
from agent.errors import CommandError, EnvelopeError

LIMIT_BYTES: Final = 8 * 1024
"""Largest request."""
SMALL_BYTES: Final = 256
"""Largest request of an operation of `SMALL`: one that fits into a packet of any thin link."""
SMALL: Final = frozenset({"update", "rollback", "pin", "unpin", "activate", "cancel", "ping", "restart"})
LIFE_S: Final = 7 * 86400
"""Longest time from issue to expiry, seconds: as long as a device may be away."""
AUDIENCE: Final = "limpet"
NONCE_BYTES: Final = 8
CONTEXT: Final = "limpet-req-v1"
MAX_DEPTH: Final = 12

_AUDIENCE = re.compile(r"[A-Za-z0-9_.-]{1,8}")
_AUD, _IAT, _EXP, _CTR, _ARGS, _NONCE = range(1, 7)
_MOST: Final = 2**53
"""Numbers of a request are below this, so that every language can hold them."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes; all of it is signed."""

    site: str
    device: str
    operation: str
    id: str
    """The request's own name, 1 to 64 of letters, digits, '_', '.', '-': never used twice. `new_id` makes one."""

    def __post_init__(self) -> None:
        """Raises CommandError for a name that may not stand in a topic."""
        try:
            for what in ("site", "device", "operation", "id"):
                name(getattr(self, what), what)
        except EnvelopeError as exc:
            raise CommandError(str(exc), "REJECTED_UNSUPPORTED") from exc


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of one device."""

    target: Target
    issued_s: int
    """When it was signed, whole seconds since 1970."""
    expires_s: int
    """When it is void, the same; at most `LIFE_S` after `issued_s`."""
    counter: int
    """Strictly increasing per key and device; `next_counter` derives it from the time in milliseconds."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Text keys; text, bytes, numbers, booleans, null, arrays and maps."""
    audience: str = AUDIENCE
    """The fleet that is meant: two fleets may use the same names of sites and devices, and the same technician."""
    nonce: bytes = b""
    """What the device's twin facet `commands` shows: needed when the device does not know the time."""

    def __post_init__(self) -> None:
        """Raises CommandError for values that no request may have."""
        whole = (self.issued_s, self.expires_s, self.counter)
        if any(type(number) is not int or not 0 <= number < _MOST for number in whole):
            raise CommandError("request: issue, expiry and counter must be whole numbers of 53 bits")
        if not 0 < self.expires_s - self.issued_s <= LIFE_S:
            raise CommandError(
                f"request: it must expire 1 to {LIFE_S} seconds after its issue: give it a shorter life",
                "REJECTED_EXPIRED",
            )
        if not _AUDIENCE.fullmatch(self.audience):
            raise CommandError("request: the audience must have 1 to 8 letters, digits, '_', '.' or '-'")
        if self.nonce and len(self.nonce) != NONCE_BYTES:
            raise CommandError(f"request: the nonce must have {NONCE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Unverified:
    """A request of the right shape. Nothing of what it says can be read before `verified`."""

    target: Target
    digest: str
    """sha256 of all its bytes, hex: two requests with one id are told apart by it."""
    _statement: Signed = field(repr=False)

    @property
    def key_id(self) -> bytes:
        """Which key it claims to be signed by, 8 bytes."""
        return self._statement.key_id

    def verified(self, key: VerifyKey) -> Request:
        """What it says, once `key` is found to have signed it. Raises CommandError."""
        try:
            self._statement.verify(key, external(self.target))
        except EnvelopeError as exc:
            raise CommandError(
                "request: its signature is not that of this key over this site, device, operation and id",
                "REJECTED_BAD_SIGNATURE",
            ) from exc
        return _read(self.target, self._statement.payload)


def sign_request(key: SigningKey, request: Request) -> bytes:
    """The bytes to publish at QoS 1, not retained, on `limpet/v1/<site>/<device>/req/<op>/<id>`.

    Raises CommandError when it would be larger than a device takes.
    """
    claims = {
        _AUD: request.audience, _IAT: request.issued_s, _EXP: request.expires_s, _CTR: request.counter,
        _ARGS: dict(request.args),
    }  # fmt: skip
    if request.nonce:
        claims[_NONCE] = request.nonce
    data = signed.sign_with(key, cbor.encode(claims), external(request.target))
    _check_size(len(data), request.target.operation)
    return data


def parse_request(data: bytes, target: Target) -> Unverified:
    """Take a request apart that came for `target`. Raises CommandError."""
    _check_size(len(data), target.operation)
    try:
        statement = signed.parse(data)
    except EnvelopeError as exc:
        raise CommandError(f"request: {exc}", "REJECTED_BAD_SIGNATURE") from exc
    if statement.certificate:
        raise CommandError("request: it carries a certificate: keys are listed, not brought", "REJECTED_BAD_SIGNATURE")
    return Unverified(target, hashlib.sha256(data).hexdigest(), statement)


def external(target: Target) -> bytes:
    """What the signature is bound to besides the payload."""
    return cbor.encode([CONTEXT, target.site, target.device, target.operation, target.id])


def next_counter(now_s: float, last: int = 0) -> int:
    """The counter of the next request by one key to one device: milliseconds since 1970, or `last` and one.

    Derived from the time, so that a lost file of the last counters does not lock the technician out.
    """
    return max(int(now_s * 1000), last + 1)


def new_id(now_s: float, entropy: bytes) -> str:
    """A name for a request: the time in milliseconds and 5 random bytes, 21 hex digits, sorting by time."""
    return f"{int(now_s * 1000):011x}{entropy[:5].hex()}"


def limit_bytes(operation: str) -> int:
    """Largest request for `operation`."""
    return SMALL_BYTES if operation in SMALL else LIMIT_BYTES


def _check_size(size: int, operation: str) -> None:
    if size > limit_bytes(operation):
        raise CommandError(
            f"request: {size} bytes, and one for {operation} may have {limit_bytes(operation)}: shorten its arguments",
            "REJECTED_UNSUPPORTED",
        )


def _read(target: Target, payload: bytes) -> Request:
    try:
        claims: Any = cbor.decode(payload, "request", max_depth=MAX_DEPTH)
    except EnvelopeError as exc:
        raise CommandError(str(exc), "REJECTED_UNSUPPORTED") from exc
    match claims:
        case {1: str() as audience, 2: int() as issued, 3: int() as expires, 4: int() as counter, 5: dict() as args}:
            pass
        case _:
            raise CommandError("request: a claim is missing or of the wrong kind", "REJECTED_UNSUPPORTED")
    nonce = claims.get(_NONCE, b"")
    if not isinstance(nonce, bytes) or set(claims) - set(range(_AUD, _NONCE + 1)):
        raise CommandError("request: a claim that this agent does not know: update the agent", "REJECTED_UNSUPPORTED")
    if not _plain(args):
        raise CommandError("request: arguments must have text keys and finite numbers", "REJECTED_UNSUPPORTED")
    return Request(target, issued, expires, counter, args, audience, nonce)


def _plain(value: Any) -> bool:
    """Text keys and finite numbers, all the way down; `cbor.decode` has seen to everything else."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(_plain(inner) for inner in value)
    return not isinstance(value, float) or math.isfinite(value)
