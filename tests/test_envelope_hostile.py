"""Hostile bytes: whatever a broker, a stranger or a bad device sends, a reader answers with EnvelopeError at most."""

import contextlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import cbor, codec
from agent.envelope import MessageType, TrustedDevice, Zip
from agent.envelope import topics as topics_module
from agent.envelope.squeeze import expand, has_zstd, squeeze
from agent.errors import EnvelopeError
from tests.sealing import DEVICE, SITE, Line, event

ZIPS = [Zip.NONE, Zip.DEFLATE_RAW] + ([Zip.ZSTD] if has_zstd() else [])


@pytest.fixture
def line():
    return Line()


def test_a_zip_bomb_stops_at_the_limit(line):
    """A small message that grows without end is cut off, for every compression."""
    line.tell()
    for zip_ in ZIPS[1:]:
        bomb = squeeze(bytes(64 * 1024 * 1024), zip_)
        with pytest.raises(EnvelopeError, match="larger than"):
            expand(bomb, zip_, 8 * 1024 * 1024)
    sealed = line.sealer.seal(MessageType.BATCH, "door", bytes(9 * 1024 * 1024), Zip.DEFLATE_RAW)
    with pytest.raises(EnvelopeError, match="larger than"):
        line.opener.open(line.topics.event("door"), sealed)


def test_damaged_deflate_data_is_refused():
    """Cut short, followed by more, or no DEFLATE at all."""
    whole = squeeze(b"x" * 1000, Zip.DEFLATE_RAW)
    for data in (whole[:-1], whole + b"x", zlib.compress(b"x"), b""):
        with pytest.raises(EnvelopeError):
            expand(data, Zip.DEFLATE_RAW, 10_000)


def test_large_messages_are_not_looked_at(line):
    """The limit stands before the parser."""
    with pytest.raises(EnvelopeError, match="not looked at"):
        line.opener.open(line.topics.event("door"), bytes(1024 * 1024 + 1))


def test_a_batch_has_a_largest_number_of_events(line):
    """1,001 events in a batch are refused, and so are none."""
    line.tell()
    for count in (0, 1001):
        payload = cbor.array_of([codec.encode(event(i)) for i in range(count)])
        sealed = line.sealer.seal(MessageType.BATCH, "door", payload, Zip.DEFLATE_RAW)
        with pytest.raises(EnvelopeError, match="1 to 1000"):
            line.opener.open(line.topics.event("door"), sealed)


def test_an_event_of_another_stream_is_refused(line):
    """What is inside must agree with the topic."""
    line.tell()
    sealed = line.sealer.seal(MessageType.EVENT, "door", codec.encode(event(stream="gate")))
    with pytest.raises(EnvelopeError, match="another stream"):
        line.opener.open(line.topics.event("door"), sealed)


_FUZZ = Line()
_FUZZ.tell()
_TOPICS = st.sampled_from([
    _FUZZ.topics.event("door"), _FUZZ.topics.gap("door"), _FUZZ.topics.keys(bytes(8)), _FUZZ.topics.status,
    _FUZZ.topics.twin("x"), _FUZZ.topics.alarm("x"), "nonsense", "\udc80/e/x",
])  # fmt: skip
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(max_size=40), st.text(max_size=9)
)
_KEYS = st.integers(-65540, 40) | st.text(max_size=9)
_CBOR = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=20,
).map(cbor.encode)
_FIRST_BYTES = st.sampled_from([b"", b"\xd0", b"\xd2", b"{", b"["])  # none, COSE_Encrypt0, COSE_Sign1, JSON
_HOSTILE = st.binary(max_size=200) | st.builds(bytes.__add__, _FIRST_BYTES, _CBOR)


@settings(max_examples=600, deadline=None)
@given(topic=_TOPICS, payload=_HOSTILE)
def test_no_bytes_from_outside_raise_anything_but_envelope_error(topic, payload):
    """Whatever a broker sends, the opener answers with EnvelopeError or with nothing."""
    with contextlib.suppress(EnvelopeError):
        assert all(opened.place == "status" for opened in _FUZZ.opener.open(topic, payload))


@settings(max_examples=400, deadline=None)
@given(_TOPICS, st.sampled_from(MessageType), st.sampled_from([Zip.NONE, Zip.DEFLATE_RAW]), _CBOR)
def test_no_payload_of_a_trusted_device_raises_anything_else(topic, message_type, zip_, payload):
    """A device with good keys that talks nonsense cannot hurt a reader either."""
    name = topics_module.read(topic).name if "door" in topic or "/x" in topic else "door"
    sealed = _FUZZ.sealer.seal(message_type, name, payload, zip_)
    with contextlib.suppress(EnvelopeError):
        _FUZZ.opener.open(topic, sealed)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='{}[]":,0189eE.-\\ntrufals é', max_size=80) | st.sampled_from(["[" * 100_000, "9" * 5000]))
def test_no_plain_text_raises_anything_else(text):
    """The plain mode meets the same bytes."""
    opener = _FUZZ.another_opener(devices=(TrustedDevice(SITE, DEVICE, "plain"),))
    with contextlib.suppress(EnvelopeError):
        opener.open(_FUZZ.topics.event("door"), b"{" + text.encode())


def test_errors_never_repeat_content(line):
    """A refusal names the key, never the value."""
    line.tell()
    secret = "top-secret-value"
    good = codec.to_map(event())
    for table in ({"schema": secret}, good | {"class": secret}, good | {"id": secret}):
        sealed = line.sealer.seal(MessageType.EVENT, "door", cbor.encode(table))
        with pytest.raises(EnvelopeError) as caught:
            line.opener.open(line.topics.event("door"), sealed)
        assert secret not in str(caught.value)
