"""`limpet audit`: the trail of every decision about commands, and whether it is whole.

While the agent runs it is asked through its socket, because only one process may open the journal; otherwise the
journal is opened here, under its lock and as its owner.
"""

import argparse
import datetime as dt
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agent.cli.options import Commands, add_config
from agent.control import ask
from agent.errors import ConfigError, StoreError
from agent.journal import Entry, Head, Journal, Link, first_bad
from agent.reconfigure import usable_config
from agent.settings.commands import CommandsConfig

Query = Callable[[int], dict[str, Any]]
"""Entries after a number: see `agent.commands.desk.page`."""


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("audit", help="the trail of commands: who asked for what, and what became of it")
    parser.add_argument("what", choices=("verify", "list"), help="check that nothing was changed; one line per entry")
    add_config(parser)
    parser.add_argument("--head", action="append", default=[], metavar="N:HEX", help="a head that was published")
    parser.add_argument("--json", action="store_true", help="JSON lines")


def run(args: argparse.Namespace) -> int:
    """0 when the trail is whole; raises StoreError that names the first bad entry."""
    config = usable_config(args.config, os.environ)
    known = [_head(text) for text in args.head]
    with opened(config.commands, lambda after: ask(config.paths.socket, "audit", after=after)) as query:
        anchor, links = read(query)
    if args.what == "list":
        for link in links:
            print(_line(link, as_json=args.json))
        return 0
    if wrong := first_bad(links, anchor, known):
        raise StoreError(f"audit: {wrong}: somebody touched the journal; trust what was published, not what it says")
    last = Head(links[-1].n, links[-1].hash) if links else anchor
    if args.json:
        print(json.dumps({"n": last.n, "head": last.hash.hex(), "entries": len(links)}))
    else:
        print(f"{len(links)} entries, none changed or missing; head {last.n}:{last.hash.hex()}")
    return 0


@contextmanager
def opened(settings: CommandsConfig, ask_agent: Query) -> Iterator[Query]:
    """A way to ask: the journal itself when nobody holds it, else the agent. Raises ConfigError or StoreError."""
    from agent.commands.desk import page

    try:
        owner = settings.journal.stat().st_uid
    except FileNotFoundError as exc:
        raise ConfigError(f"journal {settings.journal}: there is none: does [commands] take any here?") from exc
    except PermissionError:
        owner = -1
    if owner != os.geteuid():
        yield ask_agent  # opening it here would leave files that the agent cannot write
        return
    try:
        journal = Journal(settings.journal)
    except StoreError as exc:
        if "another process" not in str(exc):
            raise
        yield ask_agent
        return
    with journal:
        if journal.trouble:
            print(f"limpet audit: {journal.trouble}", file=sys.stderr)
        yield lambda after: page(journal, after)


def read(query: Query) -> tuple[Head, list[Link]]:
    """The whole trail, and what it hangs on."""
    anchor, links = Head(), list[Link]()
    while (answer := query(links[-1].n if links else 0))["entries"]:
        anchor = anchor if links else Head(answer["anchor"]["n"], bytes.fromhex(answer["anchor"]["hash"]))
        links += [_link(entry) for entry in answer["entries"]]
    return anchor, links


def _link(entry: dict[str, Any]) -> Link:
    return Link(entry["n"], Entry(entry["t_ms"], entry["line"]), bytes.fromhex(entry["hash"]))


def _head(text: str) -> Head:
    number, _, digest = text.partition(":")
    try:
        return Head(int(number), bytes.fromhex(digest))
    except ValueError as exc:
        raise ConfigError(f"--head {text}: write it as NUMBER:HEX, as the twin facet 'commands' shows it") from exc


def _line(link: Link, *, as_json: bool) -> str:
    said = json.loads(link.entry.line)
    when = dt.datetime.fromtimestamp(link.entry.t_ms / 1000, dt.UTC).isoformat(timespec="milliseconds")
    if as_json:
        return json.dumps({"n": link.n, "t_wall": when, **said})
    who = f" by {said['by']}" if "by" in said else ""
    about = " ".join(str(said[key]) for key in ("op", "id") if said.get(key))
    why = f": {said.get('reason', '')} {said.get('text', '')}".rstrip(": ")
    return f"{link.n:>6}  {when}  {said.get('what', ''):<10} {about}{who}{why}"
