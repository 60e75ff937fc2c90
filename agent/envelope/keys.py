"""Keys: what signs on a device, what opens at a reader, and the files they come from.

Owns the three key types (Ed25519 and P-256 to sign, X25519 to read) and the rule for files: a private key is a regular
file that group and others cannot read, or a credential of the service manager. Key bytes never show in a repr, a log
or an error. A key id is the first 8 bytes of the SHA-256 of the public key's SubjectPublicKeyInfo (DER).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils, x25519

from agent import cbor
from agent.envelope.keyfiles import read_private, read_public
from agent.envelope.topics import name
from agent.errors import ConfigError, EnvelopeError

EDDSA: Final = -8
ES256: Final = -7
HPKE_CONTEXT: Final = "limpet-hpke-v1"
HPKE_OVERHEAD_BYTES: Final = 32 + 16
"""HPKE adds the encapsulated X25519 key and the tag of AES-256-GCM."""

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_P256_BYTES = 32
SigningPrivate = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
SigningPublic = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A device's public signing key: Ed25519 (COSE alg -8) or P-256 (ES256, COSE alg -7)."""

    public: SigningPublic = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.public, ed25519.Ed25519PublicKey):
            _require_p256(self.public)

    @classmethod
    def load(cls, path: Path) -> "VerifyKey":
        """Read a PEM or DER public key. Raises ConfigError."""
        return cls.from_bytes(read_public(path), str(path))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "VerifyKey":
        """SubjectPublicKeyInfo as PEM or DER. Raises ConfigError that names `where`."""
        public = _parse_public(data, where)
        if not isinstance(public, SigningPublic):
            raise ConfigError(f"{where}: this is not a signing key: give the device's .pub file (Ed25519 or P-256)")
        return cls(public)

    @property
    def algorithm(self) -> int:
        return EDDSA if isinstance(self.public, ed25519.Ed25519PublicKey) else ES256

    @property
    def key_id(self) -> bytes:
        return key_id(self.public)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """True when `signature` is by this key over `data`. ES256 has r and s, 32 bytes each (RFC 9053, 2.1)."""
        if len(signature) != 2 * _P256_BYTES:
            return False
        try:
            if isinstance(self.public, ed25519.Ed25519PublicKey):
                self.public.verify(signature, data)
            else:
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                self.public.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A device's private signing key."""

    _private: SigningPrivate = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self._private, ed25519.Ed25519PrivateKey):
            _require_p256(self._private)

    @classmethod
    def generate(cls, algorithm: int = EDDSA) -> "SigningKey":
        if algorithm == ES256:
            return cls(ec.generate_private_key(ec.SECP256R1()))
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, environment: Mapping[str, str] | None = None) -> "SigningKey":
        """PKCS#8 PEM or DER, or the 32 raw bytes of an Ed25519 seed. Raises ConfigError."""
        data = read_private(path, environment)
        private = ed25519.Ed25519PrivateKey.from_private_bytes(data) if len(data) == 32 else _parse_private(data, path)
        if not isinstance(private, SigningPrivate):
            raise ConfigError(f"{path}: this is not a signing key: make one with 'limpet keys new device'")
        return cls(private)

    @property
    def public(self) -> VerifyKey:
        return VerifyKey(self._private.public_key())

    def sign(self, data: bytes) -> bytes:
        """A COSE signature of 64 bytes."""
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(data)
        r, s = utils.decode_dss_signature(self._private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(_P256_BYTES, "big") + s.to_bytes(_P256_BYTES, "big")

    def pem(self) -> bytes:
        """PKCS#8, unencrypted: for `limpet keys new`, and for `agent.identity`, which asks to have it certified."""
        return _pem(self._private)


@dataclass(frozen=True, slots=True)
class ReaderPublic:
    """A reader's X25519 public key: what a device wraps epoch keys for."""

    public: x25519.X25519PublicKey = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> "ReaderPublic":
        """Read a PEM or DER public key, or 32 raw bytes. Raises ConfigError."""
        return cls.from_bytes(read_public(path), str(path))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "ReaderPublic":
        public = x25519.X25519PublicKey.from_public_bytes(data) if len(data) == 32 else _parse_public(data, where)
        if not isinstance(public, x25519.X25519PublicKey):
            raise ConfigError(f"{where}: this is not a reader key: give the reader's .pub file (X25519)")
        return cls(public)

    @property
    def key_id(self) -> bytes:
        return key_id(self.public)

    def wrap(self, secret: bytes, site: str, device: str, kid: bytes) -> bytes:
        """HPKE base mode (RFC 9180), single shot: encapsulated key, then ciphertext and tag."""
        return _SUITE.encrypt(secret, self.public, info=hpke_info(site, device, kid, self.key_id))


@dataclass(frozen=True, slots=True)
class ReaderKey:
    """A reader's X25519 private key."""

    _private: x25519.X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> "ReaderKey":
        return cls(x25519.X25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, environment: Mapping[str, str] | None = None) -> "ReaderKey":
        """PKCS#8 PEM or DER, or 32 raw bytes. Raises ConfigError."""
        data = read_private(path, environment)
        private = x25519.X25519PrivateKey.from_private_bytes(data) if len(data) == 32 else _parse_private(data, path)
        if not isinstance(private, x25519.X25519PrivateKey):
            raise ConfigError(f"{path}: this is not a reader key: make one with 'limpet keys new reader'")
        return cls(private)

    @property
    def public(self) -> ReaderPublic:
        return ReaderPublic(self._private.public_key())

    def unwrap(self, wrapped: bytes, site: str, device: str, kid: bytes) -> bytes:
        """The secret of `ReaderPublic.wrap`. Raises EnvelopeError."""
        try:
            return _SUITE.decrypt(wrapped, self._private, info=hpke_info(site, device, kid, self.public.key_id))
        except (InvalidTag, ValueError) as exc:
            raise EnvelopeError("key envelope holds a wrapped key that this reader cannot open") from exc

    def pem(self) -> bytes:
        """PKCS#8, unencrypted: for the commands that make keys."""
        return _pem(self._private)


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """Who a device says it is, and the key that proves it."""

    site: str
    device: str
    signing_key: SigningKey
    certificate: bytes = field(default=b"", repr=False)
    """DER certificate by the site's authority, sent along as x5chain; empty when readers list the key itself."""

    def __post_init__(self) -> None:
        name(self.site, "site")
        name(self.device, "device")


def hpke_info(site: str, device: str, kid: bytes, reader_kid: bytes) -> bytes:
    """What a wrap is bound to: `cryptography` offers HPKE with info and without additional data."""
    return cbor.encode([HPKE_CONTEXT, site, device, kid, reader_kid])


def key_id(public: SigningPublic | x25519.X25519PublicKey) -> bytes:
    """First 8 bytes of SHA-256 over the SubjectPublicKeyInfo."""
    return hashlib.sha256(spki(public)).digest()[:8]


def spki(public: SigningPublic | x25519.X25519PublicKey, pem: bool = False) -> bytes:
    """SubjectPublicKeyInfo, DER or PEM."""
    encoding = serialization.Encoding.PEM if pem else serialization.Encoding.DER
    return public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _require_p256(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> None:
    if not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"signing keys are Ed25519 or P-256, not {key.curve.name}")


def _pem(private: SigningPrivate | x25519.X25519PrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _parse_private(data: bytes, path: Path) -> Any:
    load = serialization.load_pem_private_key if data.startswith(b"-----") else serialization.load_der_private_key
    try:
        return load(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{path}: not an unencrypted PKCS#8 private key: make one with 'limpet keys new'") from exc


def _parse_public(data: bytes, where: str) -> Any:
    load = serialization.load_pem_public_key if data.startswith(b"-----") else serialization.load_der_public_key
    try:
        return load(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{where}: not a public key in PEM or DER: give a .pub file of 'limpet keys new'") from exc
