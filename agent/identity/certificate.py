"""Certificates of this device: what is asked for, and what must hold of one before it is taken.

A certificate is taken only for our own key, with exactly our names, for client use, valid now, and with a chain of at
most `MAX_DEPTH` steps to an authority that the operator named. Anything else is refused with the reason, and what
was in use stays in use.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.errors import ConfigError

URI_SCHEME: Final = "limpet"
MAX_DEPTH: Final = 4
MAX_CERTIFICATES: Final = 16
"""Most certificates that are looked at in one answer."""
JITTER: Final = 0.02
"""Part of a certificate's life over which the renewals of a fleet are spread."""
FAULTS: Final = (
    ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.DuplicateExtension, x509.ExtensionNotFound,
)  # fmt: skip
"""What `cryptography` raises over certificates that are damaged, strange or hostile."""


@dataclass(frozen=True, slots=True)
class Who:
    """The names that stand in every certificate of this device."""

    site: str
    device: str
    common_name: str

    @classmethod
    def of(cls, site: str, device: str, common_name: str = "") -> Self:
        """The default common name is limpet-SITE-DEVICE. Raises ConfigError when that is longer than X.509 allows."""
        name = common_name or f"limpet-{site}-{device}"
        if len(name) > 64:
            raise ConfigError(f"[identity] common_name: '{name}' has more than 64 characters: choose a shorter one")
        return cls(site, device, name)

    @property
    def uri(self) -> str:
        """The subject alternative name, limpet://SITE/DEVICE."""
        return f"{URI_SCHEME}://{self.site}/{self.device}"


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate in words: times are seconds since 1970."""

    common_name: str
    issuer: str
    not_before_s: float
    not_after_s: float

    def renewal_s(self, part: float) -> float:
        """When it is due for renewal: after `part` of its life, and up to `JITTER` of it later by its name."""
        life_s = self.not_after_s - self.not_before_s
        draw = int.from_bytes(hashlib.sha256(self.common_name.encode()).digest()[:4], "big") / 2**32
        return self.not_before_s + life_s * (part + JITTER * draw)

    def until(self) -> str:
        """The last day of its life, for people."""
        return dt.datetime.fromtimestamp(self.not_after_s, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def describe(certificate: x509.Certificate) -> Certified:
    """What people ask about a certificate."""
    return Certified(
        _common_name(certificate.subject),
        _common_name(certificate.issuer),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def public_der(certificate: x509.Certificate) -> bytes:
    """The certified key, SubjectPublicKeyInfo in DER; empty for one of a kind that nobody here uses."""
    try:
        return certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except FAULTS:
        return b""


def parse(data: bytes, where: str) -> tuple[x509.Certificate, ...]:
    """Certificates in PEM (one or a chain), DER, or PKCS#7 certs-only in PEM or DER. Raises ConfigError."""
    try:
        if b"-----BEGIN PKCS7-----" in data:
            found = pkcs7.load_pem_pkcs7_certificates(data)
        elif b"-----BEGIN" in data:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = _from_der(data)
    except FAULTS as exc:
        raise ConfigError(f"{where}: holds no certificate in PEM, DER or PKCS#7 ({exc})") from exc
    if not 1 <= len(found) <= MAX_CERTIFICATES:
        raise ConfigError(f"{where}: holds {len(found)} certificates: 1 to {MAX_CERTIFICATES} are looked at")
    return tuple(found)


def _from_der(data: bytes) -> list[x509.Certificate]:
    try:
        return [x509.load_der_x509_certificate(data)]
    except ValueError:
        return pkcs7.load_der_pkcs7_certificates(data)


def checked(
    found: Sequence[x509.Certificate],
    public: bytes,
    who: Who,
    anchors: Sequence[x509.Certificate],
    now_s: float,
    *,
    for_tls: bool,
) -> tuple[x509.Certificate, ...]:
    """Our certificate first, then what links it to an authority, without that one. Raises ConfigError.

    `public` is our key (SubjectPublicKeyInfo, DER); `anchors` are the authorities that may issue our certificate.
    """
    ours = [certificate for certificate in found if public_der(certificate) == public]
    if not ours:
        raise ConfigError("the certificate is for another key: it does not answer this device's request")
    leaf = max(ours, key=lambda certificate: certificate.not_valid_before_utc)
    try:
        _check_names(leaf, who)
        _check_use(leaf, for_tls=for_tls)
        chain = _chain(leaf, [c for c in found if c is not leaf], anchors, now_s)
    except FAULTS as exc:
        raise ConfigError(f"the certificate for {who.common_name} has extensions that cannot be read: {exc}") from exc
    _check_time(leaf, now_s)
    return (leaf, *chain)


def pem(chain: Iterable[x509.Certificate]) -> bytes:
    """Certificates one after the other, as TLS libraries load them."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)


def _check_names(leaf: x509.Certificate, who: Who) -> None:
    name = _common_name(leaf.subject)
    if name != who.common_name:
        raise ConfigError(f"the certificate is for '{name}', not '{who.common_name}': have it issued as requested")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if [uri for uri in uris if uri.startswith(f"{URI_SCHEME}:")] != [who.uri]:
        raise ConfigError(
            f"the certificate carries the URIs {uris or 'none'}, not {who.uri}: the authority must copy the subject "
            "alternative name of the request"
        )


def _check_use(leaf: x509.Certificate, *, for_tls: bool) -> None:
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise ConfigError("the certificate is one of an authority (CA:TRUE): a device must not issue certificates")
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            raise ConfigError("the certificate's key usage lacks digitalSignature: have it issued for client use")
        wanted = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        if for_tls and isinstance(value, x509.ExtendedKeyUsage) and not wanted & set(value):
            raise ConfigError("the certificate's extended key usage lacks clientAuth: have it issued for client use")


def _check_time(certificate: x509.Certificate, now_s: float) -> None:
    said = describe(certificate)
    if now_s < said.not_before_s:
        raise ConfigError(f"the certificate of '{said.common_name}' begins in the future: set this device's clock")
    if now_s > said.not_after_s:
        raise ConfigError(f"the certificate of '{said.common_name}' ended {said.until()}: set the clock, or renew it")


def _chain(
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    now_s: float,
) -> tuple[x509.Certificate, ...]:
    """The intermediate certificates between `leaf` and one of `anchors`, in order. Raises ConfigError."""
    chain: list[x509.Certificate] = []
    here = leaf
    while len(chain) < MAX_DEPTH:
        anchor = next((a for a in anchors if _issued(here, a, len(chain))), None)
        if anchor is not None:
            _check_time(anchor, now_s)
            return tuple(chain)
        link = next((o for o in others if o not in chain and _issued(here, o, len(chain))), None)
        if link is None:
            break
        _check_time(link, now_s)
        chain.append(link)
        here = link
    known = ", ".join(f"'{_common_name(a.subject)}'" for a in anchors) or "none"
    raise ConfigError(
        f"the certificate is issued by '{_common_name(here.issuer)}', which no named authority ({known}) vouches for: "
        "give the right one as [identity] authority"
    )


def _issued(certificate: x509.Certificate, issuer: x509.Certificate, below: int) -> bool:
    """Whether `issuer` may sign certificates with `below` authorities between it and a device, and signed this one."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca or (constraints.path_length is not None and constraints.path_length < below):
            return False
        certificate.verify_directly_issued_by(issuer)
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as exc:
        return exc.oid == x509.KeyUsage.oid  # it may be left out, then any use is allowed
    except FAULTS:
        return False
    return usage.key_cert_sign


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()
