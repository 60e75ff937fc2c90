"""The processes of the outage test: `python -m tests.outage_agent generate|drain|read FOLDER PORT`.

generate: a store and an uplink under load; every event whose ticket says durable or published is noted in a side file
that is synced before the next look. drain: the same without load, until the outbox is empty. read: a subscriber with a
persistent session that opens what arrives and notes ids.
"""

import os
import sys
import time
from pathlib import Path

from agent.envelope import ReaderKey, SigningKey
from agent.errors import UplinkError
from agent.mqtt import Link
from agent.settings.uplink import UplinkConfig
from tests.lite import Keys, Listener, draft, make_uplink, open_store, running

STREAMS = (("door", "critical"), ("gate", "critical"), ("temp", "routine"))


def config(folder, port, user):
    """How `user` gets in."""
    return UplinkConfig(
        broker=f"mqtt://127.0.0.1:{port}", username=user, password_file=folder / "broker" / f"{user}.password",
        reconnect_first_s=0.05, reconnect_cap_s=0.2, connect_timeout_s=2,
    )  # fmt: skip


def keys(folder):
    """Read or make the keys of device and reader."""
    for name, kind in (("signing", SigningKey), ("reader", ReaderKey)):
        if not (folder / name).exists():
            (folder / name).write_bytes(kind.generate().pem())
            (folder / name).chmod(0o600)
    return Keys(SigningKey.load(folder / "signing"), ReaderKey.load(folder / "reader"))


def generate(folder, port):
    """Offer events as fast as a busy device until killed."""
    with open_store(folder / "outbox", routine_wait_s=0.2) as store, (folder / "accepted").open("a") as noted:
        uplink = make_uplink(config(folder, port, "device"), store, keys(folder))
        open_tickets = []
        with running(store.run, uplink.run):
            while True:
                for stream, event_class in STREAMS:
                    open_tickets.append(store.accept(draft(stream, event_class=event_class)))
                time.sleep(0.005)
                settled = [t for t in open_tickets if t.state in ("durable", "published")]
                if settled:
                    open_tickets = [t for t in open_tickets if t.state == "pending"]
                    noted.write("".join(f"{t.id}\n" for t in settled))
                    noted.flush()
                    os.fsync(noted.fileno())


def drain(folder, port):
    """Publish until nothing is left."""
    with open_store(folder / "outbox", routine_wait_s=0.2) as store:
        uplink = make_uplink(config(folder, port, "device"), store, keys(folder))
        with running(store.run, uplink.run):
            quiet_since = time.monotonic()
            while time.monotonic() - quiet_since < 1:
                stats = store.stats()
                if stats["events"] - stats["acknowledged_rows"] + stats["pending"] + stats["gaps_open"] > 0:
                    quiet_since = time.monotonic()
                time.sleep(0.05)


def read(folder, port):
    """Note the id of every event that arrives, and how many gap records."""
    opener = keys(folder).opener()
    with (folder / "received").open("a") as noted:
        while True:
            try:
                with Link(config(folder, port, "root"), "outage-reader") as link:
                    link.connect()
                    link.subscribe(["limpet/#"])
                    (folder / "subscribed").touch()
                    listener = Listener(link, opener)
                    while link.connected:
                        listener.read(lambda: False, 0.1)
                        noted.write("".join(f"{e.draft.kind} {e.id}\n" for e in listener.events))
                        noted.write("".join(f"error {error}\n" for error in listener.errors))
                        noted.flush()
                        listener.opened.clear()
                        listener.errors.clear()
            except UplinkError:
                time.sleep(0.1)


if __name__ == "__main__":
    {"generate": generate, "drain": drain, "read": read}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
