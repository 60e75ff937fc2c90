"""Whose word counts: devices listed with their keys, or certified by the site's authority. Never on first use.

Owns the decision which key may sign for a site and device, and which devices may speak in the plain. A certificate
must be issued directly by the authority (one hop), be valid now, and carry the one URI `limpet://<site>/<device>`.
"""

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from agent.envelope.keyfiles import read_public
from agent.envelope.keys import VerifyKey
from agent.envelope.signed import Signed
from agent.errors import ConfigError, EnvelopeError
from agent.settings.names import NAME

URI_SCHEME: Final = "limpet"
_URI = re.compile(rf"{URI_SCHEME}://({NAME})/({NAME})")
_KNOWN_CRITICAL = (x509.BasicConstraints, x509.KeyUsage, x509.SubjectAlternativeName, x509.ExtendedKeyUsage)
Mode = Literal["sealed", "plain"]


@dataclass(frozen=True, slots=True)
class TrustedDevice:
    """A device this reader listens to."""

    site: str
    device: str
    mode: Mode = "sealed"
    """A device set to sealed is never believed in the plain, nor the other way round."""
    keys: tuple[VerifyKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Trust:
    """All that this reader believes."""

    devices: tuple[TrustedDevice, ...] = ()
    authority: x509.Certificate | None = field(default=None, repr=False)
    authority_site: str = ""
    """The one site for which `authority` may certify devices."""
    revoked: Callable[[], frozenset[str]] = frozenset
    """The ids (hex) of keys that are void now: it wins over the list and over the authority."""

    def void(self, key_id: bytes) -> bool:
        """Whether the key is revoked."""
        return key_id.hex() in self.revoked()

    def device(self, site: str, device: str) -> TrustedDevice | None:
        """The listed device, one that the authority could certify, or None."""
        for known in self.devices:
            if (known.site, known.device) == (site, device):
                return known
        if self.authority is not None and site == self.authority_site:
            return TrustedDevice(site, device)
        return None

    def verify(self, message: Signed, external: bytes, site: str, device: str, now_wall_s: float) -> None:
        """Raises EnvelopeError unless a key that may speak for `site` and `device` signed `message`."""
        known = self.device(site, device)
        if known is None or known.mode == "plain":
            raise EnvelopeError("signature is by a device that this reader does not trust: list its key to trust it")
        if self.void(message.key_id):
            raise EnvelopeError("signature is by a key that is revoked: enrol the device anew")
        for key in known.keys:
            if key.key_id == message.key_id:
                return message.verify(key, external)
        if message.certificate and site == self.authority_site:
            return message.verify(self._certified(message.certificate, site, device, now_wall_s), external)
        raise EnvelopeError("signature is by a key that is not listed for this device")

    def _certified(self, der: bytes, site: str, device: str, now_wall_s: float) -> VerifyKey:
        if self.authority is None:
            raise EnvelopeError("certificate of a device, but this reader has no authority to check it")
        try:
            leaf = x509.load_der_x509_certificate(der)
            leaf.verify_directly_issued_by(self.authority)
            names, public = _names(leaf), leaf.public_key()
        except (ValueError, TypeError, InvalidSignature, x509.DuplicateExtension, x509.ExtensionNotFound) as exc:
            raise EnvelopeError("certificate of a device is not issued by the site's authority") from exc
        if names != [(site, device)]:
            raise EnvelopeError("certificate is for another device")
        if not _valid(leaf, now_wall_s) or not _valid(self.authority, now_wall_s):
            raise EnvelopeError("certificate is expired or not valid yet: check the clock, then renew it")
        if not isinstance(public, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
            raise EnvelopeError("certificate of a device holds a key of another kind")
        return VerifyKey(public)


def load_authority(path: Path) -> x509.Certificate:
    """Read the site authority's certificate (PEM). Raises ConfigError unless it may issue certificates."""
    try:
        certificate = x509.load_pem_x509_certificate(read_public(path))
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as exc:
        raise ConfigError(f"{path}: this is not the PEM certificate of an authority") from exc
    if not constraints.ca:
        raise ConfigError(f"{path}: this certificate is not one of an authority (CA:TRUE is missing)")
    return certificate


def _names(leaf: x509.Certificate) -> list[tuple[str, str]]:
    """(site, device) of each URI of the certificate; ValueError for anything an end entity must not carry."""
    for extension in leaf.extensions:
        if extension.critical and not isinstance(extension.value, _KNOWN_CRITICAL):
            raise ValueError("critical extension")
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise ValueError("an authority is no device")
        if isinstance(extension.value, x509.KeyUsage) and not extension.value.digital_signature:
            raise ValueError("not a signing key")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return [(m[1], m[2]) for uri in uris if (m := _URI.fullmatch(uri))]


def _valid(certificate: x509.Certificate, now_wall_s: float) -> bool:
    now = datetime.datetime.fromtimestamp(now_wall_s, datetime.UTC)
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
