"""The smallest agent there is: a real store and a real uplink in two threads, and a reader with its own key."""

import os
import threading
import time
from contextlib import contextmanager

from agent.clock import SystemClock
from agent.codec import encode
from agent.envelope import (
    DeviceIdentity,
    Opener,
    PlainSealer,
    ReaderKey,
    Sealer,
    SigningKey,
    Topics,
    Trust,
    TrustedDevice,
)
from agent.envelope.atrest import StoreKey
from agent.errors import EnvelopeError
from agent.mqtt import Link
from agent.records import Draft
from agent.settings.store import StoreSettings
from agent.store import Store
from agent.uplink import Uplink
from agent.uplink.conversation import Subject

SITE, DEVICE = "site", "device"


def draft(stream="door", i=0, event_class="critical", kind="appears", size=0, **changes):
    """A typical event of about 300 bytes; `size` adds bytes to its body."""
    body = {"i": i, "label": "person", "score": 0.91, "box": [12.0, 30.5, 220.0, 411.25]}
    if size:
        body["filler"] = os.urandom(size // 2).hex()  # does not compress well
    values = {"t_wall_s": time.time(), "t_mono_s": time.monotonic(), "event_class": event_class, **changes}
    return Draft(stream, kind, body, pipeline="entrance", decided_by="person 3 of 5", **values)


def open_store(folder, key=bytes(32), clock=None, alarm=None, **settings):
    """A store in `folder` with a fixed key."""
    return Store.open(StoreSettings(folder=folder, **settings), StoreKey(key), encode, clock, alarm)


@contextmanager
def running(*lanes):
    """Run lane bodies in threads, then stop them all and wait."""
    stop = threading.Event()
    threads = [threading.Thread(target=lane, args=(stop, lambda: None), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(15)
        assert not any(thread.is_alive() for thread in threads), "a lane did not stop"


def until(condition, timeout_s=10.0):
    """Wait for `condition()`; returns its value."""
    end = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return value


class Keys:
    """The device's signing key and one reader's key."""

    def __init__(self, signing=None, reader=None, epoch_s=3600):
        self.signing = signing or SigningKey.generate()
        self.reader = reader or ReaderKey.generate()
        self.epoch_s = epoch_s

    def sealer(self):
        identity = DeviceIdentity(SITE, DEVICE, self.signing, b"")
        return Sealer(identity, [self.reader.public], max_age_s=self.epoch_s)

    def opener(self):
        return Opener([self.reader], Trust((TrustedDevice(SITE, DEVICE, "sealed", (self.signing.public,)),)))


def make_uplink(config, store, keys=None, facets=dict, delivered=None):
    """An uplink that seals, or speaks plainly when `keys` is None."""
    subject = Subject(Topics(SITE, DEVICE), facets)
    make = keys.sealer if keys else PlainSealer
    more = {"delivered": delivered} if delivered else {}
    return Uplink(config, subject, store, make, SystemClock(), open_link=Link, **more)


class Listener:
    """Reads a link and opens what it can; remembers events in order of arrival, duplicates left out by the opener."""

    def __init__(self, link, opener):
        self.link, self.opener = link, opener
        self.opened, self.errors, self.topics = [], [], []

    @property
    def events(self):
        return [event for opened in self.opened for event in opened.events]

    def seqs(self, stream):
        return [e.seq for e in self.events if e.draft.stream == stream and e.draft.kind != "gap"]

    def gaps(self):
        return [e.draft.body for e in self.events if e.draft.kind == "gap"]

    def bodies(self, place):
        return [o.body for o in self.opened if o.place == place]

    def read(self, enough, timeout_s=10.0):
        """Read until `enough()` or the time is up; returns whether it was enough."""
        end = time.monotonic() + timeout_s
        while not enough() and time.monotonic() < end:
            self.link.turn(0.05)
            while self.link.received:
                message = self.link.received.popleft()
                self.topics.append(message.topic)
                try:
                    self.opened.extend(self.opener.open(message.topic, message.payload))
                except EnvelopeError as exc:
                    self.errors.append(str(exc))
        return enough()
