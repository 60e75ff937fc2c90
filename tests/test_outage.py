"""The promise under fire: processes are killed, the broker comes and goes, and no accepted event is lost."""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from tests import outage_agent
from tests.broker import listening, mosquitto
from tests.lite import Keys, Listener, draft, make_uplink, open_store, running, until

ROOT = Path(__file__).resolve().parent.parent
KILLS = 50


@contextmanager
def process(role, folder, port):
    """One of the outage test's processes, killed -9 at the end."""
    command = [sys.executable, "-m", "tests.outage_agent", role, str(folder), str(port)]
    with (folder / f"{role}.log").open("ab") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait(10)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_fifty_kills_and_ten_broker_restarts_lose_no_accepted_event(tmp_path):
    """kill -9 of the agent under load, half of them while the broker is down, 10 broker restarts: every event whose
    ticket said durable or published is decrypted by a separate process; losses that were never accepted are told."""
    outage_agent.keys(tmp_path)
    with mosquitto(tmp_path) as broker, process("read", tmp_path, broker.port):
        assert until((tmp_path / "subscribed").exists, 20)
        restarts = 0
        for kill in range(KILLS):
            if kill % 10 == 5:
                broker.stop()
            if kill % 10 == 0 and kill:
                broker.start()
                restarts += 1
            enough = len(lines(tmp_path / "accepted")) + 20
            with process("generate", tmp_path, broker.port) as child:
                assert until(lambda n=enough: len(lines(tmp_path / "accepted")) > n, 20), log_of(tmp_path, "generate")
                time.sleep(0.1 * (kill % 4))
                if kill % 10 in (2, 4) and restarts < 9:
                    broker.restart()
                    restarts += 1
                    time.sleep(0.15)
                assert child.poll() is None
        broker.start()
        assert restarts + 1 >= 10
        with process("drain", tmp_path, broker.port) as child:
            assert child.wait(60) == 0, log_of(tmp_path, "drain")
        accepted = set(lines(tmp_path / "accepted"))
        assert until(lambda: accepted <= received(tmp_path), 15), len(accepted - received(tmp_path))
    assert len(accepted) > 2000
    errors = {line for line in lines(tmp_path / "received") if line.startswith("error")}
    assert all("opened before" in error for error in errors), errors  # the broker delivers again after its restarts
    assert sum(line.startswith("gap") for line in lines(tmp_path / "received")) >= KILLS / 5  # an outage has one


def received(folder):
    return {line.split()[1] for line in lines(folder / "received") if not line.startswith("error")}


def log_of(folder, role):
    return (folder / f"{role}.log").read_text()[-2000:]


def test_a_broker_that_is_killed_loses_nothing_that_it_has_not_acknowledged(tmp_path):
    """kill -9 of the broker under load, five times: what is missing in the end was acknowledged before."""
    keys = Keys()
    with mosquitto(tmp_path) as broker, open_store(tmp_path / "outbox") as store:
        with listening(broker):
            pass
        acknowledged, tickets = set(), {}
        inner = store.acknowledge
        store.acknowledge = lambda ns: (acknowledged.update(ns), inner(ns))
        uplink = make_uplink(broker.uplink(), store, keys)
        with running(store.run, uplink.run):
            for i in range(1500):
                ticket = store.accept(draft(i=i))
                tickets[ticket.id] = i + 1  # its place: this outbox has one stream and no gap
                time.sleep(0.001)
                if i % 300 == 150:
                    broker.kill()
                    assert until(lambda: not uplink.stats()["connected"], 10)  # its last answers have been read
                    doomed = set(acknowledged)
                    broker.start()
            assert until(lambda: len(acknowledged) >= 1500, 20)
            with listening(broker) as link:
                listener = Listener(link, keys.opener())
                listener.read(lambda: len({e.id for e in listener.events}) >= 1500, 5)
        missing = {tickets[i] for i in set(tickets) - {e.id for e in listener.events}}
        assert missing <= doomed
        assert len(missing) < 300
