"""`limpet watch`: what devices say, opened, as it arrives."""

import argparse
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent import codec
from agent.cli import lines
from agent.cli.options import Commands
from agent.cli.phrases import told
from agent.cli.terminal import shown
from agent.clock import SystemClock
from agent.config import load_reader
from agent.envelope.setup import make_opener
from agent.reading import Connection, Heard, Refused, Said, filters, listen
from agent.settings.uplink import UplinkConfig

DEFAULT_READER = Path("/etc/limpet/reader.toml")
NAMELESS_SESSION_S = 300
"""How long the broker keeps the session of a reader without a client id, seconds: a restart of the broker, say."""


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("watch", help="show what devices say, decrypted, as it arrives")
    parser.add_argument("--reader", type=Path, default=DEFAULT_READER, help="reader.toml (default %(default)s)")
    parser.add_argument("--site", default="+", help="only this site (default all that the broker lets us read)")
    parser.add_argument("--device", default="+", help="only this device")
    parser.add_argument("--for", dest="for_s", type=float, metavar="SECONDS", help="end after this time")
    parser.add_argument("--count", type=int, metavar="N", help="end after N events")
    parser.add_argument("--all", action="store_true", help="also states, facets, alarms, refusals and the connection")
    parser.add_argument("--json", action="store_true", help="JSON lines (docs/cli.schema.json)")


def run(args: argparse.Namespace) -> int:
    """Print until Ctrl-C, --for or --count; 1 when --count was not reached in time or no connection ever came."""
    config = load_reader(args.reader)
    clock, stop = SystemClock(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    until_s = clock.mono_s() + args.for_s if args.for_s else None
    left, connected = args.count, False
    if config.broker.protocol == "3.1.1":
        print("limpet watch: MQTT 3.1.1 cannot report messages that the broker's access list refuses", file=sys.stderr)
    broker, client_id = _session(config.broker)
    heard = listen(broker, client_id, make_opener(config.reader), filters(args.site, args.device), stop, clock)
    for said in heard:
        connected = connected or (isinstance(said, Connection) and said.up)
        for fields in _fields(said):
            _tell(fields, everything=args.all, as_json=args.json)
            left = left - (fields["type"] == "event") if left is not None else None
        if left is not None and left <= 0:
            return 0
        if until_s is not None and clock.mono_s() >= until_s:
            break
    return 1 if left or not connected else 0


def _session(broker: UplinkConfig) -> tuple[UplinkConfig, str]:
    """A named reader keeps its session as configured; one without a name leaves nothing at the broker for long."""
    if broker.client_id:
        return broker, broker.client_id
    short = replace(broker, session_expiry_s=min(broker.session_expiry_s, NAMELESS_SESSION_S))
    return short, f"limpet-watch-{secrets.token_hex(4)}"


def _tell(fields: dict[str, Any], *, everything: bool, as_json: bool) -> None:
    """Events and gaps go to standard output; what keeps them from coming goes to standard error, the rest nowhere."""
    if everything or fields["type"] in ("event", "gap"):
        print(lines.write(fields) if as_json else shown(_words(fields)), flush=True)
    elif fields["type"] in ("connection", "refused", "alarm"):
        print(f"limpet watch: {shown(_words(fields))}", file=sys.stderr, flush=True)


def _fields(said: Said | None) -> Iterator[dict[str, Any]]:
    if isinstance(said, Heard):
        yield from _heard(said)
    elif isinstance(said, Refused):
        yield {"type": "refused", "topic": said.topic, "reason": said.reason}
    elif isinstance(said, Connection):
        yield {"type": "connection", "up": said.up} | ({"reason": said.reason} if said.reason else {})


def _heard(heard: Heard) -> Iterator[dict[str, Any]]:
    opened = heard.opened
    device = f"{opened.site}/{opened.device}"
    for event in opened.events:
        kind = "gap" if opened.place == "gap" else "event"
        yield {"type": kind, "device": device, "sealed": opened.sealed} | codec.to_map(event)
    if not opened.events and not opened.duplicates:
        what = {"type": opened.place, "device": device, "name": opened.name, "retained": heard.retained}
        yield what | {"body": lines.clean(opened.body)}


def _words(fields: dict[str, Any]) -> str:
    if fields["type"] in ("event", "gap"):
        seal = "sealed" if fields["sealed"] else "plain"
        what = f"{fields['stream']} {fields['kind']} {told(fields['body'])}"
        return f"{fields['device']} {what} seq={fields['seq']} {seal}"
    if fields["type"] == "connection":
        return "connected" if fields["up"] else f"not connected: {fields['reason']}"
    if fields["type"] == "refused":
        return f"REFUSED {fields['topic']}: {fields['reason']}"
    return f"{fields['device']} {fields['type']} {fields['name']} {lines.write(fields['body'])}"
