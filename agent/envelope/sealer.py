"""Sealing, on the device: one epoch key at a time, one counter for all topics, no nonce twice.

Rules. The epoch key and its base IV are random at every process start, so no counter has to survive a power cut.
The counter n starts at 0 in each epoch and is taken here alone, before the message exists; a retry sends the same bytes
again or seals anew under the next n. One thread of one process may seal. An epoch ends after 2^20 messages or its age,
and at once when a reader is removed. Nothing is sealed under an epoch before its envelope was asked for.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent import codec
from agent.envelope import keyenvelope, signed
from agent.envelope.keys import DeviceIdentity, ReaderPublic
from agent.envelope.message import (
    IV_BYTES,
    KEY_BYTES,
    KID_BYTES,
    MAX_MESSAGES,
    Address,
    EpochKey,
    MessageType,
    Mold,
    Zip,
)
from agent.envelope.squeeze import squeeze
from agent.errors import EnvelopeError

MAX_AGE_S: Final = 3600.0
MOLDS: Final = 256
"""Most that are kept: names of requests are endless."""


class EpochSpentError(EnvelopeError):
    """The epoch has run out: ask for the current envelope, publish it, then seal again."""


@dataclass(frozen=True, slots=True)
class KeyEnvelope:
    """What must be retained on the broker and acknowledged before the first message under its kid."""

    kid: bytes
    tail: str
    """Topic after the device: "keys/<kid in hex>"."""
    payload: bytes = field(repr=False)


class Epoch:
    """A random key, a random base IV, and the only counter for them."""

    def __init__(self, key: EpochKey, born_mono_s: float) -> None:
        self.key = key
        self.born_mono_s = born_mono_s
        self.next_n = 0
        self._molds: dict[tuple[MessageType, Zip, str], Mold] = {}

    @classmethod
    def fresh(cls, entropy: Callable[[int], bytes], now_mono_s: float) -> "Epoch":
        return cls(EpochKey(entropy(KID_BYTES), entropy(KEY_BYTES), entropy(IV_BYTES)), now_mono_s)

    def take(self) -> int:
        """The next n. Raises EpochSpentError after 2^20."""
        if self.next_n >= MAX_MESSAGES:
            raise EpochSpentError(f"epoch has sealed {MAX_MESSAGES} messages: publish the next key envelope first")
        n = self.next_n
        self.next_n += 1
        return n

    def mold(self, site: str, device: str, message_type: MessageType, zip_: Zip, stream: str) -> Mold:
        """What the messages of this type to this place have in common."""
        found = self._molds.get((message_type, zip_, stream))
        if found is None:
            if len(self._molds) >= MOLDS:
                self._molds.clear()
            found = Mold.of(self.key, message_type, zip_, Address(site, device, stream))
            self._molds[message_type, zip_, stream] = found
        return found


class Sealer:
    """Seals what one device says. `clock` is monotonic and `wall` UTC, in seconds; `entropy` makes random bytes."""

    batches: Final = True

    def __init__(
        self,
        identity: DeviceIdentity,
        readers: Sequence[ReaderPublic],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = os.urandom,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._identity = identity
        self._readers = tuple(readers)
        self._clock, self._wall, self._entropy = clock, wall, entropy
        self._max_age_s = min(max_age_s, MAX_AGE_S)
        self._epoch: Epoch | None = None
        self._envelope: KeyEnvelope | None = None
        self._owner: tuple[int, int] | None = None

    @property
    def key_id(self) -> bytes:
        """The id of the key that signs."""
        return self._identity.signing_key.public.key_id

    def current_envelope(self) -> KeyEnvelope:
        """The envelope of the epoch that `seal` will use; a new one when the last is spent.

        The same object is returned as long as it need not be published again. Raises ConfigError without readers.
        """
        self._only_here()
        if self._epoch is None or self._spent(self._epoch):
            self._epoch = Epoch.fresh(self._entropy, self._clock())
            self._envelope = None
        if self._envelope is None:
            key = self._epoch.key
            payload = keyenvelope.make(self._identity, key, self._readers, int(self._wall()))
            self._envelope = KeyEnvelope(key.kid, f"keys/{key.kid.hex()}", payload)
        return self._envelope

    def set_readers(self, readers: Sequence[ReaderPublic]) -> None:
        """Replace the readers: an addition makes a new envelope of this epoch, a removal a new epoch at once."""
        self._only_here()
        kept = {reader.key_id for reader in readers}
        if any(reader.key_id not in kept for reader in self._readers):
            self._epoch = None
        self._readers = tuple(readers)
        self._envelope = None

    def seal(self, message_type: MessageType, stream: str, payload: bytes, zip_: Zip = Zip.NONE) -> bytes:
        """Seal `payload` (CBOR; for a batch the array of events) for the topic that `stream` names.

        Alarms and states are signed first. Every call takes a new n. Raises EpochSpentError when a new envelope must be
        published before, EnvelopeError from a second thread or process.
        """
        self._only_here()
        epoch = self._epoch
        if epoch is None or self._envelope is None or self._spent(epoch):
            raise EpochSpentError("epoch has run out or its readers changed: publish the current key envelope first")
        site, device = self._identity.site, self._identity.device
        if message_type.signed:
            external = signed.external_of_inner(site, device, message_type, stream)
            payload = signed.sign(self._identity, payload, external)
        squeezed = squeeze(payload, zip_)
        return epoch.mold(site, device, message_type, zip_, stream).seal(epoch.take(), squeezed)

    def _spent(self, epoch: Epoch) -> bool:
        return epoch.next_n >= MAX_MESSAGES or self._clock() - epoch.born_mono_s >= self._max_age_s

    def _only_here(self) -> None:
        here = (os.getpid(), threading.get_ident())
        if self._owner is None:
            self._owner = here
        if self._owner != here:
            raise EnvelopeError("sealing belongs to one thread of one process: a second one could repeat a nonce")


class PlainSealer:
    """The plain mode, chosen by the operator at both ends: JSON, one event per message, no envelope."""

    batches: Final = False

    def current_envelope(self) -> None:
        """There are no keys to publish."""

    def seal(self, message_type: MessageType, stream: str, payload: bytes, zip_: Zip = Zip.NONE) -> bytes:
        """The JSON of `payload`, which is CBOR. `stream` stands in the topic only. Raises EnvelopeError for a batch."""
        if message_type is MessageType.BATCH or zip_ is not Zip.NONE:
            raise EnvelopeError("the plain mode sends one event per message, uncompressed")
        return codec.to_json(payload)
