"""Keys of the demo, made at run time in a folder that only its owner can enter; none is shipped.

A certificate authority that signs one server and one client certificate per name and then forgets its own key, a
password per name, the device's signing key and a reader's key. P-256 certificates with the extensions that strict
verification (Python 3.13's default) asks for, valid for `VALID_DAYS`.
"""

import datetime as dt
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.envelope.keyfiles import write_private, write_public
from agent.envelope.keys import ReaderKey, SigningKey, spki

VALID_DAYS = 30
HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (PEM, mode 0644) and its private key (PKCS#8 PEM, mode 0600)."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class DemoKeys:
    """Where every key of a demo lies."""

    folder: Path
    authority: Path
    """Certificate of the authority, PEM."""
    server: Pair
    clients: Mapping[str, Pair]
    """Name (the broker's user name) -> client certificate."""
    passwords: Mapping[str, Path]
    """Name -> file that holds the password, without a newline."""
    device: Pair
    """The device's signing key; `certificate` is its public key (PEM)."""
    reader: Pair
    """The reader's key; `certificate` is its public key (PEM)."""
    technician: Pair
    """The technician's signing key; `certificate` is its public key (PEM)."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that lives in memory only."""

    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False)
    _now: dt.datetime

    @classmethod
    def new(cls, name: str, now: dt.datetime) -> "Authority":
        """A fresh self-signed authority. `now` is in UTC; certificates begin an hour earlier for clocks that lag."""
        key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = _builder(name, name, key.public_key(), now).add_extension(constraints, critical=True)
        certificate = certificate.add_extension(_usage(authority=True), critical=True)
        return cls(certificate.sign(key, hashes.SHA256()), key, now)

    def server(self, folder: Path, name: str, hosts: Sequence[str] = HOSTS) -> Pair:
        """A server certificate for `hosts` (names and addresses), written to `folder`/`name`.{pem,key}."""
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue(folder, name, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, folder: Path, name: str) -> Pair:
        """A client certificate whose common name is `name`, written to `folder`/`name`.{pem,key}."""
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        return self._issue(folder, name, ExtendedKeyUsageOID.CLIENT_AUTH, names)

    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def _issue(self, folder: Path, name: str, usage: x509.ObjectIdentifier, names: x509.SubjectAlternativeName) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(name, _common_name(self.certificate), key.public_key(), self._now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(issuer_key, critical=False)
            .add_extension(names, critical=False)
        )
        pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        certificate = builder.sign(self._key, hashes.SHA256())
        write_public(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        write_private(pair.key, _pkcs8(key))
        return pair


def make_keys(folder: Path, now: dt.datetime, names: Sequence[str] = ("device", "reader")) -> DemoKeys:
    """Make everything a demo needs in `folder`, which must be new. Raises ConfigError, or OSError when it exists."""
    folder.mkdir(mode=0o700, parents=True)
    authority = Authority.new("Limpet demo authority", now)
    write_public(folder / "ca.pem", authority.pem())
    passwords = {}
    for name in names:
        passwords[name] = folder / f"{name}.password"
        write_private(passwords[name], secrets.token_urlsafe(24).encode())
    return DemoKeys(
        folder=folder,
        authority=folder / "ca.pem",
        server=authority.server(folder, "server"),
        clients={name: authority.client(folder, name) for name in names},
        passwords=passwords,
        device=_signing_pair(folder, "signing"),
        reader=_reader_pair(folder),
        technician=_signing_pair(folder, "asking"),
    )


def _signing_pair(folder: Path, name: str) -> Pair:
    key, pair = SigningKey.generate(), Pair(folder / f"{name}.pub", folder / f"{name}.key")
    write_public(pair.certificate, spki(key.public.public, pem=True))
    write_private(pair.key, key.pem())
    return pair


def _reader_pair(folder: Path) -> Pair:
    key, pair = ReaderKey.generate(), Pair(folder / "opening.pub", folder / "opening.key")
    write_public(pair.certificate, spki(key.public.public, pem=True))
    write_private(pair.key, key.pem())
    return pair


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePublicKey, now: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
