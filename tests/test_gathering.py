"""Dense events share commits and messages; the first after a pause, and one that somebody waits for, goes at once."""

import signal
import time

import pytest

from agent.uplink.gathering import Gathering
from tests.broker import ACL, listening, mosquitto
from tests.lite import Keys, Listener, draft, make_uplink, open_store, running, until


def test_the_first_after_a_pause_may_go_at_once():
    """And the lane is woken for it only when it would sleep longer."""
    pace = Gathering(0.05, 1.0)
    assert pace.asleep(100.0, 1.0) == 1.0
    assert pace.tell(urgent=True, now_s=100.2)
    assert pace.take_turn(100.2)
    assert not pace.take_turn(100.3), "nothing came since"


@pytest.mark.parametrize(("urgent", "apart_s"), [(True, 0.05), (False, 1.0)])
def test_what_follows_waits_for_the_end_of_the_while(urgent, apart_s):
    """Counted from the last live message; the lane sleeps until then, and is not woken again."""
    pace = Gathering(0.05, 1.0)
    pace.went(100.0)
    assert not pace.tell(urgent=urgent, now_s=100.01), "the lane is awake and looks by itself"
    assert not pace.take_turn(100.0 + apart_s - 0.001)
    assert pace.asleep(100.02, 5.0) == pytest.approx(apart_s - 0.02)
    assert not pace.tell(urgent=urgent, now_s=100.03), "it wakes in time"
    assert pace.take_turn(100.0 + apart_s)


def test_an_urgent_event_takes_waiting_routine_ones_along():
    """The lane, asleep for the routine ones, is woken for it."""
    pace = Gathering(0.05, 1.0)
    pace.went(100.0)
    pace.tell(urgent=False, now_s=100.1)
    assert pace.asleep(100.1, 5.0) == pytest.approx(0.9)
    assert pace.tell(urgent=True, now_s=100.2)
    assert pace.take_turn(100.2)


def test_what_is_blocked_is_not_asked_for_in_a_circle():
    """Due events behind something that cannot go let the lane sleep."""
    pace = Gathering(0.05, 1.0)
    pace.tell(urgent=True, now_s=100.0)
    pace.blocked(100.1)
    assert pace.asleep(100.0, 5.0) == pytest.approx(0.1)
    pace.take_turn(100.1)
    pace.blocked(100.2)
    assert pace.asleep(100.1, 5.0) == 5.0, "nothing is due any more"


def test_dense_critical_events_share_commits(tmp_path):
    """A hundred events in half a second: the first at once, the rest in a handful of commits, all durable in time."""
    with open_store(tmp_path, gather_s=0.1) as store, running(store.run):
        commits, first = _commits(store), None
        for i in range(100):
            ticket = store.accept(draft(i=i))
            first = first or ticket
            time.sleep(0.005)
            if i == 8:
                assert first.state == "durable", "the first was not kept waiting"
        until(lambda: ticket.state == "durable")
        assert 3 <= len(commits) <= 15
        assert sum(commits) == 100


def test_an_event_that_somebody_waits_for_is_written_at_once(tmp_path):
    """However long the others gather."""
    with open_store(tmp_path, gather_s=10.0) as store, running(store.run):
        assert store.accept(draft()).wait(5)
        begun_s = time.monotonic()
        gathered, awaited = store.accept(draft(i=1)), store.accept(draft(i=2))
        assert awaited.wait(5)
        assert gathered.state == "durable"
        assert time.monotonic() - begun_s < 5


def test_a_full_commit_does_not_wait(tmp_path):
    """Events that fill a commit are written, however long they might gather."""
    with open_store(tmp_path, gather_s=10.0) as store, running(store.run):
        assert store.accept(draft()).wait(5)
        tickets = [store.accept(draft(i=i, size=60_000)) for i in range(6)]
        until(lambda: tickets[0].state == "durable")


def test_events_do_not_gather_until_the_memory_is_full(tmp_path):
    """A memory smaller than a commit loses nothing while the disk takes what it is given."""
    with open_store(tmp_path, gather_s=10.0, pending_mib=0.25) as store, running(store.run):
        tickets = []
        for i in range(400):
            tickets.append(store.accept(draft(i=i)))
            time.sleep(0.001)
        assert "evicted" not in {ticket.state for ticket in tickets}


def test_dense_events_share_messages(tmp_path):
    """Routine events of two streams travel as a few batches, each stream in order; a critical one takes them along."""
    keys = Keys()
    with mosquitto(tmp_path) as broker, open_store(tmp_path / "outbox") as store, listening(broker) as link:
        listener = Listener(link, keys.opener())
        uplink = make_uplink(broker.uplink(gather_routine_s=60.0), store, keys)
        with running(store.run, uplink.run):
            until(lambda: uplink.stats()["connected"])
            store.accept(draft("door", i=0, event_class="routine"))
            assert listener.read(lambda: len(listener.events) == 1), "the first goes at once"
            for i in range(1, 40):
                store.accept(draft(("door", "gate")[i % 2], i=i, event_class="routine"))
                time.sleep(0.005)
            assert uplink.stats()["sent_events"] == 1
            store.accept(draft("door", i=40))
            assert listener.read(lambda: len(listener.events) == 41)
        assert listener.seqs("door") == list(range(21))
        assert listener.seqs("gate") == list(range(20))
        assert uplink.stats()["sent_messages"] == 3


def test_what_gathers_at_a_stop_is_still_sent(tmp_path):
    """The uplink's last act is to send what waits."""
    keys = Keys()
    with mosquitto(tmp_path) as broker, open_store(tmp_path / "outbox") as store, listening(broker) as link:
        listener = Listener(link, keys.opener())
        uplink = make_uplink(broker.uplink(gather_routine_s=60.0), store, keys)
        with running(store.run, uplink.run):
            until(lambda: uplink.stats()["connected"])
            for i in range(5):
                store.accept(draft(i=i, event_class="routine"))
                time.sleep(0.02)
        assert listener.read(lambda: len(listener.events) == 5)


def test_routine_events_of_an_outage_go_with_the_connection(tmp_path):
    """Nobody tells of them again before they are written, which may be long after."""
    keys = Keys()
    with mosquitto(tmp_path) as broker, open_store(tmp_path / "outbox", routine_wait_s=60.0) as store:
        uplink = make_uplink(broker.uplink(), store, keys)
        with listening(broker) as link, running(store.run):
            listener = Listener(link, keys.opener())
            first = store.accept(draft(event_class="routine"))
            assert until(lambda: first.state == "durable"), "its stream is new: numbers had to be reserved"
            second = store.accept(draft(i=1, event_class="routine"))
            with running(uplink.run):
                assert listener.read(lambda: len(listener.events) == 2)
                assert until(lambda: second.state == "published")


def test_routine_events_under_way_when_the_connection_breaks_go_again_at_once(tmp_path):
    """Although they only pend, and nothing else comes."""
    with mosquitto(tmp_path) as broker, open_store(tmp_path / "outbox", routine_wait_s=60.0) as store:
        uplink = make_uplink(broker.uplink(), store, Keys())
        with running(store.run, uplink.run):
            first = store.accept(draft(event_class="routine"))
            assert until(lambda: first.state == "durable" and uplink.stats()["acked_events"] == 1)
            time.sleep(1.0)
            broker.process.send_signal(signal.SIGSTOP)
            second = store.accept(draft(i=1, event_class="routine"))
            assert until(lambda: uplink.stats()["sent_events"] == 2)
            broker.kill()
            broker.start()
            assert until(lambda: second.state == "published")


def test_a_full_window_is_waited_for_without_asking_in_a_circle(tmp_path):
    """Although a refused event may be tried again meanwhile: an answer of the broker comes first."""
    acl = ACL.replace("device/#", "device/e/door", 1)
    with mosquitto(tmp_path, acl=acl) as broker, open_store(tmp_path / "outbox") as store:
        uplink = make_uplink(broker.uplink(window=2, gather_s=0.0, refusal_wait_s=0.3), store)
        with running(store.run, uplink.run):
            store.accept(draft("gate"))
            assert until(lambda: uplink.stats()["refused"] == 1)
            broker.process.send_signal(signal.SIGSTOP)
            for i in range(5):
                store.accept(draft(i=i))
            assert until(lambda: uplink.stats()["sent_messages"] >= 3)
            time.sleep(0.5)
            begun_s = time.process_time()
            time.sleep(1.0)
            assert time.process_time() - begun_s < 0.3
            broker.process.send_signal(signal.SIGCONT)


def test_a_loss_is_told_although_no_event_follows(tmp_path):
    """Also one that came while an earlier gap record was under way."""
    keys, folder = Keys(), tmp_path / "outbox"
    with mosquitto(tmp_path) as broker, open_store(folder, event_kib=1) as store, listening(broker) as link:
        listener = Listener(link, keys.opener())
        uplink = make_uplink(broker.uplink(), store, keys)
        with running(store.run, uplink.run):
            store.accept(draft())
            assert until(lambda: uplink.stats()["acked_events"] == 1)
            broker.process.send_signal(signal.SIGSTOP)
            assert store.accept(draft(size=2000)).state == "evicted"
            assert until(lambda: uplink.stats()["sent_events"] == 2), "its gap record"
            assert store.accept(draft("gate", size=2000)).state == "evicted"
            assert until(lambda: store.stats()["gaps_open"] == 1)
            time.sleep(1.2)
            broker.process.send_signal(signal.SIGCONT)
            assert listener.read(lambda: len(listener.gaps()) == 2)


def test_large_events_that_gathered_all_go(tmp_path):
    """Although the store hands them over a few megabytes at a time, and tells of them once."""
    with mosquitto(tmp_path) as broker, open_store(tmp_path / "outbox") as store:
        uplink = make_uplink(broker.uplink(gather_s=2.0), store, Keys())
        with running(store.run, uplink.run):
            assert until(lambda: uplink.stats()["connected"])
            store.accept(draft())
            assert until(lambda: uplink.stats()["acked_events"] == 1)
            for i in range(70):
                store.accept(draft(i=i, size=100_000))
            assert uplink.stats()["sent_events"] == 1
            assert until(lambda: uplink.stats()["acked_events"] == 71)


def _commits(store):
    """How many events each commit writes, from now on."""
    sizes, settled = [], store._book.settled

    def noted(batch, outcome):
        if batch.inserts:
            sizes.append(len(batch.inserts))
        settled(batch, outcome)

    store._book.settled = noted
    return sizes
