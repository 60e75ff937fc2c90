"""Sealing and opening: what is said comes out whole, and nothing else comes out."""

import os
import threading

import pytest

from agent import cbor, codec
from agent.envelope import (
    DeviceIdentity,
    EpochSpentError,
    MessageType,
    PlainSealer,
    ReaderKey,
    Sealer,
    SigningKey,
    Topics,
    TrustedDevice,
    Zip,
)
from agent.envelope.opener import ReplayError
from agent.envelope.squeeze import has_zstd
from agent.errors import EnvelopeError
from agent.settings.envelope import ReaderLimits
from tests.sealing import DEVICE, SITE, Line, event, topic_elsewhere

ZIPS = [Zip.NONE, Zip.DEFLATE_RAW] + ([Zip.ZSTD] if has_zstd() else [])


@pytest.fixture
def line():
    return Line()


# --- what is said comes out whole


@pytest.mark.parametrize("algorithm", [-8, -7], ids=["ed25519", "es256"])
@pytest.mark.parametrize("zip_", ZIPS, ids=lambda z: z.name)
def test_a_sealed_event_comes_out_as_it_was_said(algorithm, zip_):
    """Every field of an event survives both signature suites and every compression."""
    line = Line(algorithm)
    line.tell()
    (opened,) = line.opener.open(line.topics.event("door"), line.seal_event(event(), zip_))
    assert opened.events == (event(),)
    assert (opened.site, opened.device, opened.name, opened.sealed) == (SITE, DEVICE, "door", True)


@pytest.mark.parametrize("zip_", ZIPS, ids=lambda z: z.name)
def test_a_batch_comes_out_in_order(line, zip_):
    """A batch is one stream's events, joined without decoding them."""
    line.tell()
    said = [event(i) for i in range(200)]
    payload = cbor.array_of([codec.encode(e) for e in said])
    sealed = line.sealer.seal(MessageType.BATCH, "door", payload, zip_)
    (opened,) = line.opener.open(line.topics.event("door"), sealed)
    assert list(opened.events) == said
    if zip_:
        assert len(sealed) < len(payload) / 4


def test_a_bridge_may_remap_the_prefix(line):
    """Site and device come from the key envelope, so a topic under another prefix still opens."""
    envelope = line.sealer.current_envelope()
    line.opener.open(topic_elsewhere(f"{line.topics.prefix}/{envelope.tail}"), envelope.payload)
    (opened,) = line.opener.open(topic_elsewhere(line.topics.event("door")), line.seal_event(event()))
    assert (opened.site, opened.device) == (SITE, DEVICE)


@pytest.mark.parametrize(
    ("message_type", "topic", "name"),
    [
        (MessageType.TWIN, "twin", "models"),
        (MessageType.METRIC, "metric", "latency"),
        (MessageType.ALARM, "alarm", "disk"),
    ],
)
def test_other_messages_come_out_as_maps(line, message_type, topic, name):
    """Twins, metrics and alarms are maps; alarms carry the device's own signature inside."""
    line.tell()
    sealed = line.sealer.seal(message_type, name, cbor.encode({"free_bytes": 7}))
    (opened,) = line.opener.open(getattr(line.topics, topic)(name), sealed)
    assert (opened.place, opened.body, opened.signed) == (topic, {"free_bytes": 7}, topic == "alarm")


def test_a_command_state_is_signed_and_bound_to_its_request(line):
    """The state of one request does not open on the topic of another."""
    line.tell()
    sealed = line.sealer.seal(MessageType.STATE, "update/r1", cbor.encode({"status": "executing"}))
    with pytest.raises(EnvelopeError):
        line.opener.open(line.topics.state("update", "r2"), sealed)
    (opened,) = line.opener.open(line.topics.state("update", "r1"), sealed)
    assert opened.signed
    assert opened.name == "update/r1"


def test_another_reader_cannot_forge_an_alarm(line):
    """Readers share the epoch key; an alarm that is only sealed, not signed by the device, is refused."""
    line.tell()
    line.sealer._identity = DeviceIdentity(SITE, DEVICE, SigningKey.generate())  # the forger has the epoch key alone
    with pytest.raises(EnvelopeError, match="not listed"):
        line.opener.open(line.topics.alarm("disk"), line.sealer.seal(MessageType.ALARM, "disk", cbor.encode({})))


def test_overhead_is_that_of_the_design(line):
    """44 bytes for the first messages of an epoch, never more than 50."""
    line.sealer.current_envelope()
    assert len(line.sealer.seal(MessageType.EVENT, "door", bytes(200))) == 244
    line.sealer._epoch.next_n = (1 << 20) - 1
    assert len(line.sealer.seal(MessageType.EVENT, "door", bytes(60_000))) <= 60_050


# --- nothing else comes out


def test_every_flipped_byte_is_refused(line):
    """No byte of a sealed message can change without being noticed."""
    line.tell()
    sealed = line.seal_event(event())
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1 << (place % 8)
        with pytest.raises(EnvelopeError):
            assert line.opener.open(line.topics.event("door"), bytes(damaged)) == ()
            raise EnvelopeError("held: another kid")  # an unknown key id waits for an envelope that never comes
    assert line.opener.open(line.topics.event("door"), sealed)[0].events == (event(),)


def test_every_flipped_byte_of_an_envelope_is_refused(line):
    """No byte of a key envelope can change, and every shorter one is refused."""
    envelope = line.sealer.current_envelope()
    topic = f"{line.topics.prefix}/{envelope.tail}"
    for place in range(len(envelope.payload)):
        damaged = bytearray(envelope.payload)
        damaged[place] ^= 1 << (place % 8)
        with pytest.raises(EnvelopeError):
            line.opener.open(topic, bytes(damaged))
        if place:
            with pytest.raises(EnvelopeError):
                line.opener.open(topic, envelope.payload[:place])


def test_a_message_opens_only_where_it_was_sealed(line):
    """Another stream, another kind of topic: refused, though the key is right."""
    line.tell()
    sealed = line.seal_event(event())
    for topic in (
        line.topics.event("gate"), line.topics.gap("door"), line.topics.twin("door"), line.topics.metric("door"),
        line.topics.alarm("door"), line.topics.status, "door", "e", "", "/e//gap", "limpet/v1/x/y/e/+",
    ):  # fmt: skip
        with pytest.raises(EnvelopeError):
            line.opener.open(topic, sealed)


def test_another_device_cannot_speak_under_this_one(line):
    """A trusted device with its own key cannot make an envelope for another device."""
    other = SigningKey.generate()
    devices = (
        TrustedDevice(SITE, DEVICE, "sealed", (line.signing.public,)),
        TrustedDevice(SITE, "press.4", "sealed", (other.public,)),
    )
    opener = line.another_opener(devices=devices)
    liar = Sealer(DeviceIdentity(SITE, DEVICE, other), [line.reader.public]).current_envelope()
    with pytest.raises(EnvelopeError, match="not listed"):
        opener.open(f"{line.topics.prefix}/{liar.tail}", liar.payload)


def test_a_device_that_steals_a_key_id_silences_nobody(line):
    """A trusted device that repeats another's key id in its own envelope hurts only itself."""
    other = SigningKey.generate()
    devices = (
        TrustedDevice(SITE, DEVICE, "sealed", (line.signing.public,)),
        TrustedDevice(SITE, "press.4", "sealed", (other.public,)),
    )
    opener = line.another_opener(devices=devices)
    kid = line.sealer.current_envelope().kid
    thief = Sealer(
        DeviceIdentity(SITE, "press.4", other), [line.reader.public], entropy=lambda n: kid if n == 8 else os.urandom(n)
    )
    stolen = thief.current_envelope()
    opener.open(f"{line.topics.prefix}/{stolen.tail}", stolen.payload)
    line.tell(opener)
    assert opener.open(line.topics.event("door"), line.seal_event(event()))[0].device == DEVICE


def test_a_stranger_is_refused(line):
    """There is no trust on first use."""
    with pytest.raises(EnvelopeError, match="does not trust"):
        line.tell(line.another_opener(devices=()))


def test_an_envelope_belongs_on_its_own_topic(line):
    """An envelope on the topic of another key id is refused."""
    envelope = line.sealer.current_envelope()
    with pytest.raises(EnvelopeError, match="another key id"):
        line.opener.open(line.topics.keys(bytes(8)), envelope.payload)


def test_someone_who_is_no_reader_reads_nothing(line):
    """A reader whose key is not wrapped learns that, not the content."""
    opener = line.another_opener(reader=ReaderKey.generate())
    line.tell(opener)
    with pytest.raises(EnvelopeError, match="not among the readers"):
        opener.open(line.topics.event("door"), line.seal_event(event()))


def test_a_replay_is_refused_in_any_order(line):
    """Each (kid, n) opens once, however late it comes."""
    line.tell()
    sealed = [line.seal_event(event(i)) for i in range(50)]
    for message in reversed(sealed):
        line.opener.open(line.topics.event("door"), message)
    for message in sealed:
        with pytest.raises(ReplayError):
            line.opener.open(line.topics.event("door"), message)


def test_an_event_sealed_again_is_a_duplicate_not_news(line):
    """After a restart the same event comes under a new epoch: its id tells."""
    line.tell()
    line.opener.open(line.topics.event("door"), line.seal_event(event(1)))
    restarted = Sealer(line.identity, [line.reader.public], clock=line.clock)
    line.sealer = restarted
    line.tell()
    payload = cbor.array_of([codec.encode(event(1)), codec.encode(event(2))])
    (opened,) = line.opener.open(line.topics.event("door"), restarted.seal(MessageType.BATCH, "door", payload))
    assert opened.events == (event(2),)
    assert opened.duplicates == 1


def test_a_closed_epoch_stays_closed():
    """When a reader forgets the oldest epoch for want of room, its messages cannot be replayed."""
    line = Line(limits=ReaderLimits(epochs=2))
    line.tell()
    old, message = line.sealer.current_envelope(), line.seal_event(event())
    line.opener.open(line.topics.event("door"), message)
    for _ in range(2):
        line.clock.now_s += 3600
        line.tell()
    with pytest.raises(EnvelopeError, match="closed"):
        line.opener.open(f"{line.topics.prefix}/{old.tail}", old.payload)
    with pytest.raises(EnvelopeError, match="closed"):
        line.opener.open(line.topics.event("door"), message)


def test_a_plain_message_of_a_sealed_device_is_refused(line):
    """A broker cannot slip in JSON where the reader expects a seal."""
    line.tell()
    plain = PlainSealer().seal(MessageType.EVENT, "door", codec.encode(event()))
    with pytest.raises(EnvelopeError, match="expects its device to seal"):
        line.opener.open(line.topics.event("door"), plain)


def test_a_sealed_message_of_a_plain_device_is_refused(line):
    """The mode is explicit at both ends."""
    opener = line.another_opener(devices=(TrustedDevice(SITE, DEVICE, "plain"),))
    with pytest.raises(EnvelopeError, match="does not trust"):
        line.tell(opener)


def test_the_plain_mode_is_json_of_the_same_event(line):
    """Plain: JSON at both ends, one event per message."""
    opener = line.another_opener(devices=(TrustedDevice(SITE, DEVICE, "plain"),))
    plain = PlainSealer().seal(MessageType.EVENT, "door", codec.encode(event()))
    (opened,) = opener.open(line.topics.event("door"), plain)
    assert opened.events == (event(),)
    assert not opened.sealed
    with pytest.raises(EnvelopeError, match="one event per message"):
        PlainSealer().seal(MessageType.BATCH, "door", cbor.array_of([codec.encode(event())]))
    with pytest.raises(EnvelopeError):
        opener.open(line.topics.event("door"), b"[" + plain + b"]")


def test_status_is_plain_and_only_of_known_devices(line):
    """The last will is sent by the broker, so status is a hint and says so by not being sealed."""
    (opened,) = line.opener.open(line.topics.status, b'{"schema":1,"state":"online"}')
    assert (opened.place, opened.body["state"], opened.sealed) == ("status", "online", False)
    with pytest.raises(EnvelopeError, match="does not know"):
        line.opener.open(Topics(SITE, "other").status, b"{}")
    with pytest.raises(EnvelopeError, match="too large"):
        line.opener.open(line.topics.status, b"{" + b" " * 5000 + b"}")


# --- envelopes that are late, epochs that end


def test_messages_wait_for_their_envelope(line):
    """What comes before its envelope comes out with it, in order."""
    line.sealer.current_envelope()
    for i in range(3):
        assert line.opener.open(line.topics.event("door"), line.seal_event(event(i))) == ()
    assert [o.events[0].seq for o in line.tell()] == [0, 1, 2]


def test_waiting_is_bounded_in_number_and_time(line):
    """1,000 messages or 60 s; the oldest leaves first and is counted."""
    line.sealer.current_envelope()
    for i in range(1010):
        line.opener.open(line.topics.event("door"), line.seal_event(event(i)))
    assert line.opener.counts["held_dropped"] == 10
    line.clock.now_s += 59.9
    assert len(line.tell()) == 1000
    line.clock.now_s += 3600
    line.sealer.current_envelope()
    line.opener.open(line.topics.event("door"), line.seal_event(event(5000)))
    line.clock.now_s += 60.1
    assert line.tell() == ()
    assert line.opener.counts["held_expired"] == 1


def test_an_epoch_ends_after_an_hour_or_2_to_the_20_messages(line):
    """The sealer refuses until the next envelope has been asked for."""
    first = line.sealer.current_envelope()
    assert line.sealer.current_envelope() is first
    line.clock.now_s += 3600
    with pytest.raises(EpochSpentError):
        line.seal_event(event())
    second = line.sealer.current_envelope()
    line.sealer._epoch.next_n = (1 << 20) - 1
    line.seal_event(event())
    with pytest.raises(EpochSpentError):
        line.seal_event(event())
    assert len({first.kid, second.kid, line.sealer.current_envelope().kid}) == 3


def test_a_new_reader_joins_the_epoch_and_a_removed_one_is_out(line):
    """Adding republishes this epoch's envelope; removing makes a new epoch at once."""
    guest = ReaderKey.generate()
    first = line.sealer.current_envelope()
    opener = line.another_opener(reader=guest)
    line.tell(opener)
    line.sealer.set_readers([line.reader.public, guest.public])
    again = line.sealer.current_envelope()
    assert again.kid == first.kid
    line.tell(opener)
    assert opener.open(line.topics.event("door"), line.seal_event(event(1)))
    line.sealer.set_readers([line.reader.public])
    with pytest.raises(EpochSpentError):
        line.seal_event(event(2))
    assert line.sealer.current_envelope().kid != first.kid
    line.tell(opener)
    with pytest.raises(EnvelopeError, match="not among the readers"):
        opener.open(line.topics.event("door"), line.seal_event(event(2)))


def test_one_thread_seals(line):
    """A second thread could repeat a nonce, so it is refused."""
    line.sealer.current_envelope()
    raised = []

    def elsewhere():
        try:
            line.seal_event(event())
        except EnvelopeError as exc:
            raised.append(str(exc))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "one thread" in raised[0]


def test_nothing_is_sealed_before_its_envelope_was_made(line):
    """A sealer that was never asked for its envelope refuses."""
    with pytest.raises(EpochSpentError):
        line.seal_event(event())


def test_an_epoch_never_changes_its_key(line):
    """A second envelope with the same key id and another key is refused, though the device signed it."""
    line.tell()
    kid = line.sealer.current_envelope().kid
    line.sealer = Sealer(
        line.identity, [line.reader.public], entropy=lambda n: kid if n == len(kid) else os.urandom(n)
    )
    with pytest.raises(EnvelopeError, match="another key"):
        line.tell()


def test_clearing_a_retained_envelope_forgets_nothing(line):
    """Anyone can clear a retained message; the reader keeps what it has."""
    line.tell()
    assert line.opener.open(f"{line.topics.prefix}/{line.sealer.current_envelope().tail}", b"") == ()
    assert line.opener.open(line.topics.event("door"), line.seal_event(event()))
