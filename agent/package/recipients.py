"""Who can open a sealed package: the content key, wrapped for each recipient's X25519 key.

HPKE base mode (RFC 9180), DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, info =
CBOR["limpet-model-v1", name, version, kid]: a wrap for one version opens nothing else. A recipient is a device or a
group of them; the key pair is made as a reader's is (`limpet keys new reader`) and is no reader's key.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import x25519

from agent import cbor
from agent.envelope.keyfiles import read_private
from agent.envelope.keys import ReaderPublic
from agent.errors import ConfigError
from agent.package.document import refused
from agent.package.manifest import SEGMENT_BYTES, Encryption, PackageManifest, WrappedKey
from agent.package.sealed import CONTENT_KEY_BYTES

_CONTEXT: Final = "limpet-model-v1"
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A device's or a group's private key for sealed packages."""

    _private: x25519.X25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, path: Path, environment: Mapping[str, str] | None = None) -> "ModelKey":
        """PKCS#8 PEM or DER, or 32 raw bytes; a file of mode 0600 or a credential's name. Raises ConfigError."""
        data = read_private(path, environment)
        try:
            private = _parse(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            words = "not an unencrypted private key: make one with 'limpet keys new reader'"
            raise ConfigError(f"{path}: {words}") from exc
        if not isinstance(private, x25519.X25519PrivateKey):
            raise ConfigError(f"{path}: not an X25519 key: make one with 'limpet keys new reader'")
        return cls(private)

    @property
    def public(self) -> ReaderPublic:
        return ReaderPublic(self._private.public_key())

    def content_key(self, manifest: PackageManifest) -> bytes:
        """The content key of a sealed package. Raises UpdateError (VERIFY_FAILED) when it is not for this key."""
        kid = self.public.key_id
        held = manifest.encryption.keys if manifest.encryption else ()
        wrapped = next((key.wrapped for key in held if key.kid == kid.hex()), None)
        if wrapped is None:
            raise refused(f"{manifest}: it is sealed, and not for this device's key {kid.hex()}: publish it for it")
        try:
            key = _SUITE.decrypt(wrapped, self._private, info=_info(manifest.name, manifest.version, kid))
        except (InvalidTag, ValueError) as exc:
            raise refused(f"{manifest}: the content key for {kid.hex()} cannot be opened: publish it again") from exc
        if len(key) != CONTENT_KEY_BYTES:
            raise refused(f"{manifest}: the content key has {len(key)} bytes, it must have {CONTENT_KEY_BYTES}")
        return key


def wrap(content_key: bytes, name: str, version: str, recipients: Iterable[ReaderPublic]) -> Encryption:
    """The manifest's entry that lets each recipient, and nobody else, have the content key."""
    keys = []
    for recipient in recipients:
        kid = recipient.key_id
        wrapped = _SUITE.encrypt(content_key, recipient.public, info=_info(name, version, kid))
        keys.append(WrappedKey(kid.hex(), base64.b64encode(wrapped).decode()))
    return Encryption("A256GCM", SEGMENT_BYTES, tuple(sorted(keys, key=lambda key: key.kid)))


def _info(name: str, version: str, kid: bytes) -> bytes:
    return cbor.encode([_CONTEXT, name, version, kid])


def _parse(data: bytes) -> object:
    if len(data) == 32:
        return x25519.X25519PrivateKey.from_private_bytes(data)
    load = serialization.load_pem_private_key if data.startswith(b"-----") else serialization.load_der_private_key
    return load(data, password=None)
