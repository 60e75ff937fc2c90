"""A store and an uplink on their own, as the sections about rates and bytes need them, and a broker to talk to."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.codec import encode
from agent.demo.broker import Account, BrokerPlan, choose
from agent.demo.pki import DemoKeys, make_keys
from agent.envelope import DeviceIdentity, ReaderPublic, Sealer, SigningKey, Topics
from agent.envelope.atrest import StoreKey
from agent.mqtt import Link
from agent.records import Draft, Event, EventClass
from agent.settings.store import StoreSettings
from agent.settings.uplink import UplinkConfig
from agent.store import Store
from agent.uplink import Uplink
from agent.uplink.conversation import Subject

PREFIX = "limpet/v1/site/device"
WINDOW = 100
"""Messages under way at once, of every contender."""


def event(i: int, event_class: EventClass = "critical") -> Draft:
    """A typical event, about 300 bytes as CBOR."""
    body = {"i": i, "label": "person", "score": 0.91, "box": [12.0, 30.5, 220.0, 411.25]}
    return Draft(
        "door", "appears", body, time.time(), time.monotonic(), event_class, pipeline="entrance",
        decided_by="appears person 3 of 5", config_digest="fedcba9876543210",
    )  # fmt: skip


def encoded(i: int, event_id: str = "01890000-0000-7000-8000-000000000000") -> bytes:
    """One event as it is stored and published."""
    return encode(Event(event_id, "0123456789abcdef", i, event(i)))


def opened(folder: Path, wait_s: float = 30.0, budget_mib: int = 2048) -> Store:
    """A store in `folder`; its writer does not run yet."""
    settings = StoreSettings(folder=folder, budget_mib=budget_mib, pending_mib=64, routine_wait_s=wait_s)
    return Store.open(settings, StoreKey(bytes(32)), encode)


@contextmanager
def running(folder: Path, wait_s: float = 30.0) -> Iterator[Store]:
    """A store in `folder` with its writer."""
    with opened(folder, wait_s) as store, lane(store.run):
        yield store


@contextmanager
def lane(body: Callable[[threading.Event, Callable[[], None]], None]) -> Iterator[None]:
    """A lane body in a thread of its own."""
    stop = threading.Event()
    thread = threading.Thread(target=body, args=(stop, lambda: None))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Place:
    """A broker with TLS 1.3 and mutual certificates, and the keys to talk to it."""

    keys: DemoKeys
    port: int

    def config(self, batch: int, **changes: float) -> UplinkConfig:
        """What an uplink of up to `batch` events in a message is told."""
        mine = self.keys.clients["device"]
        return UplinkConfig(
            broker=f"mqtts://localhost:{self.port}", ca_file=self.keys.authority, batch_events=batch,
            certificate=mine.certificate, key=mine.key, window=WINDOW, **changes,
        )  # fmt: skip

    def uplink(self, store: Store, batch: int, **changes: float) -> Uplink:
        """An uplink that empties `store`, sealing for one reader; `changes` of its settings."""
        identity = DeviceIdentity("site", "device", SigningKey.load(self.keys.device.key), b"")
        reader = ReaderPublic.load(self.keys.reader.certificate)
        subject = Subject(Topics("site", "device"), dict)
        return Uplink(self.config(batch, **changes), subject, store, lambda: Sealer(identity, [reader]), open_link=Link)


@contextmanager
def broker(folder: Path) -> Iterator[Place]:
    """mosquitto where it is installed, else the embedded broker."""
    keys = make_keys(folder / "keys", dt.datetime.now(dt.UTC))
    accounts = (Account("device", write=(f"{PREFIX}/#",)), Account("reader", read=(f"{PREFIX}/#",)))
    with choose(BrokerPlan(folder / "broker", keys, accounts)) as found:
        yield Place(keys, found.port)
