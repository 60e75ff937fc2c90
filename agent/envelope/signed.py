"""COSE_Sign1 (RFC 9052, 4.2): how a device signs key envelopes, alarms and command states.

Owns the layout alone; whose key counts is decided in `agent.envelope.trust`. The protected header carries the
algorithm and the id of the signing key; the unprotected one a certificate (x5chain, RFC 9360) or nothing.
"""

from dataclasses import dataclass
from typing import Final

from agent import cbor
from agent.envelope.keys import EDDSA, ES256, DeviceIdentity, SigningKey, VerifyKey
from agent.errors import EnvelopeError

ENVELOPE_CONTEXT: Final = "limpet-key-v1"
INNER_CONTEXT: Final = "limpet-signed-v1"
MAX_CERTIFICATE_BYTES: Final = 4096
X5CHAIN: Final = 33
_TAG = b"\xd2"  # CBOR tag 18, COSE_Sign1


@dataclass(frozen=True, slots=True)
class Signed:
    """A COSE_Sign1 taken apart, not yet verified: believe nothing in it before `verify`."""

    protected: bytes
    algorithm: int
    key_id: bytes
    certificate: bytes
    payload: bytes
    signature: bytes

    def verify(self, key: VerifyKey, external: bytes) -> None:
        """Raises EnvelopeError unless `key` signed exactly this under `external`."""
        right_key = key.algorithm == self.algorithm and key.key_id == self.key_id
        if not right_key or not key.verify(self.signature, _to_be_signed(self.protected, external, self.payload)):
            raise EnvelopeError("signature is not that of the device's key")


def sign(identity: DeviceIdentity, payload: bytes, external: bytes) -> bytes:
    """One COSE_Sign1 by the device's key over `payload`, bound to `external`."""
    return sign_with(identity.signing_key, payload, external, identity.certificate)


def sign_with(key: SigningKey, payload: bytes, external: bytes, certificate: bytes = b"") -> bytes:
    """The same by any signing key, a technician's for instance; `certificate` (DER) is sent along as x5chain."""
    protected = _protected(key.public.algorithm, key.public.key_id)
    signature = key.sign(_to_be_signed(protected, external, payload))
    unprotected = {X5CHAIN: certificate} if certificate else {}
    return _TAG + cbor.encode([protected, unprotected, payload, signature])


def parse(data: bytes) -> Signed:
    """Take a COSE_Sign1 apart. Raises EnvelopeError."""
    if data[:1] != _TAG:
        raise EnvelopeError("message is not signed")
    match cbor.decode(data[1:], "signed message", max_depth=3):
        case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature]:
            pass
        case _:
            raise EnvelopeError("signed message is not a COSE_Sign1 of the expected shape")
    certificate = unprotected.get(X5CHAIN, b"")
    if set(unprotected) - {X5CHAIN} or not isinstance(certificate, bytes) or len(certificate) > MAX_CERTIFICATE_BYTES:
        raise EnvelopeError("signed message has an unprotected header that is not allowed")
    algorithm, key_id = _read_protected(protected)
    return Signed(protected, algorithm, key_id, certificate, payload, signature)


def external_of_envelope(kid: bytes) -> bytes:
    """What the signature of a key envelope is bound to, besides its payload."""
    return cbor.encode([ENVELOPE_CONTEXT, kid])


def external_of_inner(site: str, device: str, message_type: int, stream: str) -> bytes:
    """What the signature inside a sealed alarm or state is bound to."""
    return cbor.encode([INNER_CONTEXT, site, device, message_type, stream])


def _protected(algorithm: int, key_id: bytes) -> bytes:
    return cbor.encode({1: algorithm, 4: key_id})


def _read_protected(protected: bytes) -> tuple[int, bytes]:
    match cbor.decode(protected, "protected header", max_depth=1):
        case {1: int() as algorithm, 4: bytes() as key_id} if algorithm in (EDDSA, ES256) and len(key_id) == 8:
            if protected == _protected(algorithm, key_id):
                return algorithm, key_id
    raise EnvelopeError("protected header of a signature is not allowed: only Ed25519 or ES256 with a key id")


def _to_be_signed(protected: bytes, external: bytes, payload: bytes) -> bytes:
    """Sig_structure of RFC 9052, 4.4."""
    return cbor.encode(["Signature1", protected, external, payload])
