"""Sealing and opening: what a broker carries but cannot read. docs/wire-format.md is the contract.

`Sealer` turns payloads into sealed messages under an epoch key, `PlainSealer` is its twin for the plain mode,
`Opener` is the reader's side. Keys come from files that only their owner may read, and never show in a repr or a log.
"""

from agent.envelope.keys import DeviceIdentity, ReaderKey, ReaderPublic, SigningKey, VerifyKey
from agent.envelope.message import MessageType, Zip
from agent.envelope.opener import Opened, Opener
from agent.envelope.sealer import EpochSpentError, KeyEnvelope, PlainSealer, Sealer
from agent.envelope.topics import Tail, Topics
from agent.envelope.trust import Trust, TrustedDevice

__all__ = [
    "DeviceIdentity", "EpochSpentError", "KeyEnvelope", "MessageType", "Opened", "Opener", "PlainSealer", "ReaderKey",
    "ReaderPublic", "Sealer", "SigningKey", "Tail", "Topics", "Trust", "TrustedDevice", "VerifyKey", "Zip",
]  # fmt: skip
