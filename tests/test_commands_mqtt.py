"""Commands over a real mosquitto: nothing is lost, nothing runs twice, and the broker shows what the rows say."""

import contextlib
import threading
import time

import pytest

from agent.broker import Message
from agent.clock import SystemClock
from agent.envelope import PlainSealer, Topics
from agent.mqtt import Link
from agent.progress import TERMINAL
from agent.request import sign_request
from agent.uplink import Uplink
from agent.uplink.conversation import Subject
from tests.broker import ACL, collect, listening, mosquitto
from tests.desk import DEVICE, SITE, Bench, move, topic
from tests.lite import Keys, Listener, open_store, running, until


@pytest.fixture
def broker(tmp_path):
    with mosquitto(tmp_path) as made:
        yield made


class Rig(Bench):
    """A desk behind a real uplink: keys, store and broker."""

    def __init__(self, folder, broker, protocol="5", keys=None, **config):
        super().__init__(folder, **config)
        self.broker, self.protocol = broker, protocol
        self.envelope = keys or Keys()

    @contextlib.contextmanager
    def online(self):
        """The device runs until the end of the block; it has subscribed when the block begins."""
        with open_store(self.folder / "outbox") as store, self.running() as self.desk:
            subject = Subject(Topics(SITE, DEVICE), lambda: {"commands": self.desk.facet()}, requests=self.port)
            config = self.broker.uplink(protocol=self.protocol)
            make = self.envelope.sealer if self.envelope else PlainSealer
            self.uplink = Uplink(config, subject, store, make, SystemClock(), open_link=Link)
            with running(store.run, self.uplink.run):
                assert until(lambda: self.port._connection > self.before + 1 and not self.port._unsent)  # it listens
                yield self

    def connected(self):
        return until(lambda: self.uplink.stats()["connected"])

    @contextlib.contextmanager
    def technician(self, name="technician"):
        """A link of the account "root" that listens to everything, and its opener."""
        with listening(self.broker, name=name) as link:
            yield Listener(link, self.envelope.opener())


def publish(listener, request, data, expiry_s=None):
    """Send a request as a technician's tool does."""
    target = request.target
    listener.link.publish(Message(topic(target.operation, target.id), data, expiry_s=expiry_s))


def last_state(listener, id_):
    """The newest state that was opened: one under an older key is opened when that key has come, perhaps later."""
    states = [o.body for o in listener.opened if o.place == "state" and o.name.endswith(f"/{id_}")]
    return max(states, key=lambda state: state["version"], default={"status": None})


def wait_state(listener, id_, status, timeout_s=10.0):
    assert listener.read(lambda: last_state(listener, id_)["status"] == status, timeout_s), last_state(listener, id_)
    return last_state(listener, id_)


def test_a_request_is_done_and_its_states_are_sealed_signed_and_retained(tmp_path, broker):
    """The whole way through the broker; who comes later reads the end of it from the retained state."""
    rig = Rig(tmp_path, broker)
    with rig.online(), rig.technician() as ann:
        request, data = rig.signed()
        publish(ann, request, data)
        wait_state(ann, request.target.id, "executing")
        rig.slow.moves[request.target.id] = move("successful", detail={"to": "1.1.0"})
        said = wait_state(ann, request.target.id, "successful")
        assert (said["detail"], said["by"], said["operation"]) == ({"to": "1.1.0"}, "technician", "update")
        assert all(o.sealed and o.signed for o in ann.opened if o.place == "state")
        assert {o.name for o in ann.opened if o.place == "capability"} == set(rig.desk._table)
        facet = [o.body for o in ann.opened if (o.place, o.name) == ("twin", "commands")][-1]
        assert facet["clock_trusted"] is True
        assert len(bytes.fromhex(facet["nonce"])) == 8
        with rig.technician("latecomer") as late:
            assert wait_state(late, request.target.id, "successful") == said


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_acknowledgement_waits_for_the_row(tmp_path, broker, protocol):
    """While the journal refuses nothing is acknowledged; the broker delivers again after the connection broke."""
    rig = Rig(tmp_path, broker, protocol)
    with rig.online(), rig.technician() as ann:
        assert rig.connected()
    held = []
    request, data = rig.signed()
    with Link(broker.uplink(protocol=protocol), "limpet-site-device") as link, rig.technician() as ann:
        link.connect(16, 16384)
        publish(ann, request, data)
        held += collect(link, lambda found: ann.link.turn(0.01) and found)
        assert held[0].mid  # taken, and never answered: as if the power went before the row was durable
    with rig.online(), rig.technician() as ann:
        wait_state(ann, request.target.id, "executing")
    assert rig.slow.begun == [request.target.id]


def test_a_duplicate_delivery_runs_once_and_is_answered_again(tmp_path, broker):
    """QoS 1 means one or more times, also across a restart of the device."""
    rig = Rig(tmp_path, broker)
    with rig.online(), rig.technician() as ann:
        request, data = rig.signed()
        for _ in range(3):
            publish(ann, request, data)
        wait_state(ann, request.target.id, "executing")
        rig.slow.moves[request.target.id] = move("successful")
        wait_state(ann, request.target.id, "successful")
    with rig.online(), rig.technician() as ann:
        publish(ann, request, data)
        wait_state(ann, request.target.id, "successful")
    assert rig.slow.begun == [request.target.id]


def test_out_of_order_the_older_one_is_refused(tmp_path, broker):
    """The counter of a key only goes up; the refusal says what to do."""
    rig = Rig(tmp_path, broker)
    with rig.online(), rig.technician() as ann:
        old, old_data = rig.signed()
        new, new_data = rig.signed()
        publish(ann, new, new_data)
        wait_state(ann, new.target.id, "executing")
        publish(ann, old, old_data)
        assert "sign it anew" in wait_state(ann, old.target.id, "failed")["text"]
    assert rig.slow.begun == [new.target.id]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_device_that_is_away_gets_the_request_when_it_comes_back(tmp_path, broker, protocol):
    """Persistent session: the requester has long gone, and the broker was restarted meanwhile."""
    rig = Rig(tmp_path, broker, protocol)
    with rig.online(), rig.technician():
        assert rig.connected()
    request, data = rig.signed()
    with rig.technician() as ann:
        publish(ann, request, data, expiry_s=600)
        assert until(lambda: (ann.link.turn(0.05), ann.link.acks)[1])
    broker.restart()
    with rig.online(), rig.technician() as ann:
        wait_state(ann, request.target.id, "executing")
    assert rig.slow.begun == [request.target.id]


def test_a_request_whose_time_is_over_is_forgotten_by_the_broker(tmp_path, broker):
    """Message expiry: what the device could only refuse does not reach it at all."""
    rig = Rig(tmp_path, broker)
    with rig.online(), rig.technician():
        assert rig.connected()
    request, data = rig.signed()
    with rig.technician() as ann:
        publish(ann, request, data, expiry_s=1)
        assert until(lambda: (ann.link.turn(0.05), ann.link.acks)[1])
    time.sleep(2.1)
    with rig.online(), rig.technician() as ann:
        later, more = rig.signed()
        publish(ann, later, more)
        wait_state(ann, later.target.id, "executing")
    assert rig.slow.begun == [later.target.id]
    assert not any(request.target.id in line for line in rig.audit())


def test_a_wiped_broker_is_told_everything_again(tmp_path, broker):
    """Retained states, capabilities and the subscription come back by themselves; requests work again."""
    rig = Rig(tmp_path, broker)
    with rig.online():
        with rig.technician() as ann:
            request, data = rig.signed()
            publish(ann, request, data)
            wait_state(ann, request.target.id, "executing")
        broker.kill()
        (broker.folder / "mosquitto.db").unlink()
        rig.slow.moves[request.target.id] = move("successful")
        assert until(lambda: not rig.desk._work.busy)
        broker.start()
        with rig.technician("afterwards") as ann:
            wait_state(ann, request.target.id, "successful", 20)
            assert {o.name for o in ann.opened if o.place == "capability"} == set(rig.desk._table)
            again, more = rig.signed()
            publish(ann, again, more)
            wait_state(ann, again.target.id, "executing", 20)


@pytest.mark.parametrize("status", ["executing", "download", "probation"])
def test_h1_offline_in_a_state_the_end_is_told_after_the_reconnect(tmp_path, broker, status):
    """The network goes in the middle; the device comes to its end alone and says so when it can."""
    rig = Rig(tmp_path, broker)
    with rig.online():
        with rig.technician() as ann:
            request, data = rig.signed()
            publish(ann, request, data)
            if status != "executing":
                wait_state(ann, request.target.id, "executing")
                rig.slow.moves[request.target.id] = move(status)
            wait_state(ann, request.target.id, status)
        broker.stop()
        assert until(lambda: not rig.uplink.stats()["connected"])
        rig.clock.mono_ahead_s += 40 * 86400.0
        assert until(lambda: not rig.desk._work.busy)
        broker.start()
        with rig.technician("afterwards") as ann:
            assert wait_state(ann, request.target.id, "failed", 20)["reason"] == "TIMED_OUT"


def test_states_are_sealed_anew_under_every_key(tmp_path, broker):
    """A reader that comes after the key changed can still open the last state."""
    rig = Rig(tmp_path, broker, keys=Keys(epoch_s=1.0))
    with rig.online(), rig.technician() as ann:
        request, data = rig.signed("viewer", "ping")
        publish(ann, request, data)
        wait_state(ann, request.target.id, "successful")
        first = len([o for o in ann.opened if o.name.endswith(request.target.id)])
        assert ann.read(lambda: len([o for o in ann.opened if o.name.endswith(request.target.id)]) >= first + 2)


def test_e10_a_retained_request_is_never_run(tmp_path, broker):
    """Neither when it is sent nor at any later start."""
    rig = Rig(tmp_path, broker)
    request, data = rig.signed()
    with rig.technician() as ann:
        ann.link.publish(Message(topic("update", request.target.id), data, retain=True))
        assert until(lambda: (ann.link.turn(0.05), ann.link.acks)[1])
    with rig.online(), rig.technician() as ann:
        other, more = rig.signed()
        ann.link.publish(Message(topic("update", other.target.id), more, retain=True))
        honest, last = rig.signed()
        publish(ann, honest, last)
        wait_state(ann, honest.target.id, "executing")
    assert rig.slow.begun == [honest.target.id]


def test_mqtt_311_ignores_what_was_retained_before_it_came(tmp_path, broker):
    """The older protocol shows the flag only for what the broker had kept, and sends that at every connection."""
    rig = Rig(tmp_path, broker, "3.1.1")
    with rig.online():
        assert rig.connected()
        request, data = rig.signed()
    with rig.technician() as ann:
        ann.link.publish(Message(topic("update", request.target.id), data, retain=True))
        assert until(lambda: (ann.link.turn(0.05), ann.link.acks)[1])
    broker.kill()  # the session and its queue are lost, the retained message is put back
    (broker.folder / "mosquitto.db").unlink()
    broker.start()
    with rig.technician() as ann:
        ann.link.publish(Message(topic("update", request.target.id), data, retain=True))
        assert until(lambda: (ann.link.turn(0.05), ann.link.acks)[1])
    with rig.online(), rig.technician() as ann:
        honest, last = rig.signed()
        publish(ann, honest, last)
        wait_state(ann, honest.target.id, "executing")
    assert rig.slow.begun == [honest.target.id]


def test_a_thousand_hostile_requests_over_the_broker_keep_events_and_commands_flowing(tmp_path, broker):
    """They are refused and acknowledged; what waits in memory is bounded, and an honest request still passes."""
    rig = Rig(tmp_path, broker)
    with rig.online(), rig.technician() as ann:
        assert rig.connected()
        ann.read(lambda: any(o.place == "capability" for o in ann.opened))
        for number in range(1000):
            ann.link.publish(Message(topic("update", f"evil{number}"), b"\xd2" + bytes(150)))
            if number % 50 == 49:  # all at once, the broker would drop what its queue has no room for
                assert until(lambda most=number: (ann.link.turn(0.05), len(ann.link.acks) > most)[1])
        honest, data = rig.signed()
        publish(ann, honest, data)
        most = 0
        end_s = time.monotonic() + 30
        while last_state(ann, honest.target.id)["status"] != "executing" and time.monotonic() < end_s:
            most = max(most, len(rig.port._arrived))
            ann.read(lambda: last_state(ann, honest.target.id)["status"] == "executing", 0.05)
        assert last_state(ann, honest.target.id)["status"] == "executing"
        assert most <= 128
        assert not [o for o in ann.opened if o.place == "state" and "evil" in o.name]
    assert rig.port.turned_away == 0


def test_a_broker_that_refuses_the_subscription_still_gets_the_events(tmp_path):
    """Commands are not worth losing events for; what is wrong is said."""
    acl = ACL.replace("topic readwrite limpet/v1/site/device/#", "topic write limpet/v1/site/device/#")
    with mosquitto(tmp_path, acl=acl) as broker:
        rig = Rig(tmp_path, broker)
        with rig.online(), rig.technician() as ann:
            assert rig.connected()
            assert ann.read(lambda: any(o.place == "twin" for o in ann.opened))
            request, data = rig.signed()
            publish(ann, request, data)
            assert not ann.read(lambda: last_state(ann, request.target.id)["status"], 1.0)


def test_an_uplink_without_commands_answers_and_drops_what_an_old_session_brings(tmp_path, broker):
    """Commands were switched off: what the broker still queued for this session is acknowledged and not kept."""
    rig = Rig(tmp_path, broker)
    with rig.online(), rig.technician():
        assert rig.connected()
    request, data = rig.signed()
    with rig.technician() as ann:
        publish(ann, request, data)
        assert until(lambda: (ann.link.turn(0.05), ann.link.acks)[1])
    with open_store(tmp_path / "outbox") as store:
        subject = Subject(Topics(SITE, DEVICE), dict)
        uplink = Uplink(broker.uplink(), subject, store, rig.envelope.sealer, SystemClock(), open_link=Link)
        with running(store.run, uplink.run):
            assert until(lambda: uplink.stats()["connected"])
            time.sleep(1.2)
    with rig.online(), rig.technician() as ann:
        assert rig.connected()
        assert not ann.read(lambda: last_state(ann, request.target.id)["status"], 1.0)
    assert rig.slow.begun == []


def test_plain_mode_shows_states_as_json(tmp_path, broker):
    """Where an operator chose the plain mode, states are plain too; requests are signed all the same."""
    rig = Rig(tmp_path, broker)
    rig.envelope = None
    with rig.online(), listening(broker) as link:
        request = rig.request("ping")
        link.publish(Message(topic("ping", request.target.id), sign_request(rig.keys["viewer"], request)))
        found = collect(link, lambda seen: any(b'"successful"' in m.payload for m in seen))
    assert any(m.topic.endswith(f"cmd/ping/{request.target.id}") for m in found)


def test_a_stop_in_the_middle_still_settles_what_is_durable(tmp_path, broker):
    """The device is stopped right after a request came: it is either done or comes again, never both, never neither."""
    rig = Rig(tmp_path, broker)
    with rig.online(), rig.technician():
        assert rig.connected()
    ids = []
    for _ in range(3):
        with rig.online(), rig.technician() as ann:
            assert rig.connected()
            request, data = rig.signed("viewer", "ping")
            ids.append(request.target.id)
            publish(ann, request, data)
            until(lambda: (ann.link.turn(0.01), ann.link.acks)[1])
    with rig.online(), rig.technician() as ann:
        for id_ in ids:
            assert wait_state(ann, id_, "successful")["status"] in TERMINAL
    assert threading.active_count() < 10
