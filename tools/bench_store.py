"""Measure the store and the uplink on this machine; prints the table of docs/delivery.md.

    python tools/bench_store.py [FOLDER] [--quick]

FOLDER lies on the disk to be measured (default a temporary folder). Bytes on disk are those that this process caused to
be written (/proc/self/io write_bytes), so caches, file system journal and the card's own amplification come on top.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.broker import Message
from agent.codec import encode
from agent.demo.broker import Account, BrokerPlan, choose
from agent.demo.pki import make_keys
from agent.envelope import DeviceIdentity, ReaderPublic, Sealer, SigningKey, Topics
from agent.envelope.atrest import StoreKey
from agent.mqtt import Link
from agent.records import Draft, EventClass
from agent.settings.store import StoreSettings
from agent.settings.uplink import UplinkConfig
from agent.store import Store
from agent.uplink import Uplink
from agent.uplink.conversation import Subject


def event(i: int, event_class: EventClass = "critical") -> Draft:
    """A typical event, about 300 bytes as CBOR."""
    body = {"i": i, "label": "person", "score": 0.91, "box": [12.0, 30.5, 220.0, 411.25]}
    return Draft(
        "door", "appears", body, time.time(), time.monotonic(), event_class, pipeline="entrance",
        decided_by="appears person 3 of 5", config_digest="fedcba9876543210",
    )  # fmt: skip


@contextmanager
def store_in(folder: Path, wait_s: float = 30.0, budget_mib: int = 2048) -> Iterator[Store]:
    """A running store."""
    settings = StoreSettings(folder=folder, budget_mib=budget_mib, pending_mib=64, routine_wait_s=wait_s)
    with Store.open(settings, StoreKey(bytes(32)), encode) as store, lane(store.run):
        yield store


@contextmanager
def lane(body: Callable[[threading.Event, Callable[[], None]], None]) -> Iterator[None]:
    """A lane body in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=body, args=(stop, lambda: None))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def written() -> int:
    """Bytes that this process caused to be written so far."""
    with Path("/proc/self/io").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("write_bytes"))


def accepting(folder: Path, count: int) -> None:
    """Burst: how fast offers return, how fast they are durable, bytes per event."""
    size = len(encode_one())
    with store_in(folder) as store:
        store.accept(event(0)).wait(10)
        before, start = written(), time.perf_counter()
        tickets = [store.accept(event(i)) for i in range(count)]
        offered_s = time.perf_counter() - start
        assert tickets[-1].wait(60)
        durable_s = time.perf_counter() - start
    per_event = (written() - before) / count
    row("event as CBOR", f"{size} B")
    row("offers, one thread, burst", f"{count / offered_s:,.0f}/s")
    row("durable, burst (group commit)", f"{count / durable_s:,.0f}/s")
    row("bytes written per event, burst", f"{per_event:,.0f} B")


def one_by_one(folder: Path, count: int) -> None:
    """One event at a time, each waited for."""
    with store_in(folder) as store:
        store.accept(event(0)).wait(10)
        before, start = written(), time.perf_counter()
        for i in range(count):
            assert store.accept(event(i)).wait(10)
        spent_s = time.perf_counter() - start
        row("critical, each waited for", f"{count / spent_s:,.0f}/s")
        row("bytes written per critical event, one per commit", f"{(written() - before) / count:,.0f} B")


def routine(folder: Path, seconds: int) -> None:
    """Routine events at 1/s with T = 30 s while offline, a hundred times as fast: 100/s with T = 0.3 s."""
    with store_in(folder, wait_s=0.3) as store:
        store.accept(event(0, "routine")).wait(10)
        before, start = written(), time.perf_counter()
        for i in range(seconds):
            last = store.accept(event(i, "routine"))
            time.sleep(max(0.0, start + i / 100 - time.perf_counter()))
        assert last.wait(10)
        row("bytes written per routine event at 1/s, T = 30 s", f"{(written() - before) / seconds:,.0f} B")


def million(folder: Path, count: int) -> None:
    """A long outage: fill, open, first batch."""
    with store_in(folder) as store:
        for i in range(count):
            last = store.accept(event(i))
            if i % 5000 == 0:
                while store.stats()["pending"] > 20_000:
                    time.sleep(0.005)
        assert last.wait(60)
    size = sum(p.stat().st_size for p in folder.glob("outbox.db*"))
    start = time.perf_counter()
    store = Store.open(StoreSettings(folder=folder, budget_mib=2048), StoreKey(bytes(32)), encode)
    opened_s = time.perf_counter() - start
    first = store.take(0, 500)
    batch_s = time.perf_counter() - start
    assert first is not None
    store.close()
    row(f"open with {count:,} events", f"{opened_s * 1000:,.0f} ms; first 500 after {batch_s * 1000:,.0f} ms")
    row("size on disk per event", f"{size / count:,.0f} B")


def draining(folder: Path, count: int, batch: int) -> None:
    """Publish a backlog to a real broker over TLS 1.3; bytes are those of MQTT payloads."""
    import datetime as dt

    keys = make_keys(folder / "keys", dt.datetime.now(dt.UTC))
    prefix = "limpet/v1/site/device"
    accounts = (Account("device", write=(f"{prefix}/#",)), Account("reader", read=(f"{prefix}/#",)))
    with choose(BrokerPlan(folder / "broker", keys, accounts)) as broker, store_in(folder / "outbox") as store:
        last = [store.accept(event(i)) for i in range(count)][-1]
        assert last.wait(60)
        config = UplinkConfig(
            broker=f"mqtts://localhost:{broker.port}", ca_file=keys.authority, batch_events=batch,
            certificate=keys.clients["device"].certificate, key=keys.clients["device"].key, window=100,
        )  # fmt: skip
        identity = DeviceIdentity("site", "device", SigningKey.load(keys.device.key), b"")
        reader = ReaderPublic.load(keys.reader.certificate)
        subject = Subject(Topics("site", "device"), dict)
        uplink = Uplink(config, subject, store, lambda: Sealer(identity, [reader]), open_link=open_link)
        with lane(uplink.run):
            while not uplink.stats()["connected"]:
                time.sleep(0.001)
            start = time.perf_counter()
            while uplink.stats()["acked_events"] < count:
                time.sleep(0.001)
            spent_s = time.perf_counter() - start
        stats = uplink.stats()
    how = f"batches of {batch}" if batch > 1 else "one by one"
    row(f"drain over TLS 1.3, {how}", f"{count / spent_s:,.0f} events/s")
    row(f"sealed payload per event, {how}", f"{stats['acked_bytes'] / count:,.0f} B")


def open_link(config: UplinkConfig, client_id: str, will: Message) -> Link:
    """A connection to the broker."""
    return Link(config, client_id, will)


def encode_one() -> bytes:
    """One event as it is stored and published."""
    from agent.records import Event

    return encode(Event("01890000-0000-7000-8000-000000000000", "0123456789abcdef", 12345, event(1)))


def row(what: str, value: str) -> None:
    """One line of the table."""
    print(f"| {what} | {value} |", flush=True)


def main() -> int:
    """Run everything."""
    parser = argparse.ArgumentParser(description="Measure store and uplink.")
    parser.add_argument("folder", nargs="?", type=Path, help="a folder on the disk to be measured")
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    args = parser.parse_args()
    less = 10 if args.quick else 1
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=args.folder))
    print("| what | figure |\n|---|---|")
    try:
        accepting(folder / "a", 50_000 // less)
        one_by_one(folder / "b", 2000 // less)
        routine(folder / "c", 3000 // less)
        million(folder / "d", 1_000_000 // less)
        draining(folder / "e", 50_000 // less, 500)
        draining(folder / "f", 20_000 // less, 1)
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
