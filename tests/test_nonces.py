"""A million seals: no key ever meets the same nonce twice."""

import random

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent import codec
from agent.envelope import EpochSpentError, MessageType, ReaderKey, Sealer, Zip
from agent.envelope import message as message_module
from agent.envelope.sealer import MOLDS, Epoch
from agent.errors import EnvelopeError
from tests.sealing import Line, event

SEALS = 1_000_000
STREAMS = tuple(f"stream-{i}" for i in range(8))


class Door:
    """Real AES-GCM that keeps every nonce it was given, by key."""

    seen: dict[bytes, bytearray]

    def __init__(self, key):
        self._real = AESGCM(key)
        self._nonces = self.seen.setdefault(key, bytearray())

    def encrypt(self, nonce, data, aad):
        assert len(nonce) == 12
        self._nonces += nonce
        return self._real.encrypt(nonce, data, aad)

    def decrypt(self, nonce, data, aad):
        return self._real.decrypt(nonce, data, aad)


@pytest.fixture
def door(monkeypatch):
    """Put the door before the cipher; returns what passed it."""
    Door.seen = {}
    monkeypatch.setattr(message_module, "AESGCM", Door)
    return Door.seen


def _seal(line, rng, payloads):
    """Seal one message of one of eight streams, now and then a batch or a gap; ask for a new envelope when told."""
    stream = rng.randrange(len(STREAMS))
    kind = MessageType.GAP if rng.random() < 0.01 else MessageType.EVENT
    zip_ = Zip.DEFLATE_RAW if rng.random() < 0.01 else Zip.NONE
    try:
        return line.sealer.seal(kind, STREAMS[stream], payloads[stream], zip_)
    except EpochSpentError:
        line.sealer.current_envelope()
        return line.sealer.seal(kind, STREAMS[stream], payloads[stream], zip_)


def _something_happens(line, rng, guest):
    """A process restart, an hour that passes, a reader that comes or goes: each about every 20,000 seals."""
    chance = rng.random()
    if chance < 5e-5:
        line.sealer = Sealer(line.identity, [line.reader.public], clock=line.clock)
        line.sealer.current_envelope()
    elif chance < 1e-4:
        line.clock.now_s += 3601
    elif chance < 1.5e-4:
        line.sealer.set_readers([line.reader.public, guest])
        line.sealer.current_envelope()
    elif chance < 2e-4:
        line.sealer.set_readers([line.reader.public])


def test_a_million_seals_use_no_key_and_nonce_twice(door):
    """Eight streams, retries of the same bytes and sealed anew, restarts, hours, readers: all distinct."""
    rng = random.Random(20260101)
    line, guest = Line(), ReaderKey.generate().public
    line.sealer.current_envelope()
    payloads = [codec.encode(event(i, stream)) for i, stream in enumerate(STREAMS)]
    anew = 0
    sent = set()
    for _ in range(SEALS):
        sealed = _seal(line, rng, payloads)
        retry = rng.random()
        if retry < 0.001:
            sent.add(sealed)  # a retry of the same bytes asks for no nonce
        elif retry < 0.05:
            sealed, anew = _seal(line, rng, payloads), anew + 1
            assert sealed not in sent
        _something_happens(line, rng, guest)
    counted = {key: np.frombuffer(bytes(nonces), dtype="V12") for key, nonces in door.items() if nonces}
    assert sum(map(len, counted.values())) == SEALS + anew
    assert len(counted) > 50
    assert all(len(np.unique(nonces)) == len(nonces) for nonces in counted.values())


def test_the_nonce_on_the_wire_is_the_nonce_at_the_cipher(door):
    """What a reader computes from base IV and Partial IV is what the cipher was given."""
    line = Line()
    line.tell()
    for i in range(600):
        sealed = message_module.parse(line.seal_event(event(i)))
        key = line.sealer._epoch.key
        assert message_module.nonce(key.base_iv, sealed.n) == bytes(door[key.key][-12:])
        assert sealed.n == i


def test_an_epoch_gives_each_number_once_and_stops_at_2_to_the_20():
    """Counted to the end: 0 to 2^20 - 1, then refused for ever."""
    epoch = Epoch.fresh(bytes, 0.0)
    assert all(epoch.take() == n for n in range(1 << 20))
    for _ in range(3):
        with pytest.raises(EpochSpentError):
            epoch.take()


def test_a_seal_that_fails_burns_its_number(door, monkeypatch):
    """When the cipher breaks after n was taken, n is not given again."""
    line = Line()
    line.sealer.current_envelope()

    def broken(self, nonce, data, aad):
        self._nonces += nonce
        raise EnvelopeError("the cipher broke")

    with monkeypatch.context() as patch, pytest.raises(EnvelopeError, match="broke"):
        patch.setattr(Door, "encrypt", broken)
        line.seal_event(event())
    assert message_module.parse(line.seal_event(event())).n == 1


def test_two_processes_share_no_key(door):
    """Every start draws its own key, base IV and key id."""
    lines = [Line() for _ in range(200)]
    for line in lines:
        line.sealer.current_envelope()
    assert len(door) == 200
    assert len({line.sealer._epoch.key.kid for line in lines}) == 200
    assert len({line.sealer._epoch.key.base_iv for line in lines}) == 200


def test_what_is_kept_per_address_is_bounded_and_each_address_stays_bound():
    """More streams than are kept, twice around: all open under their own topic, none under a neighbour's."""
    line = Line()
    line.tell()
    names = [f"stream-{i}" for i in range(2 * MOLDS)]
    for name in names * 2:
        sealed = line.seal_event(event(stream=name))
        assert line.opener.open(line.topics.event(name), sealed)
    assert len(line.sealer._epoch._molds) <= MOLDS
    sealed = line.seal_event(event(stream=names[0]))
    with pytest.raises(EnvelopeError, match="stands on a topic where it was not sealed"):
        line.opener.open(line.topics.event(names[1]), sealed)
