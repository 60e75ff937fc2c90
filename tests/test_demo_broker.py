"""Both brokers of the demo are real: TLS, passwords, access lists, WebSocket, and they come back after a kill."""

import datetime as dt
import ssl
import stat
import subprocess
import threading
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.demo import broker as brokers
from agent.demo.broker import Account, BrokerPlan, choose
from agent.demo.pki import make_keys
from agent.errors import ConfigError, UplinkError

ACCOUNTS = (
    Account("device", read=("limpet/v1/s/d/req/#",), write=("limpet/v1/s/d/#",)),
    Account("reader", read=("limpet/v1/#",)),
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """One set of demo keys for all tests of this file."""
    return make_keys(tmp_path_factory.mktemp("pki") / "keys", dt.datetime.now(dt.UTC))


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request, keys, tmp_path):
    """A running broker of each kind."""
    with started(request.param, keys, tmp_path) as it:
        yield it


def started(kind, keys, folder, **options):
    """The broker of that kind, or a skip that says why not."""
    plan = BrokerPlan(folder / "broker", keys, ACCOUNTS, **options)
    try:
        return choose(plan, kind)
    except ConfigError as exc:
        pytest.skip(str(exc))


class Client:
    """A paho client that remembers what it was told."""

    def __init__(self, broker, name, websocket=False, password=None, certificate=True, client_id=None, clean=True):
        v5 = broker.protocol == "5"
        self.connack, self.messages, self.acks = [], [], []
        self.changed = threading.Condition()
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=client_id or f"{name}-{id(self)}",
            protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
            transport="websockets" if websocket else "tcp",
            **({} if v5 else {"clean_session": clean}),
        )
        self.paho.on_connect = lambda c, u, f, code, p: self._note(self.connack, (code, f.session_present))
        self.paho.on_message = lambda c, u, m: self._note(self.messages, (m.topic, m.payload, m.retain))
        self.paho.on_publish = lambda c, u, mid, code, p: self._note(self.acks, code)
        self.paho.on_subscribe = lambda c, u, mid, codes, p: self._note(self.acks, codes)
        keys = broker.plan.keys
        self.paho.username_pw_set(name, keys.passwords[name].read_text() if password is None else password)
        if not websocket:
            pair = keys.clients[name]
            files = {"certfile": pair.certificate, "keyfile": pair.key} if certificate else {}
            self.paho.tls_set(keys.authority, **files)
        port = broker.websocket_port if websocket else broker.port
        # Once clean, then the same session: mosquitto 2.0.11 hangs up after a publish that it refuses.
        start = paho.MQTT_CLEAN_START_FIRST_ONLY if clean else False
        options = {"clean_start": start, "properties": expiry(600)} if v5 else {}
        self.paho.connect("127.0.0.1", port, keepalive=20, **options)
        self.paho.loop_start()

    def _note(self, where, what):
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def wait(self, where, count=1, timeout_s=10):
        """Wait until `where` holds `count` entries; returns it."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(where) >= count, timeout_s), f"{len(where)} of {count} came"
        return where

    def publish(self, topic, payload, retain=False):
        self.paho.publish(topic, payload, qos=1, retain=retain)

    def __enter__(self):
        self.wait(self.connack)
        return self

    def __exit__(self, *_):
        self.paho.disconnect()
        self.paho.loop_stop()


def expiry(seconds):
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = seconds
    return properties


def test_events_travel_from_the_device_to_a_terminal_and_to_a_browser(broker):
    """TLS on one side, WebSocket on the other; the retained status is there for who comes late."""
    with Client(broker, "device") as device:
        device.publish("limpet/v1/s/d/status", b"online", retain=True)
        device.wait(device.acks)
        with Client(broker, "reader") as terminal, Client(broker, "reader", websocket=True) as browser:
            for reader in (terminal, browser):
                reader.paho.subscribe("limpet/v1/#", qos=1)
                reader.wait(reader.acks)
                assert reader.wait(reader.messages) == [("limpet/v1/s/d/status", b"online", True)]
            for n in range(20):
                device.publish("limpet/v1/s/d/e/camera", bytes([n]))
            for reader in (terminal, browser):
                payloads = [payload for _, payload, _ in reader.wait(reader.messages, 21)]
                assert payloads == [b"online"] + [bytes([n]) for n in range(20)]


def test_a_wrong_password_is_refused(broker):
    """On the WebSocket listener, where nothing else proves who it is."""
    client = Client(broker, "reader", websocket=True, password="wrong")
    code, _ = client.wait(client.connack)[0]
    client.paho.loop_stop()
    assert code.is_failure


def test_nobody_writes_or_reads_what_is_not_theirs(broker):
    """A reader cannot publish; a device cannot read another device."""
    with Client(broker, "reader") as reader, Client(broker, "device") as device:
        reader.paho.subscribe("limpet/v1/#", qos=1)
        reader.wait(reader.acks)
        device.paho.subscribe("limpet/v1/s/other/#", qos=1)
        device.wait(device.acks)
        reader.publish("limpet/v1/s/d/e/camera", b"forged")
        device.publish("limpet/v1/s/other/e/camera", b"not mine")
        device.publish("limpet/v1/s/d/e/camera", b"mine")
        assert [payload for _, payload, _ in reader.wait(reader.messages)] == [b"mine"]
        time.sleep(0.3)
        assert device.messages == []
        assert [payload for _, payload, _ in reader.messages] == [b"mine"]
        if broker.protocol == "5":  # v3.1.1 has no way to say so
            assert device.wait(device.acks, 3)[1].is_failure


def test_an_absent_reader_finds_every_message_that_mosquitto_acknowledged(keys, tmp_path):
    """More than a thousand, where its default begins to drop. (amqtt loses some: it is for first looks.)"""
    count = 1500
    with started("mosquitto", keys, tmp_path) as broker:
        absent_reader(broker, count)


def absent_reader(broker, count):
    """Subscribe, leave, publish, come back: all are there."""
    with Client(broker, "reader", client_id="r1", clean=False) as reader:
        reader.paho.subscribe("limpet/v1/#", qos=1)
        reader.wait(reader.acks)
    with Client(broker, "device") as device:
        for n in range(count):
            device.publish("limpet/v1/s/d/e/camera", str(n).encode())
        device.wait(device.acks, count, 30)
    with Client(broker, "reader", client_id="r1", clean=False) as reader:
        assert reader.connack[0][1], "the session was lost"
        payloads = {payload for _, payload, _ in reader.wait(reader.messages, count, 30)}
        assert payloads == {str(n).encode() for n in range(count)}


def test_it_comes_back_on_the_same_ports_after_a_kill(broker):
    """Kill, start: the same address accepts again, and stop is quick."""
    ports, first = (broker.port, broker.websocket_port), broker.pid
    broker.kill()
    assert broker.pid is None
    broker.start()
    assert (broker.port, broker.websocket_port) == ports
    assert broker.pid not in {None, first}
    with Client(broker, "device") as device:
        assert not device.connack[0][0].is_failure
    before = time.monotonic()
    broker.stop()
    assert time.monotonic() - before < brokers.STOP_S


def test_mosquitto_keeps_what_it_acknowledged_over_a_restart(keys, tmp_path):
    """Persistence is on: a message for an absent reader survives the end of the broker."""
    with started("mosquitto", keys, tmp_path) as broker:
        with Client(broker, "reader", client_id="r1", clean=False) as reader:
            reader.paho.subscribe("limpet/v1/#", qos=1)
            reader.wait(reader.acks)
        with Client(broker, "device") as device:
            device.publish("limpet/v1/s/d/e/camera", b"kept")
            device.wait(device.acks)
        broker.stop()
        broker.start()
        with Client(broker, "reader", client_id="r1", clean=False) as reader:
            assert reader.wait(reader.messages)[0][1] == b"kept"


def test_mosquitto_asks_for_a_client_certificate(keys, tmp_path):
    """Without one the handshake fails; the certificate's name is the user, whatever the password says."""
    with started("mosquitto", keys, tmp_path) as broker:
        with Client(broker, "device", password="ignored") as device:
            assert not device.connack[0][0].is_failure
        with pytest.raises((ssl.SSLError, AssertionError, OSError)):
            client = Client(broker, "device", certificate=False)
            try:
                client.wait(client.connack, timeout_s=2)
            finally:
                client.paho.loop_stop()


def test_mosquitto_takes_passwords_over_tls_when_told(keys, tmp_path):
    """For clients that have no certificate."""
    with started("mosquitto", keys, tmp_path, client_certificates=False) as broker:
        with Client(broker, "device", certificate=False) as device:
            assert not device.connack[0][0].is_failure
        client = Client(broker, "device", certificate=False, password="wrong")
        assert client.wait(client.connack)[0][0].is_failure
        client.paho.loop_stop()


def test_nobody_else_can_read_what_a_broker_was_given(broker):
    """Folder 0700; passwords, configuration and private keys 0600."""
    ours, keys = broker.plan.folder, broker.plan.keys.folder
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (ours, keys)} == {0o700}
    secret = [*ours.glob("*"), *keys.glob("*.key"), *keys.glob("*.password")]
    assert len(secret) >= 8
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_a_broker_that_cannot_start_says_why(keys, tmp_path):
    """A fixed port that is taken: its own last words and the name of its log."""
    with started("mosquitto", keys, tmp_path / "a") as first:
        second = started("mosquitto", keys, tmp_path / "b", port=first.port)
        with pytest.raises(UplinkError, match=r"did not start.*in use.*broker\.log"):
            second.start()
        assert second.pid is None


def test_which_broker_is_used_is_said_in_words(keys, tmp_path, monkeypatch):
    """Without mosquitto the embedded one takes its place, and the screen says what it cannot do."""
    plan = BrokerPlan(tmp_path, keys, ACCOUNTS)
    monkeypatch.setattr(brokers.shutil, "which", lambda *_, **__: None)
    broker = choose(plan)
    assert (broker.kind, broker.protocol, broker.client_certificates) == ("amqtt", "3.1.1", False)
    assert "cannot report refused messages" in broker.words
    with pytest.raises(ConfigError, match="install the package mosquitto"):
        choose(plan, "mosquitto")


def test_the_certificates_pass_strict_verification(keys):
    """OpenSSL's own verdict, with the strict flag that Python 3.13 sets by default."""
    for certificate in (keys.server.certificate, *(pair.certificate for pair in keys.clients.values())):
        command = ["openssl", "verify", "-x509_strict", "-CAfile", str(keys.authority), str(certificate)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
