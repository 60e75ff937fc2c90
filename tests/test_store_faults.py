"""A disk in trouble: accepting goes on, nothing accepted is lost silently, the message says what to do."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lite import draft, open_store, running, until

ROOT = Path(__file__).resolve().parent.parent


class Alarms:
    """Remembers what was raised and cleared."""

    def __init__(self):
        self.texts, self.now = [], None

    def __call__(self, name, text):
        assert name == "store"
        self.now = text
        if text:
            self.texts.append(text)


def seqs(store, stream="door"):
    return [e.seq for e in store.take(0, 100_000) or [] if e.stream == stream and not e.gap]


def gap_bodies(store):
    from agent.codec import decode

    until(lambda: (store.take(0, 1), any(r["gap"] for r in store.rows(0, 100_000)))[1], 5)
    return [decode(r["event"]).draft.body for r in store.rows(0, 100_000) if r["gap"]]


def traced(tmp_path, inject, script, timeout_s=60):
    """Run `script` under strace with a fault injected; returns its output."""
    prelude = "import sys, os, time\nfrom pathlib import Path\nfrom tests.lite import *\nfolder = Path(sys.argv[1])\n"
    calls = sorted({fault.partition(":")[0] for fault in inject})
    faults = [word for fault in inject for word in ("-e", f"inject={fault}")]
    done = subprocess.run(
        ["strace", "-f", "-e", f"trace={','.join(calls)}", *faults, "-o", "/dev/null",
         sys.executable, "-c", prelude + script, tmp_path / "outbox"],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_flush_of_five_seconds_does_not_hold_up_accepting(tmp_path):
    """An SD card that stalls for 5 s: offering stays quick, and everything is durable in the end."""
    out = traced(tmp_path, ["fdatasync:delay_enter=5000000:when=12"], """
with open_store(folder) as store, running(store.run):
    slowest, tickets, end, stalled = 0, [], time.monotonic() + 5.5, 0
    while time.monotonic() < end:
        t = time.monotonic(); tickets.append(store.accept(draft())); slowest = max(slowest, time.monotonic() - t)
        stalled = max(stalled, sum(t.state == 'pending' for t in tickets))
        time.sleep(0.01)
    assert all(t.wait(20) for t in tickets)
    print(slowest, stalled, len(tickets))
""")
    slowest_s, stalled, offered = (float(x) for x in out.split())
    assert stalled > 100, "the fault did not bite"
    assert slowest_s < 1.0
    assert offered > 150


def test_an_io_error_leaves_events_pending_until_the_disk_works_again(tmp_path):
    """EIO on sync: the tickets wait, an alarm says so, and nothing is lost once it passes."""
    out = traced(tmp_path, ["fdatasync:error=EIO:when=12..14"], """
alarms = []
with open_store(folder, alarm=lambda n, t: alarms.append(t)) as store, running(store.run):
    tickets = []
    for i in range(40):
        tickets.append(store.accept(draft(i=i))); time.sleep(0.01)
    assert all(t.wait(20) for t in tickets)
    print(len({t.seq for t in tickets}), [a for a in alarms if a][0])
    until(lambda: alarms[-1] is None)  # cleared after the tickets are told
with open_store(folder) as store:
    assert sorted({e.seq for e in store.take(0, 1000) if not e.gap}) == list(range(40))
""")
    assert out.startswith("40 ")
    assert "look at the disk" in out


def test_no_space_gives_up_the_reserve_and_keeps_accepting(tmp_path):
    """ENOSPC on write: alarm, and after it passes everything that was offered is durable."""
    out = traced(tmp_path, ["pwrite64:error=ENOSPC:when=60..64"], """
alarms = []
with open_store(folder, alarm=lambda n, t: alarms.append(t)) as store, running(store.run):
    tickets = [store.accept(draft(i=i)) for i in range(5)]
    for i in range(60):
        tickets.append(store.accept(draft(i=i))); time.sleep(0.005)
    assert all(t.wait(20) for t in tickets), [t.state for t in tickets]
    print([a for a in alarms if a][0])
""")
    assert "free space" in out


def mount_tmpfs(folder, options):
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount_tmpfs(folder, "size=3m")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_drops_the_oldest_and_tells_it(small_disk):
    """The disk is smaller than the budget: the newest events stay, the dropped ones are counted, no ticket hangs."""
    with open_store(small_disk, budget_mib=64, reserve_kib=256) as store, running(store.run):
        for i in range(6000):
            last = store.accept(draft(i=i, size=600))
            if i % 200 == 0:
                until(lambda: store.stats()["pending"] < 500, 5)
        assert last.wait(30), store.stats()
        left = seqs(store)
        assert left[-1] == 5999
        assert 0 < len(left) < 6000
        assert gap_bodies(store)
        assert store.stats()["evicted"] + len(left) == 6000


def test_space_that_comes_back_is_used(small_disk):
    """Something else filled the disk: events wait in memory, and are written when there is room."""
    alarms = Alarms()
    settings = {"reserve_kib": 0, "critical_when_full": "refuse-new"}
    with open_store(small_disk, alarm=alarms, **settings) as store, running(store.run):
        assert store.accept(draft()).wait(5)
        with (small_disk / "filler").open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(65536))
                file.flush()
        tickets = [store.accept(draft(i=i, size=2000)) for i in range(50)]
        assert until(lambda: alarms.now)
        assert not tickets[-1].wait(0.5)
        (small_disk / "filler").unlink()
        assert all(t.wait(10) for t in tickets)
        assert until(lambda: alarms.now is None)
        assert seqs(store) == list(range(51))


def test_a_read_only_disk_does_not_stop_the_agent(tmp_path):
    """Mounted read-only from the start: accepting works, the alarm says why, and a remount heals it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount_tmpfs(folder, "ro")
    try:
        alarms = Alarms()
        with open_store(folder / "outbox", alarm=alarms) as store, running(store.run):
            ticket = store.accept(draft())
            assert not ticket.wait(0.3)
            assert "Read-only" in alarms.now
            assert "events wait in memory" in alarms.now
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
            assert ticket.wait(40)
            assert ticket.seq == 0
            assert until(lambda: alarms.now is None)
        shutil.rmtree(folder / "outbox")
    finally:
        subprocess.run(["umount", folder], check=True)


def filled(folder, count=3000, size=0):
    """An outbox with `count` events, closed in good order; returns its database file."""
    with open_store(folder) as store, running(store.run):
        tickets = [store.accept(draft(i=i, size=size)) for i in range(count)]
        assert all(t.wait(20) for t in tickets)
    return folder / "outbox.db"


def damage(path, where, length=4096):
    """Overwrite part of a file; negative counts from the end."""
    with path.open("r+b") as file:
        file.seek(where if where >= 0 else path.stat().st_size + where)
        file.write(os.urandom(length))


@pytest.mark.parametrize(("where", "least"), [(80 * 4096, 2900), (0, 0)], ids=["leaf page", "header"])
def test_a_damaged_file_is_kept_aside_and_salvaged(tmp_path, where, least):
    """Never deleted, never in the way: a fresh outbox takes over, what can be read comes back, the rest is told."""
    damage(filled(tmp_path), where)
    alarms = Alarms()
    with open_store(tmp_path, alarm=alarms) as store, running(store.run):
        ticket = store.accept(draft(i=-1))
        assert ticket.wait(10)
        assert ticket.seq >= 3000
        assert until(lambda: list(tmp_path.glob("salvaged-*.db")), 20)
        back = seqs(store)
        assert len(back) >= least + 1
        assert back == sorted(back)
        assert "kept aside" in alarms.texts[0]
        assert until(lambda: alarms.now is None)
        if least:
            (gap,) = [g for g in gap_bodies(store) if g["reason"] == "damaged"]
            assert gap["count"] == 3001 - len(back)


def test_a_file_cut_short_is_kept_aside(tmp_path):
    """Truncated in the middle of a page."""
    path = filled(tmp_path)
    os.truncate(path, path.stat().st_size // 2 + 100)
    with open_store(tmp_path) as store, running(store.run):
        assert store.accept(draft()).wait(10)
        assert until(lambda: list(tmp_path.glob("salvaged-*.db")), 20)


def test_damage_under_a_running_agent_is_noticed_and_survived(tmp_path):
    """A page rots while the agent runs: reading finds it, the file is set aside, accepting goes on, numbers too."""
    path = filled(tmp_path, size=1500)  # more than SQLite keeps in memory
    with open_store(tmp_path) as store, running(store.run):
        damage(path, 60 * 4096, 8 * 4096)
        until(lambda: (store.take(0, 100_000), list(tmp_path.glob("*aged-*.db")))[1], 10)
        ticket = store.accept(draft())
        assert ticket.wait(10)
        assert ticket.seq >= 3000
        assert until(lambda: list(tmp_path.glob("salvaged-*.db")), 20)
        assert len(seqs(store)) > 2500
        assert store.stats()["state"] == "ok"


def test_a_flipped_bit_in_a_body_is_found_by_its_seal(tmp_path):
    """SQLite cannot see it; the seal does: the row is removed and told, the others are delivered."""
    import sqlite3

    path = filled(tmp_path, 10)
    db = sqlite3.connect(path)
    with db:
        body = bytearray(db.execute("select body from event where seq = 4").fetchone()[0])
        body[30] ^= 1
        db.execute("update event set body = ? where seq = 4", (bytes(body),))
    db.close()
    with open_store(tmp_path) as store, running(store.run):
        assert seqs(store) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
        until(lambda: store.stats()["gaps_open"])
        assert [(g["reason"], g["first"], g["count"]) for g in gap_bodies(store)] == [("damaged", 4, 1)]


def test_another_store_key_keeps_the_file_and_starts_fresh(tmp_path):
    """Sealed under another key: the events cannot be read, but they are kept, and come back with the key."""
    filled(tmp_path, 10)
    alarms = Alarms()
    with open_store(tmp_path, key=b"k" * 32, alarm=alarms) as store, running(store.run):
        ticket = store.accept(draft())
        assert ticket.wait(10)
        assert ticket.seq >= 10
        assert "another store key" in alarms.texts[0]
        assert until(lambda: list(tmp_path.glob("*aged-*.db")))


def test_a_database_removed_under_a_running_agent_is_replaced(tmp_path):
    """Somebody deletes the files: accepting goes on, and numbers do not start again."""
    with open_store(tmp_path) as store, running(store.run):
        assert store.accept(draft()).wait(5)
        for path in tmp_path.glob("outbox.db*"):
            path.unlink()
        deadline = time.monotonic() + 20
        while not (tmp_path / "outbox.db").exists() and time.monotonic() < deadline:
            ticket = store.accept(draft())
            ticket.wait(0.2)
        ticket = store.accept(draft())
        assert ticket.wait(10)
        assert ticket.seq > 0
    with open_store(tmp_path) as store:
        assert store.stats()["streams"]["door"]["next_seq"] == ticket.seq + 1


def test_memory_is_bounded_while_the_disk_refuses(tmp_path):
    """Held in memory up to pending_mib: beyond that the oldest give way, counted, and the ticket says so."""
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    with open_store(folder, pending_mib=0.25) as store, running(store.run):
        tickets = [store.accept(draft(i=i)) for i in range(3000)]
        evicted = [t for t in tickets if t.state == "evicted"]
        assert evicted
        assert "memory full" in evicted[0].reason
        assert store.stats()["state"] == "trouble"
        folder.unlink()
        kept = [t for t in tickets if t.state != "evicted"]
        assert all(t.wait(40) for t in kept)
        assert sum(g["count"] for g in gap_bodies(store)) == len(evicted)
