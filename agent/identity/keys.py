"""The device's private keys, written once with mode 0600, and the requests that ask to have them certified."""

from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.envelope.keyfiles import read_private, read_public, write_private, write_public
from agent.envelope.keys import EDDSA, ES256, ReaderKey, ReaderPublic, SigningKey, VerifyKey, spki
from agent.errors import ConfigError
from agent.identity.certificate import Who

SIGNING_KEY: Final = "limpet.signing.key"
MODEL_KEY: Final = "limpet.model.key"
Algorithm = Literal["ed25519", "es256"]
Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def ensure_signing_key(path: Path, algorithm: Algorithm) -> VerifyKey:
    """Make the signing key at `path` unless it is there; returns its public half. Raises ConfigError."""
    if not path.exists():
        _write(path, SigningKey.generate(ES256 if algorithm == "es256" else EDDSA).pem())
    return SigningKey.load(path).public


def ensure_model_key(path: Path) -> ReaderPublic:
    """Make the key that encrypted models are sealed for unless it is there; returns its public half."""
    if not path.exists():
        _write(path, ReaderKey.generate().pem())
    return ReaderKey.load(path).public


def publish(path: Path, key: VerifyKey | ReaderPublic) -> Path:
    """Write a public half to `path` unless it is there; returns `path`. Raises ConfigError."""
    data = spki(key.public, pem=True)
    if not path.exists():
        write_public(path, data)
    elif read_public(path) != data:
        raise ConfigError(f"{path}: belongs to another key: move it away, and it is written anew")
    return path


def new_tls_key() -> bytes:
    """A fresh P-256 key, PKCS#8 PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def load_private(path: Path) -> Private:
    """A private key that can sign a request. Raises ConfigError that says what to do, never what the file holds."""
    return private_of(read_private(path), path)


def private_of(data: bytes, where: Path) -> Private:
    """The key in PKCS#8 PEM. Raises ConfigError."""
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{where}: not an unencrypted private key in PEM: enrol anew") from exc
    if not isinstance(private, Private):
        raise ConfigError(f"{where}: a key of another kind than P-256 or Ed25519: enrol anew")
    return private


def public_bytes(private: Private) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return spki(private.public_key())


def make_request(private: Private, who: Who, *, for_tls: bool) -> bytes:
    """A certificate request (PKCS#10, RFC 2986), PEM, with our names and what the certificate is for."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(who.uri)])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who.common_name)])
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(names, critical=False)
        .add_extension(_signs_only(), critical=True)
    )
    if for_tls:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
    digest = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(private, digest).public_bytes(serialization.Encoding.PEM)


def request_der(data: bytes, where: Path) -> tuple[bytes, bytes]:
    """A request in PEM as DER, and the key that it is for. Raises ConfigError for one that is damaged."""
    try:
        request = x509.load_pem_x509_csr(data)
    except ValueError as exc:
        raise ConfigError(f"{where}: holds no certificate request") from exc
    public = request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return request.public_bytes(serialization.Encoding.DER), public


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{path.parent}: cannot be made: {exc.strerror}") from exc
    write_private(path, data)


def _signs_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
