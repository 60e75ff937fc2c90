"""The door to MQTT: what protects the hop, and that every refusal says what to do. All against a real mosquitto."""

import socket
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from agent.demo.pki import Authority
from agent.errors import ConfigError, UplinkError
from agent.mqtt import Link, Message
from agent.settings.uplink import UplinkConfig
from agent.strict import build
from tests.broker import Mosquitto, mosquitto
from tests.lite import until


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with mosquitto(tmp_path_factory.mktemp("mqtt")) as made:
        yield made


def refusal(config, name="someone"):
    """Why a connection is refused."""
    with Link(config, name) as link, pytest.raises((UplinkError, ConfigError)) as caught:
        link.connect()
    return str(caught.value)


def test_tls_13_with_a_client_certificate(broker):
    """The certificate's common name is the user; messages flow, and acknowledgements come back."""
    with Link(broker.uplink(tls=True), "tls") as link:
        link.connect()
        assert link._client.socket().version() == "TLSv1.3"
        mid = link.publish(Message("limpet/v1/site/device/e/door", b"x"))
        assert until(lambda: (link.turn(0.05), link.acks)[1])
        assert (link.acks[0].mid, link.acks[0].refused) == (mid, False)


def test_a_denied_publish_is_reported(broker):
    """MQTT v5 says so; nothing is taken for delivered."""
    with Link(broker.uplink(), "denied") as link:
        link.connect()
        link.publish(Message("elsewhere", b"x"))
        assert until(lambda: (link.turn(0.05), link.acks)[1])
        assert link.acks[0].refused
        assert link.acks[0].code == 0x87


def test_a_wrong_password(broker, tmp_path):
    """Says which keys to check."""
    (tmp_path / "word").write_text("wrong\n")
    said = refusal(broker.uplink(password_file=tmp_path / "word"))
    assert "refused the connection" in said
    assert "check user and password" in said


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), (b"", "empty"), (b"\xff\xfe", "not text")])
def test_a_password_file_that_cannot_be_used(broker, tmp_path, content, words):
    """Names the file and the reason, and never the password."""
    path = tmp_path / "word"
    if content is not None:
        path.write_bytes(content)
    said = refusal(broker.uplink(password_file=path))
    assert str(path) in said
    assert words in said


def test_an_authority_that_we_do_not_trust(broker, tmp_path):
    """The broker's certificate is by another authority."""
    (tmp_path / "other.pem").write_bytes(Authority.new("Somebody else", datetime.now(UTC)).pem())
    said = refusal(broker.uplink(tls=True, ca_file=tmp_path / "other.pem"))
    assert "certificate is refused" in said
    assert "ca_file" in said


def test_the_system_authorities_do_not_vouch_for_a_private_one(broker):
    """Without ca_file the system's store decides."""
    assert "ca_file" in refusal(broker.uplink(tls=True, ca_file=None))


def test_a_broker_with_another_name(broker):
    """The certificate is for localhost, not for the address asked for."""
    said = refusal(broker.uplink(tls=True, broker=f"mqtts://127.0.0.2:{broker.tls_port}"))
    assert "127.0.0.2" in said


def test_our_own_certificate_has_expired(broker):
    """TLS 1.3 tells it after the handshake; the message still names it."""
    pair = broker.past_certificate("device")
    said = refusal(broker.uplink(tls=True, certificate=pair.certificate, key=pair.key))
    assert "expired" in said
    assert "[uplink] certificate" in said


def test_a_client_certificate_is_missing(broker):
    """The broker asks for one."""
    said = refusal(broker.uplink(tls=True, certificate=None, key=None))
    assert "client certificate" in said


def test_the_brokers_certificate_has_expired(tmp_path):
    """An expired server certificate is refused, with the clock as a possible cause."""
    broker = Mosquitto(tmp_path / "old")
    broker.folder.mkdir()
    broker.prepare()
    past = datetime(2020, 1, 1, tzinfo=UTC)
    old = Authority(broker.authority.certificate, broker.authority._key, past)
    (broker.folder / "old").mkdir()
    broker.server = old.server(broker.folder / "old", "server")
    broker.configure()
    broker.start()
    try:
        said = refusal(broker.uplink(tls=True))
    finally:
        broker.kill()
    assert "expired" in said
    assert "clock" in said


def test_files_that_are_no_certificates(broker, tmp_path):
    """A key that does not belong to the certificate, a file that is not PEM, one that is missing."""
    other = Authority.new("x", datetime.now(UTC)).client(tmp_path, "other")
    assert "belong" in refusal(broker.uplink(tls=True, key=other.key))
    (tmp_path / "junk").write_text("junk")
    assert "PEM" in refusal(broker.uplink(tls=True, ca_file=tmp_path / "junk"))
    assert "No such file" in refusal(broker.uplink(tls=True, ca_file=tmp_path / "none"))


def test_nobody_listens():
    """Connection refused, in words."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "cannot be reached" in refusal(UplinkConfig(broker=f"mqtt://127.0.0.1:{port}"))


def test_somebody_listens_who_says_nothing():
    """A port that accepts and then stays silent does not hold the lane for longer than the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = UplinkConfig(broker=f"mqtt://127.0.0.1:{server.getsockname()[1]}", connect_timeout_s=1)
        start = time.monotonic()
        assert "said nothing" in refusal(config)
        assert time.monotonic() - start < 4


def test_somebody_answers_with_garbage():
    """What cannot be read ends the connection with an error, not the lane."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer():
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(bytes([0x20, 0x05, 0x00, 0x00, 0xFF, 0xFF, 0xFF]) + b"\xff" * 50)
                time.sleep(0.2)

        thread = threading.Thread(target=answer)
        thread.start()
        config = UplinkConfig(broker=f"mqtt://127.0.0.1:{server.getsockname()[1]}", connect_timeout_s=2)
        assert "broker 127.0.0.1" in refusal(config)
        thread.join()


def test_a_port_that_speaks_no_tls(broker):
    """mqtts:// to the plain port."""
    said = refusal(broker.uplink(tls=True, broker=f"mqtts://localhost:{broker.port}"))
    assert "TLS" in said or "cannot be reached" in said


def test_a_link_publishes_only_while_connected(tmp_path):
    """After the broker has gone nothing can be handed over: no volatile queue."""
    with mosquitto(tmp_path) as broker, Link(broker.uplink(), "cut") as link:
        link.connect()
        broker.kill()
        assert until(lambda: not link.turn(0.1))
        assert link.trouble not in ("", "conn lost"), "words, not the name of a code"
        with pytest.raises(UplinkError, match="not connected"):
            link.publish(Message("limpet/v1/site/device/status", b"x"))


def test_a_wake_ends_a_wait_at_once(broker):
    """A new event does not wait for the network's timeout."""
    with Link(broker.uplink(), "wake") as link:
        link.connect()
        threading.Timer(0.1, link.wake).start()
        start = time.monotonic()
        link.turn(5)
        assert time.monotonic() - start < 2


def test_no_wake_is_lost_however_threads_interleave(broker):
    """Two threads wake as fast as they can while a third waits: it never sleeps for long."""
    ended, switch_s = threading.Event(), sys.getswitchinterval()

    def wake(link):
        while not ended.is_set():
            link.wake()

    with Link(broker.uplink(), "woken") as link:
        link.connect()
        threads = [threading.Thread(target=wake, args=(link,)) for _ in range(2)]
        try:
            sys.setswitchinterval(1e-6)
            for thread in threads:
                thread.start()
            begun_s = time.monotonic()
            while time.monotonic() < begun_s + 2:
                turn_s = time.monotonic()
                assert link.turn(1.5)
                assert time.monotonic() < turn_s + 1, "it slept although it was woken"
        finally:
            sys.setswitchinterval(switch_s)
            ended.set()
            for thread in threads:
                thread.join()


def test_a_refused_subscription_says_which(broker):
    """A reader without the right to read is told to mend the access list; mosquitto hides it for v5 wildcards."""
    with Link(broker.uplink("reader"), "reading") as link:
        link.connect()
        link.subscribe(["limpet/#"])
    assert link.trouble


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"broker": "mqtt://10.0.0.5"}, "cleartext"),
        ({"broker": "mqtt://broker.example.org", "allow_cleartext_lan": False}, "allow_cleartext_lan"),
        ({"broker": "http://x"}, "mqtts://host:port"),
        ({"broker": "mqtts://x:99999"}, "out of range"),
        ({"certificate": "a.pem"}, "belong together"),
        ({"username": "a"}, "belong together"),
        ({"window": 5000}, "out of range"),
        ({"windw": 5}, "did you mean 'window'"),
    ],
)
def test_settings_that_cannot_work_are_refused(table, words):
    """Each with the key and what is allowed."""
    with pytest.raises(ConfigError, match=r"limpet.toml \[uplink\]") as caught:
        build(UplinkConfig, table, "limpet.toml [uplink]")
    assert words in str(caught.value)


def test_cleartext_is_for_private_addresses_only():
    """Even when allowed, a name that leads to the public network is refused before a byte is sent."""
    config = UplinkConfig(broker="mqtt://203.0.113.7", allow_cleartext_lan=True)
    assert UplinkConfig(broker="mqtt://10.1.2.3", allow_cleartext_lan=True).host == "10.1.2.3"
    assert config.port == 1883
    public = UplinkConfig(broker="mqtt://8.8.8.8", allow_cleartext_lan=True)
    with Link(public, "x") as link, pytest.raises(UplinkError, match="private"):
        link.connect()
    assert UplinkConfig(broker="mqtts://[::1]").port == 8883
    assert UplinkConfig(broker="mqtts://[::1]:1234").host == "::1"
