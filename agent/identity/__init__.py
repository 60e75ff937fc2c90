"""Who this device is: its keys, made here and never leaving, and the certificates that others issue for them.

Three keys of one purpose each: TLS (P-256, new with every renewal), signing (Ed25519 or P-256), and receiving encrypted
models (X25519). Owns their files, the requests (PKCS#10), the checks before a certificate is taken, the two slots that
keep an old pair until the new one has connected, and the client of EST (RFC 7030). Private keys are files of mode 0600,
never shown and never logged. What is done with the pair, and when it is renewed, is the business of `agent.papers`.
"""

from agent.identity.certificate import Certified, Who
from agent.identity.enrolment import (
    SIGNING_CERTIFICATE,
    NamedCertificate,
    Purpose,
    SigningEnrolment,
    TlsEnrolment,
    enrol,
    load_anchors,
    pair_in_use,
    read_token,
    spend_token,
)
from agent.identity.est import Est, Pending, Proof
from agent.identity.slots import Pair, Slots

__all__ = [
    "SIGNING_CERTIFICATE", "Certified", "Est", "NamedCertificate", "Pair", "Pending", "Proof", "Purpose",
    "SigningEnrolment", "Slots", "TlsEnrolment", "Who", "enrol", "load_anchors", "pair_in_use", "read_token",
    "spend_token",
]  # fmt: skip
