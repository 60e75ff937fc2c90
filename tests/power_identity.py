"""The two slots of the TLS pair under power cuts: always a whole pair, and never an older one than was promised."""

import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.errors import ConfigError
from agent.identity import keys
from agent.identity.certificate import Who, parse, public_der
from agent.identity.slots import Slots

RENEWALS = range(2, 9)
WHO = Who.of("plant", "door")
DAY_1 = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def prepare(folder):
    """An enrolled device: its first certificate has serial number 1."""
    _renew(Slots(folder / "identity"), 1)


def work(folder, mark):
    """Renew again and again: key and request, certificate, connected."""
    slots = Slots(folder / "identity")
    for number in RENEWALS:
        _renew(slots, number)
        mark(f"connected {number}")


def recover(folder, mark):
    """The next start: whatever waits is tried, and does not connect this time."""
    slots = Slots(folder / "identity")
    candidate = slots.state().candidate
    if candidate is not None:
        slots.discard(candidate)
    mark("started 0")


def judge(folder, done):
    """What is wrong: no whole pair, or one that is older than one that had connected."""
    promised = max((int(words.split()[1]) for words in done), default=1)
    slots = Slots(folder / "identity")
    try:
        active = slots.state().active
        if active is None:
            return "there is no pair at all"
        pair = slots.pair(active)
        leaf = parse(pair.certificate.read_bytes(), str(pair.certificate))[0]
        if public_der(leaf) != keys.public_bytes(keys.load_private(pair.key)):
            return f"slot {active}: key and certificate do not belong together"
    except ConfigError as exc:
        return str(exc)
    os.sync()
    return f"{promised} had connected, {leaf.serial_number} is in use" if leaf.serial_number < promised else ""


def _renew(slots, number):
    """One renewal, with a certificate that only its serial number tells apart."""
    private = keys.new_tls_key()
    holder = serialization.load_pem_private_key(private, None)
    slot = slots.begin(private, keys.make_request(holder, WHO, for_tls=True))
    slots.fill(slot, _certificate(holder.public_key(), number))
    slots.promote(slot)


def _certificate(public, number):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    authority = ec.generate_private_key(ec.SECP256R1())
    start = DAY_1 + datetime.timedelta(days=number)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public).serial_number(number)
        .not_valid_before(start).not_valid_after(start + datetime.timedelta(days=90))
    )  # fmt: skip
    return made.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
