"""`limpet outbox`: look into the store of events that wait for the broker.

While the agent runs it is asked through its socket, because only one process may open the outbox; otherwise the outbox
is opened here, under its exclusive lock and as its owner.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agent.cli.options import Commands, add_config
from agent.cli.terminal import counted
from agent.control import ask
from agent.errors import ConfigError
from agent.reconfigure import usable_config
from agent.settings.store import StoreSettings

Query = Callable[[dict[str, Any]], dict[str, Any]]
"""Asks the outbox: see `agent.store.looking.answer`."""


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("outbox", help="look into the store of events that wait for the broker")
    parser.add_argument("what", choices=("stats", "list", "export"), help="counts; one line per event; whole events")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="JSON lines (docs/cli.schema.json); export always is")
    parser.add_argument("--limit", type=int, default=0, help="at most so many events (default all)")


def run(args: argparse.Namespace) -> int:
    """Ask the running agent, or open the outbox; 0 when it could be read."""
    config = usable_config(args.config, os.environ)
    with opened(config.store, lambda request: ask(config.paths.socket, "outbox", **request)) as query:
        return show(args, query)


@contextmanager
def opened(settings: StoreSettings, ask_agent: Query) -> Iterator[Query]:
    """A way to ask: the outbox itself when nobody holds it, else the agent. Raises ConfigError or StoreError."""
    from agent.codec import encode
    from agent.envelope.atrest import load_store_key
    from agent.store import OutboxInUseError, Store
    from agent.store.looking import answer

    try:
        owner = (settings.folder / "outbox.db").stat().st_uid
    except FileNotFoundError as exc:
        why = "there is none: has the agent run, with this [store] folder?"
        raise ConfigError(f"outbox {settings.folder}: {why}") from exc
    except PermissionError:
        owner = -1
    if owner != os.geteuid():
        yield ask_agent  # opening it here would leave files that the agent cannot write
        return
    try:
        store = Store.open(settings, load_store_key(settings.key_file), encode)
    except OutboxInUseError:
        yield ask_agent
        return
    with store:
        yield lambda request: answer(store, request)


def show(args: argparse.Namespace, query: Query) -> int:
    """Print what was asked for."""
    if args.what == "stats":
        stats = query({"what": "stats"})
        print(json.dumps(stats) if args.json else "\n".join(stats_words(stats)))
        return 0
    for shown, row in enumerate(_rows(query, content=args.what == "export")):
        if args.limit and shown >= args.limit:
            break
        print(json.dumps(row) if args.json or args.what == "export" else _line(row))
        if args.what == "export" and shown and shown % 1000 == 0:
            print(counted(shown, "event"), file=sys.stderr)
    return 0


def _rows(query: Query, *, content: bool) -> Iterator[dict[str, Any]]:
    after = 0
    while rows := query({"what": "rows", "after": after, "content": content})["rows"]:
        yield from rows
        after = rows[-1]["n"]


def stats_words(stats: dict[str, Any]) -> list[str]:
    """What the store says of itself (`Store.stats`), for people."""
    s = stats
    lines = [
        f"{s['state']}: {counted(s['events'], 'event')} on disk, {s['pending']} in memory, {s['parked']} set aside",
        f"{s.get('used', 0) / 1048576:.1f} of {s['budget'] / 1048576:.0f} MiB used",
        f"since the start: {s['accepted']} accepted, {s['acknowledged']} acknowledged, {s['evicted']} dropped",
    ]
    lines += [f"! {stats['trouble']}"] if stats["trouble"] else []
    lines += [f"! damaged file kept aside: {name}" for name in stats["set_aside"]]
    streams = stats["streams"].items()
    return lines + [f"  {name:<32} {s['events']:>9} waiting, next number {s['next_seq']}" for name, s in streams]


def _line(row: dict[str, Any]) -> str:
    aside = f"  set aside: {row['set_aside']}" if "set_aside" in row else ""
    return f"{row['t_wall']}  {row['stream']:<24} {row['seq']:>9} {row['class']:<8} {row['bytes']:>6} B{aside}"
