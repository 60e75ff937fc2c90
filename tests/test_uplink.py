"""Events reach the broker at least once, in order, sealed; refusals are understood and hold nobody else up."""

import json
import signal
import time

import pytest

from agent.envelope import Opener, Trust, TrustedDevice
from agent.settings.uplink import UplinkConfig
from agent.uplink.keyring import Keyring
from agent.uplink.refusals import Refusals
from tests.broker import ACL, listening, mosquitto
from tests.lite import DEVICE, SITE, Keys, Listener, draft, make_uplink, open_store, running, until


@pytest.fixture
def broker(tmp_path):
    with mosquitto(tmp_path) as made:
        yield made


def test_events_arrive_sealed_and_leave_the_outbox(broker, tmp_path):
    """What was accepted arrives decrypted, in order, and is deleted once acknowledged."""
    keys = Keys()
    with open_store(tmp_path / "outbox") as store, listening(broker) as link:
        delays_s = []
        uplink = make_uplink(
            broker.uplink(tls=True), store, keys, facets=lambda: {"config": {"digest": "abc"}},
            delivered=lambda stream, s: delays_s.append(s),
        )  # fmt: skip
        listener = Listener(link, keys.opener())
        with running(store.run, uplink.run):
            for i in range(30):
                store.accept(draft(i=i))
                time.sleep(0.002)
            assert listener.read(lambda: len(listener.events) == 30)
        assert listener.seqs("door") == list(range(30))
        assert [e.draft.body["i"] for e in listener.events] == list(range(30))
        assert uplink.stats()["acked_events"] == len(delays_s) == 30
        assert all(0 < s < 10 for s in delays_s)
        listener.read(lambda: "stopped" in str(listener.bodies("status")))
        assert [b["state"] for b in listener.bodies("status")] == ["online", "stopped"]
        assert listener.bodies("twin") == [{"digest": "abc"}]
        assert not listener.errors
    with open_store(tmp_path / "outbox") as store:
        assert store.take(0, 10) == []


def test_the_broker_never_sees_what_an_event_says(broker, tmp_path):
    """No byte of a body shows in any payload."""
    with open_store(tmp_path / "outbox") as store, listening(broker) as link:
        with running(store.run, make_uplink(broker.uplink(), store, Keys()).run):
            ticket = store.accept(draft(size=50))
            until(lambda: (link.turn(0.05), any("/e/door" in m.topic for m in link.received))[1])
        assert ticket.wait(1)
        payloads = [m.payload for m in link.received if "/e/" in m.topic]
        assert payloads
        assert not any(b"person" in p or b"entrance" in p for p in payloads)


def test_the_agent_starts_and_accepts_while_the_broker_is_away(tmp_path):
    """Offline from the first second: accepted events are durable, and a backlog drains as batches later."""
    keys = Keys()
    with mosquitto(tmp_path) as broker, open_store(tmp_path / "outbox") as store:
        with listening(broker):
            pass  # the broker keeps this session from here on
        broker.stop()
        uplink = make_uplink(broker.uplink(), store, keys)
        with running(store.run, uplink.run):
            tickets = [store.accept(draft(("door", "gate")[i % 2], i=i)) for i in range(600)]
            assert all(t.wait(5) for t in tickets)
            assert "cannot be reached" in until(lambda: uplink.stats()["trouble"])
            broker.start()
            with listening(broker) as link:
                listener = Listener(link, keys.opener())
                assert listener.read(lambda: len(listener.events) >= 600)
        assert listener.seqs("door") == list(range(300))
        assert listener.seqs("gate") == list(range(300))
        assert uplink.stats()["sent_messages"] < 30


def test_live_events_overtake_a_backlog(tmp_path):
    """With thousands waiting, a new event does not wait for them; both sequences are in order."""
    keys = Keys()
    with mosquitto(tmp_path, running=False) as broker, open_store(tmp_path / "outbox") as store:
        uplink = make_uplink(broker.uplink(batch_events=20, window=4), store, keys)
        with running(store.run):
            for i in range(8000):
                last = store.accept(draft(i=i))
            assert last.wait(20)
            broker.start()
            with listening(broker) as link:
                listener = Listener(link, keys.opener())
                with running(uplink.run):
                    assert listener.read(lambda: len(listener.events) > 100)
                    assert store.accept(draft(i=-1)).wait(5)
                    assert listener.read(lambda: len(listener.events) == 8001, 30)
    seqs = listener.seqs("door")
    place = seqs.index(8000)
    assert place < 7000
    assert seqs[:place] + seqs[place + 1 :] == list(range(8000))


def test_routine_events_are_published_before_they_are_written(broker, tmp_path):
    """A routine event that the broker has acknowledged is never written."""
    keys = Keys()
    with open_store(tmp_path / "outbox", routine_wait_s=3600) as store, listening(broker) as link:
        listener = Listener(link, keys.opener())
        with running(store.run, make_uplink(broker.uplink(), store, keys).run):
            first = store.accept(draft("temp", event_class="routine"))
            assert first.wait(5)  # its numbers had to be reserved first
            tickets = [store.accept(draft("temp", i=i, event_class="routine")) for i in range(10)]
            assert until(lambda: all(t.state == "published" for t in tickets))
            assert listener.read(lambda: len(listener.events) == 11)
        assert store.stats()["published"] == 10


def test_plain_mode_speaks_json(broker, tmp_path):
    """The plain mode sends one JSON event per message."""
    with open_store(tmp_path / "outbox") as store, listening(broker) as link:
        opener = Opener([], Trust((TrustedDevice(SITE, DEVICE, "plain", ()),)))
        listener = Listener(link, opener)
        with running(store.run, make_uplink(broker.uplink(), store).run):
            store.accept(draft(i=7))
            assert listener.read(lambda: listener.events)
        assert listener.events[0].draft.body["i"] == 7


def test_a_refused_topic_is_set_aside_with_its_reason_and_others_flow(tmp_path):
    """An access list that forbids one stream: its event is parked in words, the other stream arrives."""
    keys, acl = Keys(), ACL.replace(
        "topic readwrite limpet/v1/site/device/#",
        "topic write limpet/v1/site/device/status\ntopic write limpet/v1/site/device/keys/#\n"
        "topic write limpet/v1/site/device/e/door",
    )
    with mosquitto(tmp_path, acl=acl) as broker, open_store(tmp_path / "outbox") as store:
        uplink = make_uplink(broker.uplink(park_after=3), store, keys)
        with listening(broker) as link, running(store.run, uplink.run):
            listener = Listener(link, keys.opener())
            for i in range(5):
                store.accept(draft("secret", i=i))
                store.accept(draft("door", i=i))
            assert listener.read(lambda: len(listener.seqs("door")) == 5)
            assert until(lambda: store.stats()["parked"] >= 1)
            store.accept(draft("door", i=9))
            assert listener.read(lambda: len(listener.seqs("door")) == 6)
        row = next(r for r in store.rows(0, 100) if r["parked"])
        assert row["stream"] == "secret"
        assert "not authorised" in row["parked"]
        assert "access list" in uplink.stats()["refusals"]["secret"]
        assert store.stats()["streams"]["secret"]["events"] == 5


def test_what_was_set_aside_is_sent_when_the_broker_allows_it(tmp_path):
    """After the access list is mended, parked and held events arrive without anybody's help."""
    keys = Keys()
    acl = ACL.replace("device/#", "device/keys/#")
    with mosquitto(tmp_path, acl=acl) as broker, open_store(tmp_path / "outbox") as store, running(store.run):
        with running(make_uplink(broker.uplink(park_after=2), store, keys).run):
            store.accept(draft(i=1))
            store.accept(draft(i=2))
            assert until(lambda: store.stats()["parked"] >= 1)
        broker.acl = ACL
        broker.configure()
        broker.restart()
        with listening(broker) as link, running(make_uplink(broker.uplink(), store, keys).run):
            listener = Listener(link, keys.opener())
            assert listener.read(lambda: sorted(listener.seqs("door")) == [0, 1])


def test_an_event_larger_than_the_broker_takes_is_set_aside_before_it_is_sent(tmp_path):
    """The broker's Maximum Packet Size is respected; the others flow."""
    keys = Keys()
    with mosquitto(tmp_path, extra=["max_packet_size 4096"]) as broker, open_store(tmp_path / "outbox") as store:
        uplink = make_uplink(broker.uplink(), store, keys)
        with listening(broker) as link, running(store.run, uplink.run):
            listener = Listener(link, keys.opener())
            store.accept(draft(i=0))
            store.accept(draft(i=1, size=20_000))
            store.accept(draft(i=2))
            assert listener.read(lambda: listener.seqs("door") == [0, 2])
            assert until(lambda: store.stats()["parked"] == 1)
        assert uplink.stats()["disconnects"] == 1
        assert "larger" in next(r["parked"] for r in store.rows(0, 10) if r["parked"])


def test_an_event_that_makes_the_broker_hang_up_is_found_and_set_aside(tmp_path):
    """MQTT 3.1.1 cannot say what is too large: the broker just hangs up. The culprit is parked, the others arrive."""
    keys = Keys()
    with mosquitto(tmp_path, extra=["max_packet_size 4096"]) as broker, open_store(tmp_path / "outbox") as store:
        with running(store.run):
            for i, size in enumerate((0, 0, 20_000, 0, 0)):
                store.accept(draft(i=i, size=size)).wait(5)
            uplink = make_uplink(broker.uplink(protocol="3.1.1", park_after=2), store, keys)
            with listening(broker) as link, running(uplink.run):
                listener = Listener(link, keys.opener())
                assert listener.read(lambda: sorted(listener.seqs("door")) == [0, 1, 3, 4], 20)
                assert until(lambda: store.stats()["parked"] == 1)
        assert "hangs up" in next(r["parked"] for r in store.rows(0, 10) if r["parked"])


def test_mqtt_3_1_1_says_that_it_cannot_report_refusals(broker, tmp_path):
    """Status and statistics carry the warning."""
    with open_store(tmp_path / "outbox") as store, listening(broker) as link:
        listener = Listener(link, Keys().opener())
        uplink = make_uplink(broker.uplink(protocol="3.1.1"), store, Keys())
        with running(store.run, uplink.run):
            assert listener.read(lambda: listener.bodies("status"))
        assert "cannot report" in listener.bodies("status")[0]["warning"]
        assert uplink.stats()["refusals_reported"] is False


def test_the_last_will_says_offline_when_the_agent_dies(broker, tmp_path):
    """A connection that ends without goodbye leaves the retained status offline."""
    from agent.mqtt import Link, Message

    will = Message("limpet/v1/site/device/status", json.dumps({"state": "offline"}).encode(), retain=True)
    link = Link(broker.uplink(), "dying", will)
    link.connect()
    link._client.socket().close()
    with listening(broker, ["limpet/v1/site/device/status"]) as reader:
        assert until(lambda: (reader.turn(0.1), reader.received)[1])
        assert b"offline" in reader.received[0].payload


def test_posts_reach_the_broker_in_order(broker, tmp_path):
    """Metrics and alarms are sealed; an alarm that was cleared before the connection is told all the same."""
    keys = Keys()
    with open_store(tmp_path / "outbox") as store, listening(broker) as link:
        uplink = make_uplink(broker.uplink(), store, keys)
        uplink.post("metric", "load", {"v": 1})
        uplink.post("metric", "load", {"v": 2})
        uplink.post("alarm", "store", {"text": "disk full"})
        uplink.post("alarm", "store", {"text": ""})
        listener = Listener(link, keys.opener())
        with running(store.run, uplink.run):
            assert listener.read(lambda: len(listener.bodies("alarm")) == 2)
        assert listener.bodies("metric") == [{"v": 1}, {"v": 2}]
        assert listener.bodies("alarm") == [{"text": "disk full"}, {"text": ""}]


def test_a_new_epoch_is_announced_before_anything_is_sealed_under_it(broker, tmp_path):
    """Epochs of a third of a second: every event opens, its key envelope always came first, facets are said again."""
    keys = Keys(epoch_s=0.3)
    with open_store(tmp_path / "outbox") as store, listening(broker) as link:
        listener = Listener(link, keys.opener())
        facets = {"config": {"digest": "abc"}}
        with running(store.run, make_uplink(broker.uplink(), store, keys, facets=lambda: facets).run):
            for i in range(120):
                store.accept(draft(i=i))
                listener.read(lambda: False, 0.01)
            assert listener.read(lambda: len(listener.seqs("door")) == 120)
        assert not listener.errors
        assert listener.opener.counts["held"] == 0
        assert len({t for t in listener.topics if "/keys/" in t}) >= 4
        assert len(listener.bodies("twin")) >= 3
        assert len(json.loads(store.recall("kids"))) >= 4


def test_old_key_envelopes_are_cleared_when_no_reader_can_need_them():
    """After the retention time, by a clock that can be believed; a clock in 1970 clears nothing."""
    memory = Memory()
    clock = Wall(1_800_000_000.0)
    ring = Keyring(memory, 7 * 86400, clock)
    assert ring.published("a") == []
    clock.wall += 3600
    assert ring.published("b") == []
    clock.wall = 12.0
    assert ring.published("c") == []
    clock.wall = 1_800_000_000.0 + 7 * 86400 + 1800
    assert ring.published("d") == ["a"]
    clock.wall += 3600
    assert ring.published("d") == ["b"]
    assert set(json.loads(memory.kept["kids"])) == {"c", "d"}


class Memory:
    """Keeps short texts."""

    def __init__(self):
        self.kept = {}

    def remember(self, key, text):
        self.kept[key] = text
        return True

    def recall(self, key):
        return self.kept.get(key, "")


class Wall:
    """A wall clock that says what it is told."""

    def __init__(self, wall):
        self.wall = wall

    def wall_s(self):
        return self.wall


def test_a_stop_waits_three_seconds_at_most_for_a_broker_that_hangs(tmp_path):
    """The broker stops answering: the lane still ends, and nothing is taken for delivered."""
    with mosquitto(tmp_path) as broker, open_store(tmp_path / "outbox") as store:
        uplink = make_uplink(broker.uplink(), store, Keys())
        with running(store.run):
            with running(uplink.run):
                assert store.accept(draft()).wait(5)
                assert until(lambda: uplink.stats()["acked_events"] == 1)
                broker.process.send_signal(signal.SIGSTOP)
                assert store.accept(draft()).wait(5)
                assert until(lambda: uplink.stats()["sent_messages"] == 2)
                start = time.monotonic()
            assert time.monotonic() - start < 4.5
            assert [e.seq for e in store.take(0, 10)] == [1]
        broker.process.send_signal(signal.SIGCONT)


def test_refusals_grow_their_waits_and_spare_the_others():
    """Pure policy: an event is parked after its tries; a stream with no success is left alone, then probed."""
    policy = Refusals(UplinkConfig(park_after=3, refusal_wait_s=1, park_retry_s=60))
    assert [policy.refused("s", (1,), t) for t in (0.0, 10.0, 20.0)] == [False, False, True]
    assert policy.probing("s")
    assert policy.wait_until_s("s", 2) > 20.0
    assert policy.wait_until_s("other", 3) == 0.0
    policy.accepted("s", (2,))
    assert not policy.probing("s")
    assert policy.wait_until_s("s", 4) == 0.0


def test_a_refused_batch_is_sent_again_one_by_one():
    """So that only the culprit is parked."""
    policy = Refusals(UplinkConfig(park_after=1))
    assert not policy.refused("s", (1, 2, 3), 0.0)
    assert policy.most("s") == 1
    assert policy.most("other") > 1
    policy.accepted("s", (1,))
    assert policy.refused("s", (2,), 10.0)
    for n in (3, 4):
        policy.accepted("s", (n,))
    assert policy.most("s") > 1


def test_a_broker_that_refuses_and_hangs_up_stops_nobody(tmp_path):
    """mosquitto 2.0.11 with max_queued_messages 0 ends the connection after each refusal: the others still flow."""
    keys, acl = Keys(), ACL.replace(
        "topic readwrite limpet/v1/site/device/#",
        "topic write limpet/v1/site/device/status\ntopic write limpet/v1/site/device/keys/#\n"
        "topic write limpet/v1/site/device/e/door",
    )
    broken = mosquitto(tmp_path, acl=acl, extra=["max_queued_messages 0"])
    with broken as broker, open_store(tmp_path / "outbox") as store, listening(broker) as link:
        uplink = make_uplink(broker.uplink(park_after=2), store, keys)
        with running(store.run, uplink.run):
            listener = Listener(link, keys.opener())
            for i in range(3):
                store.accept(draft("secret", i=i))
                store.accept(draft("door", i=i))
            assert listener.read(lambda: len(listener.seqs("door")) == 3, 20)
            assert until(lambda: store.stats()["parked"] >= 1, 20)
        assert {r["stream"] for r in store.rows(0, 100) if r["parked"]} == {"secret"}
