"""The key envelope: how the readers of a device learn its epoch key.

One COSE_Sign1 by the device around one HPKE wrap per reader of epoch key and base IV. Owns its payload; the sealer
decides when there is a new one, the opener whose signature counts. Site and device of every message under the epoch
are those of this payload, whatever prefix a bridge has put on the topic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent import cbor
from agent.envelope import signed
from agent.envelope.keys import HPKE_OVERHEAD_BYTES, DeviceIdentity, ReaderKey, ReaderPublic
from agent.envelope.message import A256GCM, IV_BYTES, KEY_BYTES, KID_BYTES, EpochKey
from agent.envelope.topics import name
from agent.errors import ConfigError, EnvelopeError

SCHEMA: Final = 1
MAX_READERS: Final = 256
MAX_ENVELOPE_BYTES: Final = 64 * 1024
_WRAP_BYTES = KEY_BYTES + IV_BYTES + HPKE_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class EnvelopeBody:
    """The payload of a key envelope, taken apart."""

    site: str
    device: str
    kid: bytes
    created_wall_s: int
    wraps: dict[bytes, bytes]
    """Reader key id -> HPKE wrap."""

    def unwrap(self, keys: Sequence[ReaderKey]) -> EpochKey | None:
        """The epoch key, or None when none of `keys` is among the readers. Raises EnvelopeError on a bad wrap."""
        for key in keys:
            wrapped = self.wraps.get(key.public.key_id)
            if wrapped is not None:
                secret = key.unwrap(wrapped, self.site, self.device, self.kid)
                return EpochKey(self.kid, secret[:KEY_BYTES], secret[KEY_BYTES:])
        return None


def make(identity: DeviceIdentity, secret: EpochKey, readers: Sequence[ReaderPublic], created_wall_s: int) -> bytes:
    """The signed envelope. Raises ConfigError without readers or with more than `MAX_READERS`."""
    if not 1 <= len(readers) <= MAX_READERS:
        raise ConfigError(f"[envelope] readers: sealing needs 1 to {MAX_READERS} public keys, not {len(readers)}")
    body = {
        "schema": SCHEMA,
        "site": identity.site,
        "device": identity.device,
        "kid": secret.kid,
        "alg": A256GCM,
        "created_wall_s": created_wall_s,
        "readers": [
            [reader.key_id, reader.wrap(secret.key + secret.base_iv, identity.site, identity.device, secret.kid)]
            for reader in readers
        ],
    }
    return signed.sign(identity, cbor.encode(body), signed.external_of_envelope(secret.kid))


def parse(payload: bytes) -> EnvelopeBody:
    """Take the payload of a signed envelope apart. Raises EnvelopeError. Unknown keys are ignored."""
    body: Any = cbor.decode(payload, "key envelope", max_depth=4)
    match body:
        case {
            "schema": 1,
            "site": str() as site,
            "device": str() as device,
            "kid": bytes() as kid,
            "alg": 3,
            "created_wall_s": int() as created,
            "readers": list() as readers,
        } if len(kid) == KID_BYTES and 1 <= len(readers) <= MAX_READERS:
            return EnvelopeBody(name(site, "site"), name(device, "device"), kid, created, _wraps(readers))
    raise EnvelopeError("key envelope is not of the expected shape or of a newer schema")


def _wraps(readers: list[Any]) -> dict[bytes, bytes]:
    wraps: dict[bytes, bytes] = {}
    for entry in readers:
        match entry:
            case [bytes() as kid, bytes() as wrapped] if len(kid) == KID_BYTES and len(wrapped) == _WRAP_BYTES:
                wraps[kid] = wrapped
            case _:
                raise EnvelopeError("key envelope holds a wrap of the wrong shape")
    return wraps
