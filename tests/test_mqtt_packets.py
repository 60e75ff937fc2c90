"""The two packets that do not pass through paho, and the stream below: against paho, mosquitto and bare sockets."""

import os
import select
import socket
import threading
import time

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.errors import UplinkError
from agent.mqtt import Link, Message, packets
from agent.mqtt.stream import Stream
from agent.settings.uplink import UplinkConfig
from tests.broker import listening, mosquitto
from tests.lite import until

PLACE = "limpet/v1/site/device/e/door"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with mosquitto(tmp_path_factory.mktemp("packets")) as made:
        yield made


class Wire:
    """A socket that keeps what paho sends."""

    def __init__(self):
        self.sent = b""

    def send(self, data):
        self.sent += data
        return len(data)

    def fileno(self):
        return -1

    def close(self):
        return


@pytest.mark.parametrize("size", [0, 1, 90, 127, 128, 16_383, 16_384, 2_097_152])
@pytest.mark.parametrize(("v5", "expiry_s"), [(True, None), (True, 3600), (False, None)])
@pytest.mark.parametrize("retain", [False, True])
def test_a_publish_is_what_paho_would_send(size, v5, expiry_s, retain):
    """Byte for byte, at every length of the length, with and without what MQTT 5 adds."""
    protocol = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
    client = Client(CallbackAPIVersion.VERSION2, "x", protocol=protocol)
    client._sock = wire = Wire()
    properties = None
    if expiry_s is not None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.MessageExpiryInterval = expiry_s
    payload = os.urandom(size)
    mid = client.publish("türen/e", payload, 1, retain, properties).mid
    client._sock = None
    assert packets.publish(mid, "türen/e", payload, retain=retain, v5=v5, expiry_s=expiry_s) == wire.sent


OTHERS = (
    b"\x20\x03\x00\x00\x00",  # CONNACK
    b"\xd0\x00",  # PINGRESP
    b"\x90\x04\x00\x01\x00\x01",  # SUBACK
    b"\x30" + packets.length(300) + b"\x00\x01x" + b"\x40\x02\x00\x09" * 74 + b"!",  # PUBLISH that looks like PUBACKs
    b"\x40\x01\x00",  # a PUBACK that is too short to be one
)
ACKS = (
    (7, 0x00, b"\x40\x02\x00\x07"),
    (65535, 0x10, b"\x40\x03\xff\xff\x10"),
    (4096, 0x87, b"\x40\x04\x10\x00\x87\x00"),
    (300, 0x97, b"\x40" + packets.length(205) + b"\x01\x2c\x97" + packets.length(200) + b"\x1f\x00\xc5" + b"w" * 197),
)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 100_000])
def test_the_sieve_takes_every_acknowledgement_and_nothing_else(step):
    """However the bytes are cut on their way."""
    data = b"".join(other + ack for other, (_, _, ack) in zip(OTHERS, (*ACKS, ACKS[0]), strict=True))
    found = []
    sieve = packets.Sieve(lambda mid, code: found.append((mid, code)))
    passed = b"".join(sieve.sift(data[at : at + step]) for at in range(0, len(data), step))
    assert found == [(mid, code) for mid, code, _ in (*ACKS, ACKS[0])]
    assert passed == b"".join(OTHERS)


def test_a_length_that_is_none_passes():
    """paho sees it, and says so."""
    sieve = packets.Sieve(lambda *_: pytest.fail("an acknowledgement of nothing"))
    assert sieve.sift(b"\x40\xff\xff\xff\xff\x01") == b"\x40\xff\xff\xff\xff\x01"


def test_what_the_network_does_not_take_leaves_later_and_in_order():
    """More than the socket's buffers hold, read at the other end in one piece."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        mine = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    with peer:
        mine.setblocking(False)
        stream = Stream(mine, lambda data: data)
        said = os.urandom(8 << 20)
        for at in range(0, len(said), 1000):
            stream.send(said[at : at + 1000])
        stream.flush()
        assert stream.unsent, "the buffers took eight megabytes at once"
        heard = bytearray()
        while len(heard) < len(said):
            readable, writable, _ = select.select([peer], [stream] if stream.unsent else [], [], 5)
            assert readable or writable
            heard += peer.recv(1 << 20) if readable else b""
            stream.flush()
        assert not stream.unsent
        stream.close()
        assert bytes(heard) == said
        assert peer.recv(1) == b""


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_window_of_messages_is_acknowledged_one_by_one(broker, tls, protocol):
    """From empty to larger than a record; a reader gets them whole and in order, and each answer comes once."""
    sizes = [0, 1, 354, 16_000, 70_000, *[354] * 45]
    payloads = [os.urandom(size) for size in sizes]
    config, name = broker.uplink(tls=tls, protocol=protocol), f"{protocol}-{tls}"
    with listening(broker, name=f"reader-{name}") as reader, Link(config, name) as link:
        link.connect()
        mids = [link.publish(Message(PLACE, payload)) for payload in payloads]
        assert len(set(mids)) == len(mids)
        assert until(lambda: (link.turn(0.05), len(link.acks) == len(mids))[1])
        assert sorted(ack.mid for ack in link.acks) == sorted(mids)
        assert not any(ack.refused for ack in link.acks)
        got = []
        assert until(lambda: (reader.turn(0.05), got.extend(reader.received), reader.received.clear(),
                              len([m for m in got if m.topic == PLACE]) >= len(mids))[-1])  # fmt: skip
        assert [m.payload for m in got if m.topic == PLACE] == payloads


def test_packet_ids_start_over_and_pass_over_those_under_way(broker):
    """70,000 messages need more ids than there are; one that is still open is not given again."""
    with Link(broker.uplink(), "ids") as link:
        link.connect()
        link._mid = 65_533
        mids = [link.publish(Message(PLACE, b"x")) for _ in range(3)]
        link._mid = 65_533
        again = link.publish(Message(PLACE, b"y"))
        assert mids == [65_534, 65_535, 4096]
        assert again == 4097
        assert until(lambda: (link.turn(0.05), len(link.acks) == 4)[1])


def test_an_answer_that_came_before_the_end_counts():
    """The other side acknowledges and hangs up: what it took is not sent again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = UplinkConfig(broker=f"mqtt://127.0.0.1:{server.getsockname()[1]}", connect_timeout_s=3)
        with Link(config, "cut") as link:
            greeted = _greeting(server, link)
            mid = link.publish(Message(PLACE, b"x"))
            link.flush()
            assert greeted.recv(1000)[:1] == b"\x32"
            greeted.sendall(b"\x40\x02" + mid.to_bytes(2, "big"))
            greeted.close()
            end_s = time.monotonic() + 5
            while link.turn(0.05) and time.monotonic() < end_s:
                pass
            assert [(ack.mid, ack.refused) for ack in link.acks] == [(mid, False)]
            assert link.trouble
            with pytest.raises(UplinkError, match="not connected"):
                link.publish(Message(PLACE, b"x"))


def _greeting(server, link):
    """Accept the link's connection and welcome it."""
    found = []

    def welcome():
        peer, _ = server.accept()
        peer.recv(1000)
        peer.sendall(b"\x20\x03\x00\x00\x00")
        found.append(peer)

    thread = threading.Thread(target=welcome)
    thread.start()
    link.connect()
    thread.join()
    return found[0]
