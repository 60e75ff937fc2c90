"""Section `rates`: how fast events are accepted and drained, against the bare library that does the same.

accept: one thread offers, the store's writer commits; the floor is a loop in one thread that encodes, seals and commits
the same bytes in batches of the same size. drain: the uplink empties a store into a broker over TLS 1.3 with mutual
certificates; the floor is paho publishing ready-made payloads of the same size with the same window, one by one.
"""

import os
import sqlite3
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.envelope.atrest import StoreKey
from agent.mqtt.protect import context
from agent.store.ids import EventIds
from agent.store.tickets import aad_of, raw_id
from tools.bench.outboxes import PREFIX, WINDOW, Place, broker, encoded, event, lane, opened, running
from tools.bench.run import Run
from tools.bench.spread import interleaved, ratios, spread, words

COMMIT_BYTES = 256 << 10
"""Bodies in a commit, as the store has it."""
SEALED_BYTES = 354
"""One sealed event on the wire."""
BATCH_EVENTS = 500
GOALS = {"accept": 0.9, "drain, one by one": 0.8, "drain, batches": 10.0}
"""Least ratio to the floor."""
_FLOORS = {"accept": "bare accept", "drain, one by one": "paho", "drain, batches": "paho"}


def measure(run: Run) -> dict[str, Any]:
    """Events per second and ratios to the floor of the same round."""
    offered, drained, folders = run.many(20_000, 500), run.many(10_000, 300), count()
    with broker(run.folder / "place") as place:
        found = interleaved(
            {
                "bare accept": lambda: _bare_accept(run.folder / f"{next(folders)}", offered),
                "accept": lambda: _accept(run.folder / f"{next(folders)}", offered),
                "paho": partial(_paho, place, drained),
                "drain, one by one": lambda: _drain(place, run.folder / f"{next(folders)}", drained, 1),
                "drain, batches": lambda: _drain(place, run.folder / f"{next(folders)}", 5 * drained, BATCH_EVENTS),
            },
            run.many(7, 1),
        )
    figures: dict[str, Any] = {name: {"events_per_s": spread(values)} for name, values in found.items()}
    for name, floor in _FLOORS.items():
        figures[name]["ratio"] = ratios(found[name], found[floor])
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    made = ["| what | events/s | over its floor | goal, at least |", "|---|---|---|---|"]
    for name, figure in figures.items():
        ratio = words(figure["ratio"]) if "ratio" in figure else ""
        goal = f"{GOALS[name]:g}" if name in GOALS else ""
        made.append(f"| {name} | {words(figure['events_per_s'], 0)} | {ratio} | {goal} |")
    return made


def _bare_accept(folder: Path, total: int) -> float:
    folder.mkdir()
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("create table event (n integer primary key autoincrement, id blob, seq int, t_wall real, body blob)")
    key, ids, done, start = StoreKey(bytes(32)), EventIds(time.time), 0, time.perf_counter()
    while done < total:
        rows, size = [], 0
        while size < COMMIT_BYTES and done < total:
            name = ids.make()
            body = encoded(done, name)
            raw = raw_id(name)
            rows.append((raw, done, time.time(), key.seal(body, aad_of("door", raw))))
            size, done = size + len(body), done + 1
        db.execute("begin immediate")
        db.executemany("insert into event (id, seq, t_wall, body) values (?, ?, ?, ?)", rows)
        db.execute("commit")
    spent_s = time.perf_counter() - start
    db.close()
    return total / spent_s


def _accept(folder: Path, total: int) -> float:
    with running(folder) as store:
        assert store.accept(event(0)).wait(10)
        start = time.perf_counter()
        tickets = [store.accept(event(i)) for i in range(total)]
        assert tickets[-1].wait(120)
        return total / (time.perf_counter() - start)


def _drain(place: Place, folder: Path, total: int, batch: int) -> float:
    with opened(folder) as filled:
        for i in range(total):
            filled.accept(event(i))
    with running(folder) as store:
        uplink = place.uplink(store, batch)
        with lane(uplink.run):
            while not uplink.stats()["connected"]:
                time.sleep(0.001)
            start = time.perf_counter()
            while uplink.stats()["acked_events"] < total:
                time.sleep(0.002)
            return total / (time.perf_counter() - start)


def _paho(place: Place, total: int) -> float:
    """paho as its manual says: its own thread, its own queue."""
    client = Client(CallbackAPIVersion.VERSION2, "device-bare", protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set_context(context(place.config(1)))
    client.max_inflight_messages_set(WINDOW)
    connected, done, acked, payload = threading.Event(), threading.Event(), count(1), os.urandom(SEALED_BYTES)
    client.on_connect = lambda *_: connected.set()
    client.on_publish = lambda *_: done.set() if next(acked) == total else None
    client.connect("localhost", place.port)
    client.loop_start()
    assert connected.wait(10)
    start = time.perf_counter()
    for _ in range(total):
        client.publish(f"{PREFIX}/e/door", payload, 1)
    assert done.wait(120)
    spent_s = time.perf_counter() - start
    client.disconnect()
    client.loop_stop()
    return total / spent_s
