"""Keys, clocks and devices for the tests of the envelope: real keys, a clock that stands still until told."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent import codec
from agent.envelope import (
    DeviceIdentity,
    MessageType,
    Opener,
    ReaderKey,
    Sealer,
    SigningKey,
    Topics,
    Trust,
    TrustedDevice,
    Zip,
)
from agent.envelope.topics import ROOT
from agent.records import Draft, Event, ModelRef
from agent.settings.envelope import ReaderLimits

SITE, DEVICE = "plant-7", "press.3"
NOW_WALL_S = 1_790_000_000.0


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Line:
    """One device and one reader with real keys, and everything needed to pass messages between them."""

    def __init__(self, algorithm=-8, limits=None, certificate=b""):
        self.clock = Clock()
        self.signing = SigningKey.generate(algorithm)
        self.reader = ReaderKey.generate()
        self.identity = DeviceIdentity(SITE, DEVICE, self.signing, certificate)
        self.sealer = Sealer(self.identity, [self.reader.public], clock=self.clock)
        self.topics = Topics(SITE, DEVICE)
        self.opener = self.another_opener(limits=limits)

    def another_opener(self, reader=None, devices=None, limits=None, **trust):
        listed = (TrustedDevice(SITE, DEVICE, "sealed", (self.signing.public,)),) if devices is None else devices
        keys = [self.reader if reader is None else reader]
        return Opener(keys, Trust(listed, **trust), limits or ReaderLimits(), clock=self.clock, wall=lambda: NOW_WALL_S)

    def tell(self, opener=None):
        """Publish the current key envelope to an opener."""
        envelope = self.sealer.current_envelope()
        return (opener or self.opener).open(f"{self.topics.prefix}/{envelope.tail}", envelope.payload)

    def seal_event(self, made, zip_=Zip.NONE):
        return self.sealer.seal(MessageType.EVENT, made.draft.stream, codec.encode(made), zip_)


def topic_elsewhere(topic):
    """The same topic as a bridge shows it."""
    return topic.replace(f"{ROOT}/", "hq/from/", 1)


def event(number=1, stream="door", **changes):
    """An event with every field set."""
    fields = {
        "stream": stream,
        "kind": "appears",
        "body": {"label": "person", "scores": [0.5, 0.875], "boxes": [[1, 2.5, 30, 40]], "note": "naïve ✓", "x": None},
        "t_wall_s": NOW_WALL_S + number,
        "t_mono_s": 5.25 + number,
        "event_class": "routine",
        "clock": "synced",
        "replay": True,
        "model": ModelRef("digits", "1.0.0", "ab" * 32),
        "pipeline": "meter",
        "pipeline_digest": "11" * 16,
        "config_digest": "22" * 16,
        "input_digest": "33" * 16,
        "cache": "exact",
        "decided_by": "appears person 3/5",
        "media": {"kind": "jpeg", "bytes": 1234},
    } | changes
    return Event(f"0190a5d0-0000-7000-8000-{number:012x}", "5f0c", number, Draft(**fields))


def authority(common_name="site authority"):
    """A certificate authority: private key and self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return key, _certificate(named, named, key.public_key(), key, ca=True, uris=())


def device_certificate(authority_pair, public, site=SITE, device=DEVICE, days=30, ca=False, uris=None):
    """A certificate for a device's signing key."""
    key, issuer = authority_pair
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    uris = (f"limpet://{site}/{device}",) if uris is None else uris
    return _certificate(named, issuer.subject, public, key, ca=ca, uris=uris, days=days)


def _certificate(subject, issuer, public, signer, ca, uris, days=30):
    start = datetime.datetime.fromtimestamp(NOW_WALL_S, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - datetime.timedelta(days=60))
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())
