"""The store's promise on a healthy disk: accepted means synced, numbers never come back, removals are told."""

import json
import re
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from agent.cli import outbox as outbox_command
from agent.errors import ConfigError, StoreError
from agent.settings.store import StoreSettings
from agent.store import OutboxInUseError
from agent.store.ids import EventIds
from tests.lite import draft, open_store, running, until

ROOT = Path(__file__).resolve().parent.parent


class Clock:
    """A clock that says what it is told."""

    def __init__(self, wall_s):
        self.wall, self.quality = wall_s, "unsynced"

    def wall_s(self):
        return self.wall

    def mono_s(self):
        return time.monotonic()

    def state(self):
        return self.quality

    def sleep(self, seconds):
        time.sleep(seconds)


def taken(store, after=0, limit=10_000):
    return store.take(after, limit) or []


def gaps(store):
    """Gap records as their bodies, once the store has made events of its ledger."""
    taken(store)
    until(lambda: any(e.gap for e in taken(store)))
    rows = [r for r in store.rows(0, 100_000) if r["gap"]]
    from agent.codec import decode

    return [decode(r["event"]).draft.body for r in rows]


def test_an_accepted_event_survives_a_restart(tmp_path):
    """What was durable comes back after a close, with the same id, number and content."""
    with open_store(tmp_path) as store, running(store.run):
        ticket = store.accept(draft(i=5))
        assert ticket.wait(5)
        assert ticket.state == "durable"
    with open_store(tmp_path) as store:
        (entry,) = taken(store)
        assert (entry.id, entry.stream, entry.seq) == (ticket.id, "door", 0)
        assert b"person" in entry.body
        assert entry.t_mono_s is None


def test_what_was_just_written_is_handed_out_while_the_disk_is_busy(tmp_path):
    """With an uplink there, a new event comes from memory; older ones, and those set aside, are asked of the disk."""
    with open_store(tmp_path) as store, running(store.run):
        store.accept(draft(i=0)).wait(5)
        store.watch(lambda _urgent: None)
        tickets = [store.accept(draft(i=i)) for i in (1, 2)]
        assert all(ticket.wait(5) for ticket in tickets)
        with store._keeper.db.lock:
            assert [e.id for e in store.take(1, 10)] == [ticket.id for ticket in tickets]
            assert [e.id for e in store.take(1, 1)] == [tickets[0].id]
            assert [e.id for e in store.take(1, 10, upto=2)] == [tickets[0].id]
            assert store.take(0, 10, patience_s=0.01) is None
            store.acknowledge([2])
            assert [e.n for e in store.take(1, 10)] == [3]
        assert [e.n for e in taken(store)] == [1, 3]
        store.park(3, "refused")
        until(lambda: [e.n for e in taken(store, after=1)] == [])
        store.unpark()
        until(lambda: [e.n for e in taken(store, after=1)] == [3])


def test_no_commit_has_to_empty_the_log(tmp_path):
    """The log is written into the file between commits, before it is so long that SQLite does it within one."""
    with open_store(tmp_path) as store, running(store.run):
        db, seen = store._keeper.db, []
        log = tmp_path / "outbox.db-wal"
        ease = db.ease

        def watched():
            seen.append(db._log.due)
            ease()

        db.ease = watched
        for i in range(300):
            store.accept(draft(i=i)).wait(5)
        assert 2 <= seen.count(True) <= 30
        assert log.stat().st_size < 256 * (4096 + 24)


def test_durable_means_that_the_disk_was_told_to_sync(tmp_path):
    """strace sees at least one fdatasync between each offer and its ticket: one per critical event, none forgotten."""
    script = (
        "import sys, os; from pathlib import Path; from tests.lite import *\n"
        "with open_store(Path(sys.argv[1])) as store, running(store.run):\n"
        "    store.accept(draft()).wait(5)\n"
        "    for i in range(20):\n"
        "        os.write(2, b'offer\\n'); assert store.accept(draft(i=i)).wait(5); os.write(2, b'durable\\n')\n"
    )
    log = tmp_path / "strace"
    strace = ["strace", "-f", "-e", "trace=fdatasync,fsync,write", "-o", log]
    command = [*strace, sys.executable, "-c", script, tmp_path / "outbox"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    pattern = r'write\(2, "(offer|durable)\\n"|sync\(\d+\) += 0|sync resumed'
    calls = "".join({"offer": "o", "durable": "d"}.get(m[1], "s") for m in re.finditer(pattern, log.read_text()))
    assert re.fullmatch(r"s*(os+d)+s*", calls), calls
    assert calls.count("d") == 20


def test_many_threads_are_committed_together(tmp_path):
    """Natural group commit: eight threads that wait for each ticket share flushes, and numbers have no hole."""
    with open_store(tmp_path) as store, running(store.run):
        seen = []

        def offer():
            for i in range(50):
                ticket = store.accept(draft(i=i))
                assert ticket.wait(10)
                seen.append(ticket.seq)

        threads = [threading.Thread(target=offer) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == list(range(400))
        assert [e.seq for e in taken(store)] == list(range(400))


def test_a_routine_event_waits_and_a_critical_one_takes_it_along(tmp_path):
    """Routine events pend up to T; the next critical commit writes them too."""
    with open_store(tmp_path, routine_wait_s=3600) as store, running(store.run):
        assert store.accept(draft("temp", event_class="routine")).wait(5)  # the first reserves numbers
        routine = store.accept(draft("temp", event_class="routine"))
        assert not routine.wait(0.3)
        assert routine.state == "pending"
        assert [e.seq for e in taken(store)] == [0, 1]  # published meanwhile, if somebody asks
        assert store.accept(draft()).wait(5)
        assert routine.wait(1)
        assert routine.state == "durable"


def test_a_routine_event_is_written_when_its_time_is_up(tmp_path):
    """T is kept."""
    with open_store(tmp_path, routine_wait_s=0.5) as store, running(store.run):
        assert store.accept(draft("temp", event_class="routine")).wait(5)
        start = time.monotonic()
        assert store.accept(draft("temp", event_class="routine")).wait(5)
        assert 0.4 < time.monotonic() - start < 1.5


def test_acknowledged_events_are_gone_and_the_others_stay(tmp_path):
    """Deletes ride with the next insert, and nothing else is deleted."""
    with open_store(tmp_path) as store, running(store.run):
        tickets = [store.accept(draft(i=i)) for i in range(10)]
        assert all(t.wait(5) for t in tickets)
        entries = taken(store)
        store.acknowledge([e.n for e in entries if e.seq % 2])
        assert [e.seq for e in taken(store)] == [0, 2, 4, 6, 8]
        assert store.accept(draft(i=10)).wait(5)
    with open_store(tmp_path) as store:
        assert [e.seq for e in taken(store)] == [0, 2, 4, 6, 8, 10]


def test_numbers_never_come_back(tmp_path):
    """Neither after the outbox drains to nothing, nor after a kill, nor when the database is lost."""
    with open_store(tmp_path) as store, running(store.run):
        for _ in range(3):
            assert store.accept(draft()).wait(5)
        store.acknowledge([e.n for e in taken(store)])
    with open_store(tmp_path) as store, running(store.run):
        ticket = store.accept(draft())
        assert ticket.wait(5)
        assert ticket.seq == 3
    for lost in tmp_path.glob("outbox.db*"):
        lost.unlink()
    with open_store(tmp_path) as store, running(store.run):
        ticket = store.accept(draft())
        assert ticket.wait(5)
        assert ticket.seq > 3


def test_an_unclean_stop_reports_pending_events_as_an_upper_bound(tmp_path):
    """Routine events lost with the process are counted in a gap record, never fewer than were lost."""
    script = (
        "import sys, os, time; from pathlib import Path; from tests.lite import *\n"
        "store = open_store(Path(sys.argv[1]), routine_wait_s=30)\n"
        "with running(store.run):\n"
        "    store.accept(draft('temp', event_class='routine')).wait(5)\n"
        "    store.accept(draft()).wait(5)\n"
        "    for i in range(7): last = store.accept(draft('temp', event_class='routine'))\n"
        "    assert last.state == 'pending', last.state\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT, timeout=60, check=False)
    with open_store(tmp_path) as store, running(store.run):
        (body,) = gaps(store)
        assert body["reason"] == "unclean stop"
        assert body["upper_bound"] is True
        assert 7 <= body["count"] <= 100
        assert body["first"] == 1
        assert store.accept(draft("temp")).seq == body["last"] + 2  # the gap record itself took one
    with open_store(tmp_path) as store:
        assert sorted(e.stream for e in taken(store) if not e.gap) == ["door", "temp", "temp"]


@pytest.mark.parametrize("event_class", ["routine", "critical"])
def test_a_budget_of_8_mib_is_kept_and_every_drop_is_told(tmp_path, event_class):
    """Twice the budget goes in; database and log stay within it; delivered + counted = accepted."""
    with open_store(tmp_path, budget_mib=8, routine_wait_s=0.05, pending_mib=64) as store, running(store.run):
        peak = 0
        for i in range(9000):
            last = store.accept(draft(("a", "b")[i % 2], i=i, size=800, event_class=event_class))
            if i % 500 == 0:
                until(lambda: store.stats()["pending"] < 1000)
                peak = max(peak, _bytes_on_disk(tmp_path))
        assert last.wait(30)
        assert until(lambda: store.stats()["pending"] == 0)
        assert max(peak, _bytes_on_disk(tmp_path)) <= 8 << 20
        told = gaps(store)
        left = [e for e in taken(store, limit=100_000) if not e.gap]
        assert {g["reason"] for g in told} == {"outbox full"}
        assert sum(g["count"] for g in told) + len(left) == 9000
        assert left[-1].seq == 4499
        assert all(g["last"] < 4500 for g in told)


def test_routine_events_give_way_to_critical_ones(tmp_path):
    """When the budget is used up, no critical event is dropped while a routine one is left."""
    with open_store(tmp_path, budget_mib=8, routine_wait_s=0.05, pending_mib=64) as store, running(store.run):
        for i in range(4500):
            store.accept(draft("routine", i=i, size=800, event_class="routine"))
            until(lambda: store.stats()["pending"] < 2000)
        tickets = [store.accept(draft("critical", i=i, size=800)) for i in range(2000)]
        assert all(t.wait(30) for t in tickets)
        assert store.stats()["streams"]["critical"]["events"] == 2000
        assert {g["reason"] for g in gaps(store)} == {"outbox full"}
        assert [e.seq for e in taken(store) if e.stream == "critical" and not e.gap] == list(range(2000))


def test_refuse_new_keeps_the_oldest(tmp_path):
    """With critical_when_full = refuse-new the outbox keeps what it has; the refused ones are told."""
    settings = {"budget_mib": 8, "critical_when_full": "refuse-new", "pending_mib": 64}
    with open_store(tmp_path, **settings) as store, running(store.run):
        tickets = [store.accept(draft(i=i, size=1000)) for i in range(6500)]
        assert until(lambda: all(t.state != "pending" for t in tickets), 30)
        refused = [t for t in tickets if t.state == "evicted"]
        assert refused
        assert refused[0].reason == "outbox full"
        assert tickets[0].state == "durable"
        assert sum(g["count"] for g in gaps(store)) == len(refused)


def test_an_oversize_event_is_refused_with_its_reason_and_told(tmp_path):
    """Too large for the outbox: the ticket says so, and a gap record too."""
    with open_store(tmp_path, event_kib=1) as store, running(store.run):
        ticket = store.accept(draft(size=5000))
        assert ticket.state == "evicted"
        assert "event_kib allows 1" in ticket.reason
        assert store.accept(draft()).wait(5)
        assert [(g["reason"], g["first"], g["last"], g["count"]) for g in gaps(store)] == [("oversize", 0, 0, 1)]


def test_large_events_are_taken_a_few_megabytes_at_a_time(tmp_path):
    """In order, and what only pends comes after the last of the disk, not after the first portion."""
    with open_store(tmp_path) as store, running(store.run):
        tickets = [store.accept(draft(i=i, size=100_000)) for i in range(70)]
        tickets.append(store.accept(draft("gate", event_class="routine")))
        assert until(lambda: all(ticket.state == "durable" for ticket in tickets))
        tickets.append(store.accept(draft("gate", i=1, event_class="routine")))
        places, portions = [], 0
        while portion := store.take(places[-1] if places else 0, 1000):
            assert sum(len(entry.body) for entry in portion) < 8 << 20
            places += [entry.n for entry in portion]
            portions += 1
        assert portions == 2
        assert places == list(range(1, len(tickets) + 1))
        assert tickets[-1].state == "pending"


def test_a_stream_that_no_topic_can_hold_is_refused():
    """Names with slashes or wildcards would break out of the topic tree."""
    from agent.store.streams import checked_name

    for name in ("a/b", "#", "", "gap", "x" * 65, "ä"):
        with pytest.raises(StoreError, match="rename it in the pipeline"):
            checked_name(name)


def test_bodies_are_sealed_on_disk(tmp_path):
    """Neither database nor log holds a word of what was seen."""
    with open_store(tmp_path) as store, running(store.run):
        assert store.accept(draft()).wait(5)
        raw = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
        assert b"door" in raw
        assert b"person" not in raw


def test_a_second_process_is_kept_out(tmp_path):
    """One process at a time; the message says what to do."""
    with open_store(tmp_path), pytest.raises(OutboxInUseError, match="limpet outbox"):
        open_store(tmp_path)


def test_a_clock_in_1970_changes_nothing_but_the_mark(tmp_path):
    """Ids stay unique and grow, order holds, and the events say that the clock is not to be believed."""
    clock = Clock(12.0)
    with open_store(tmp_path, clock=clock, event_kib=1) as store, running(store.run):
        tickets = [store.accept(draft(i=i, t_wall_s=12.0)) for i in range(100)]
        assert store.accept(draft(size=5000)).state == "evicted"
        clock.wall = 1_790_000_000.0
        tickets += [store.accept(draft(i=i)) for i in range(100)]
        clock.wall = 3.0
        tickets += [store.accept(draft(i=i)) for i in range(100)]
        ids = [t.id for t in tickets]
        assert len(set(ids)) == 300
        assert ids == sorted(ids)
        assert all(uuid.UUID(i).version == 7 and uuid.UUID(i).variant == uuid.RFC_4122 for i in ids)
        assert all(t.wait(5) for t in tickets)
        order = [e.id for e in taken(store) if not e.gap]
        assert order == ids
        gaps(store)
        from agent.codec import decode

        assert {decode(r["event"]).draft.clock for r in store.rows(0, 1000) if r["gap"]} == {"unsynced"}


def test_ids_of_one_millisecond_count_up():
    """4096 ids fit in a millisecond; more borrow the next."""
    ids = EventIds(lambda: 1000.0)
    made = [ids.make() for _ in range(10_000)]
    assert made == sorted(made)
    assert len(set(made)) == 10_000


def test_two_hundred_thousand_rows_open_in_less_than_two_seconds(tmp_path):
    """A long outage does not slow the start, and reading it does not fill memory."""
    script = (
        "import sys, time, resource; from pathlib import Path; from tests.lite import *\n"
        "store = open_store(Path(sys.argv[1]), budget_mib=1024, pending_mib=16)\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); t = time.monotonic(); store.close()\n"
        "t = time.monotonic(); store = open_store(Path(sys.argv[1]), budget_mib=1024)\n"
        "first = store.take(0, 500); opened = time.monotonic() - t\n"
        "after, n = 0, 0\n"
        "while (found := store.take(after, 500)): after = found[-1].n; n += len(found)\n"
        "print(opened, n, (peak() - before) / 1024, store.stats()['used'] / max(n, 1))\n"
        "store.close()\n"
    )
    _fill(tmp_path, 200_000)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    opened_s, rows, grown_mib, _ = (float(x) for x in done.stdout.split())
    assert rows == 200_000
    assert opened_s < 2
    assert grown_mib < 40


def _fill(folder, rows):
    """Write rows as the store would, but in big transactions."""
    with open_store(folder, budget_mib=1024) as store, running(store.run):
        assert store.accept(draft()).wait(5)
        (entry,) = taken(store)
        row = store.rows(0, 1)[0]
    import sqlite3

    from agent.envelope.atrest import StoreKey

    key, db = StoreKey(bytes(32)), sqlite3.connect(folder / "outbox.db")
    body = entry.body
    with db:
        for n in range(2, rows + 1):
            event_id = n.to_bytes(16)
            sealed = key.seal(body, b"door\0" + event_id)
            values = (n, event_id, n - 1, row["t_wall"], sealed)
            db.execute("insert into event values (?, ?, 1, ?, 0, 0, 0, ?, 0, ?)", values)
        db.execute("update stream set rows = ?, last = ?", (rows, rows - 1))
    db.close()


def test_the_command_shows_what_waits(tmp_path, capsys):
    """`limpet outbox` opens a store at rest, and asks the agent when it runs."""
    settings = StoreSettings(folder=tmp_path / "outbox", key_file=tmp_path / "key")
    from agent.codec import encode
    from agent.envelope.atrest import load_store_key
    from agent.store import Store
    from agent.store.looking import answer

    with pytest.raises(ConfigError, match="there is none"), outbox_command.opened(settings, answer):
        pass
    arguments = type("Arguments", (), {"what": "export", "json": True, "limit": 0})
    with Store.open(settings, load_store_key(settings.key_file), encode) as store, running(store.run):
        assert store.accept(draft(i=3)).wait(5)
        with outbox_command.opened(settings, lambda request: answer(store, request)) as query:
            assert outbox_command.show(arguments, query) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["type"], line["stream"], line["event"]["body"]["i"]) == ("event", "door", 3)
    with outbox_command.opened(settings, lambda request: pytest.fail("nobody runs")) as query:
        for arguments.what, arguments.json in (("stats", False), ("stats", True), ("list", False), ("list", True)):
            assert outbox_command.show(arguments, query) == 0
    shown = capsys.readouterr().out
    assert "1 event on disk" in shown
    assert "door" in shown


def test_a_key_that_others_may_read_is_refused(tmp_path):
    """The store key fails closed, with the command that mends it."""
    from agent.envelope.atrest import load_store_key

    path = tmp_path / "sub" / "key"
    load_store_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_store_key(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="32"):
        load_store_key(path)


def _bytes_on_disk(folder):
    return sum(p.stat().st_size for p in folder.glob("outbox.db*"))
