"""From configuration to a sealer or an opener: reads the key files and checks them."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.envelope.keyfiles import read_public
from agent.envelope.keys import DeviceIdentity, ReaderKey, ReaderPublic, SigningKey, VerifyKey, spki
from agent.envelope.message import Zip
from agent.envelope.opener import Opener
from agent.envelope.revoked import RevokedFile
from agent.envelope.sealer import PlainSealer, Sealer
from agent.envelope.squeeze import has_zstd
from agent.envelope.trust import Trust, TrustedDevice, load_authority
from agent.errors import ConfigError
from agent.settings.envelope import EnvelopeConfig, ReaderConfig

_ZIPS = {"none": Zip.NONE, "deflate": Zip.DEFLATE_RAW, "zstd": Zip.ZSTD}


def make_sealer(config: EnvelopeConfig, site: str, device: str, *, more_readers: bool = False) -> Sealer | PlainSealer:
    """The sealer of this device. Raises ConfigError for a key that is missing, open to others or of the wrong kind.

    `more_readers`: a signed list brings readers, [envelope] need not name any.
    """
    if config.mode == "plain":
        return PlainSealer()
    if config.signing_key is None or not (config.readers or more_readers):
        raise ConfigError("[envelope] mode 'sealed' needs 'signing_key' and 'readers': see 'limpet keys new'")
    return Sealer(make_identity(config, site, device), listed_readers(config), max_age_s=config.epoch_s)


def make_identity(config: EnvelopeConfig, site: str, device: str) -> DeviceIdentity:
    """Who signs on this device, with its certificate if there is one. Raises ConfigError."""
    if config.signing_key is None:
        raise ConfigError("[envelope] signing_key: a device signs with its own key: see 'limpet keys new'")
    key = SigningKey.load(config.signing_key)
    certificate = _certificate(config.certificate, key) if config.certificate else b""
    return DeviceIdentity(site, device, key, certificate)


def listed_readers(config: EnvelopeConfig) -> tuple[ReaderPublic, ...]:
    """The readers that limpet.toml names. Raises ConfigError."""
    return tuple(ReaderPublic.load(path) for path in config.readers)


def batch_zip(config: EnvelopeConfig) -> Zip:
    """How batches are compressed. Raises ConfigError for zstd where there is none."""
    if config.compression == "zstd" and not has_zstd():
        raise ConfigError("[envelope] compression 'zstd' needs the 'zstandard' package: install it or use 'deflate'")
    return _ZIPS[config.compression]


def make_opener(config: ReaderConfig) -> Opener:
    """The reader's opener. Raises ConfigError."""
    keys = [ReaderKey.load(config.key)] if config.key else []
    devices = tuple(
        TrustedDevice(d.site, d.device, d.mode, tuple(VerifyKey.load(path) for path in d.keys)) for d in config.device
    )
    authority = load_authority(config.authority) if config.authority else None
    revoked = RevokedFile(config.revoked) if config.revoked else frozenset
    return Opener(keys, Trust(devices, authority, config.authority_site, revoked), config.limits)


def _certificate(path: Path, key: SigningKey) -> bytes:
    try:
        certificate = x509.load_pem_x509_certificate(read_public(path))
    except ValueError as exc:
        raise ConfigError(f"{path}: this is not a PEM certificate") from exc
    if certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    ) != spki(key.public.public):
        raise ConfigError(f"{path}: this certificate is for another key than the device's signing key")
    return certificate.public_bytes(serialization.Encoding.DER)
