"""Section `wire`: bytes that an event sends and receives, TLS and MQTT included, against a script that sends JSON.

A relay between device and broker counts; connecting is no part of it, headers of TCP and IP come on top. Events have
some 300 bytes as CBOR and are the same for all. Routine events at 25 a second gather for a second before they are
sent; here they come ten times as fast and gather for a tenth, which makes the same messages.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from agent.codec import to_json
from agent.mqtt.protect import context
from agent.records import EventClass
from tools.bench import chart
from tools.bench.outboxes import PREFIX, WINDOW, Place, broker, encoded, event, lane, opened, running
from tools.bench.relay import Relay, relay
from tools.bench.run import Run

_SETTLE_S = 0.3
"""What follows a connection or the last acknowledgement is awaited so long, seconds."""
_GATHER_S, _PACE_HZ = 0.1, 250


def measure(run: Run) -> dict[str, Any]:
    """Bytes up and down per event, and messages per event, for each way of sending."""
    total, folders = run.many(1000, 100), count()
    figures = {}
    with broker(run.folder / "place") as found, relay(found.port) as between:
        place = replace(found, port=between.port)
        ways: dict[str, Callable[[], dict[str, float]]] = {
            "obvious script, JSON": partial(_script, place, between, total),
            "Limpet, one at a time": lambda: _live(place, between, run.folder / f"{next(folders)}", total, "critical"),
            "Limpet, routine, 25 a second": lambda: _live(
                place, between, run.folder / f"{next(folders)}", total, "routine"
            ),
            "Limpet, backlog": lambda: _backlog(place, between, run.folder / f"{next(folders)}", 5 * total),
        }
        for name, way in ways.items():
            figures[name] = way()
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    made = ["| how events are sent | bytes sent per event | received | events per message |", "|---|---|---|---|"]
    for name, told in figures.items():
        cells = (name, f"{told['up_bytes']:,.0f}", f"{told['down_bytes']:,.0f}", f"{1 / told['messages']:,.0f}")
        made.append(f"| {' | '.join(cells)} |")
    return made


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """Bars."""
    bars = [
        chart.Bar(name.removeprefix("Limpet, "), told["up_bytes"], f"{told['up_bytes']:,.0f} B",
                  colour=chart.BLUE if name.startswith("Limpet") else chart.RED)
        for name, told in figures.items()
    ]  # fmt: skip
    groups = {"script": bars[:1], "Limpet, sealed for one reader": bars[1:]}
    unit = "bytes sent per event of 300 bytes, TLS and MQTT included"
    return {"wire.svg": chart.bars("What an event sends", unit, groups)}


def _script(place: Place, between: Relay, total: int) -> dict[str, float]:
    """paho, one JSON object per event, QoS 1."""
    client, acked, connected, done = Client(CallbackAPIVersion.VERSION2, "device-script"), count(1), *_flags()
    client.tls_set_context(context(place.config(1)))
    client.max_inflight_messages_set(WINDOW)
    client.on_connect = lambda *_: connected.set()
    client.on_publish = lambda *_: done.set() if next(acked) == total else None
    client.connect("localhost", place.port)
    client.loop_start()
    assert connected.wait(10)
    counted = _Counted(between)
    for i in range(total):
        client.publish(f"{PREFIX}/e/door", to_json(encoded(i)), 1)
    assert done.wait(120)
    told = counted.per_event(total, total)
    client.disconnect()
    client.loop_stop()
    return told


def _flags() -> tuple[threading.Event, threading.Event]:
    return threading.Event(), threading.Event()


def _live(place: Place, between: Relay, folder: Path, total: int, event_class: EventClass) -> dict[str, float]:
    """Accepted while connected: critical ones each on its own, routine ones as they gather."""
    alone = event_class == "critical"
    batch, gather_s = (1, 0.0) if alone else (500, _GATHER_S)
    with running(folder) as store:
        uplink = place.uplink(store, batch, gather_s=gather_s, gather_routine_s=gather_s)
        with lane(uplink.run):
            _until(lambda: uplink.stats()["connected"])
            counted = _Counted(between)
            start_s = time.perf_counter()
            for i in range(total):
                store.accept(event(i, event_class))
                time.sleep(max(0.0, start_s + i / _PACE_HZ - time.perf_counter()))
            _until(lambda: uplink.stats()["acked_events"] == total)
            return counted.per_event(total, uplink.stats()["sent_messages"])


def _backlog(place: Place, between: Relay, folder: Path, total: int) -> dict[str, float]:
    """What waited for the connection; its keys and status are part of the count."""
    with opened(folder) as filled:
        for i in range(total):
            filled.accept(event(i))
    with running(folder) as store:
        uplink, counted = place.uplink(store, 500), _Counted(between)
        with lane(uplink.run):
            _until(lambda: uplink.stats()["acked_events"] == total)
            return counted.per_event(total, uplink.stats()["sent_messages"])


class _Counted:
    """What passes the relay from now on."""

    def __init__(self, between: Relay) -> None:
        time.sleep(_SETTLE_S)
        self._relay, self._up, self._down = between, between.up_bytes, between.down_bytes

    def per_event(self, events: int, messages: int) -> dict[str, float]:
        """Bytes and messages, once all has passed."""
        time.sleep(_SETTLE_S)
        up, down = self._relay.up_bytes - self._up, self._relay.down_bytes - self._down
        return {"up_bytes": up / events, "down_bytes": down / events, "messages": messages / events}


def _until(true: Callable[[], bool], limit_s: float = 120.0) -> None:
    end_s = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end_s:
            raise TimeoutError(f"the uplink has not sent everything in {limit_s:g} s")
        time.sleep(0.01)
