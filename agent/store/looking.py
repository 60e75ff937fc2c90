"""Looking into the outbox from outside: the same questions for the running agent's socket and for a store at rest."""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

from agent import cbor, codec
from agent.errors import StoreError
from agent.store.store import Store

PAGE_ROWS = 500
"""Most events in one answer."""

Answer = Callable[[Mapping[str, Any]], dict[str, Any]]


def handlers(store: Store) -> dict[str, Answer]:
    """What the agent's socket answers about its outbox: question -> handler."""
    return {"outbox": lambda request: answer(store, request)}


def answer(store: Store, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer {"what": "stats"} or {"what": "rows", "after": n, "content": bool}. Raises StoreError otherwise.

    rows: up to `PAGE_ROWS` events that lie on the disk, oldest first, after place `after`; the next page starts after
    the last row's "n". With "content" each row carries "event", its map, or "unreadable": true.
    """
    if request.get("what") == "stats":
        return store.stats()
    after = request.get("after", 0)
    if request.get("what") != "rows" or type(after) is not int:
        raise StoreError('outbox: ask {"what": "stats"} or {"what": "rows", "after": a whole number}')
    return {"rows": [_row(row, bool(request.get("content"))) for row in store.rows(after, PAGE_ROWS)]}


def _row(row: dict[str, Any], content: bool) -> dict[str, Any]:
    made = {
        "type": "gap" if row["gap"] else "event",
        "n": row["n"],
        "id": row["id"],
        "stream": row["stream"],
        "seq": row["seq"],
        "class": "routine" if row["routine"] else "critical",
        "t_wall": dt.datetime.fromtimestamp(row["t_wall"], dt.UTC).isoformat(timespec="milliseconds"),
        "bytes": row["bytes"],
    }
    if row["parked"]:
        made["set_aside"] = row["parked"]
    if content:
        body = row["event"]
        made |= {"unreadable": True} if body is None else {"event": codec.plain(cbor.decode(body, "event"), 12)}
    return made
