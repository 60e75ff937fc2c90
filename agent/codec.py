"""An event as others see it: one map of text keys, written as CBOR or as JSON. docs/wire-format.md is its contract.

Owns the names of the keys and what each may hold. Absent fields are left out; keys it does not know are ignored, so
that a newer device can speak to an older reader. A number that is not finite becomes null, because JSON has none.
Errors never repeat what an event says.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from agent import cbor
from agent.errors import EnvelopeError
from agent.records import Draft, Event, ModelRef

SCHEMA: Final = 1
MAX_TEXT: Final = 256
"""Longest text of a field outside `body` and `media`, characters."""
MAX_BODY_DEPTH: Final = 10

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TEXT_FIELDS: Final = ("pipeline", "pipeline_digest", "config_digest", "input_digest", "decided_by")
_ORDER: Final = tuple(sorted((
    "schema", "id", "stream", "boot", "seq", "kind", "class", "t_wall_s", "t_mono_s", "clock", "replay", "model",
    *_TEXT_FIELDS, "cache", "body", "media",
), key=lambda key: (len(key), key)))  # fmt: skip
"""Every key of an event in the order of deterministic CBOR: sorting them anew for each event takes longer than all
the rest of writing it."""
_CHOICES: Final = {
    "class": ("critical", "routine"),
    "clock": ("synced", "unsynced"),
    "cache": ("miss", "exact", "similar"),
}


def to_map(event: Event) -> dict[str, Any]:
    """The event as text keys and plain values. Raises EnvelopeError when `body` or `media` hold anything else."""
    draft = event.draft
    out: dict[str, Any] = {
        "schema": SCHEMA,
        "id": event.id,
        "stream": draft.stream,
        "boot": event.boot,
        "seq": event.seq,
        "kind": draft.kind,
        "class": draft.event_class,
        "t_wall_s": draft.t_wall_s,
        "t_mono_s": draft.t_mono_s,
        "clock": draft.clock,
    }
    if draft.replay:
        out["replay"] = True
    if draft.model is not None:
        out["model"] = {"name": draft.model.name, "version": draft.model.version, "sha256": draft.model.sha256}
    out |= {name: text for name in _TEXT_FIELDS if (text := getattr(draft, name))}
    if draft.cache is not None:
        out["cache"] = draft.cache
    out["body"] = plain(draft.body)
    if draft.media is not None:
        out["media"] = plain(draft.media)
    return out


def from_map(table: Any) -> Event:
    """The event of a decoded map. Raises EnvelopeError that names the key, never its value."""
    if not isinstance(table, dict):
        raise EnvelopeError("an event must be a map")
    if _whole(table, "schema") != SCHEMA:
        raise EnvelopeError(f"event: key 'schema' must be {SCHEMA}: this reader is too old or too new for it")
    if not _ID.fullmatch(_text(table, "id")):
        raise EnvelopeError("event: key 'id' must be a UUIDv7 in lower case")
    draft = Draft(
        stream=_text(table, "stream"),
        kind=_text(table, "kind"),
        body=_table(table, "body"),
        t_wall_s=_number(table, "t_wall_s"),
        t_mono_s=_number(table, "t_mono_s"),
        event_class=_choice(table, "class"),
        clock=_choice(table, "clock"),
        replay=_flag(table, "replay"),
        model=_model(table),
        cache=_choice(table, "cache") if "cache" in table else None,
        media=_table(table, "media") if "media" in table else None,
        **{name: _text(table, name) for name in _TEXT_FIELDS if name in table},
    )
    return Event(id=table["id"], boot=_text(table, "boot"), seq=_whole(table, "seq"), draft=draft)


def encode(event: Event) -> bytes:
    """The event as deterministic CBOR: what is stored, batched and sealed."""
    table = to_map(event)
    return cbor.encode_sorted([item for key in _ORDER if key in table for item in (key, table[key])])


def decode(data: bytes) -> Event:
    """Read one CBOR event. Raises EnvelopeError."""
    return from_map(cbor.decode(data, "event"))


def decode_batch(data: bytes, limit: int) -> tuple[Event, ...]:
    """Read a CBOR array of 1 to `limit` events. Raises EnvelopeError."""
    items = cbor.decode(data, "batch")
    if not isinstance(items, list) or not 1 <= len(items) <= limit:
        raise EnvelopeError(f"a batch must be an array of 1 to {limit} events")
    return tuple(from_map(item) for item in items)


def to_json(data: bytes) -> bytes:
    """Turn one CBOR map of this agent into JSON text: UTF-8, keys in the order of the map. Raises EnvelopeError."""
    return json_bytes(cbor.decode(data, "message"))


def json_bytes(value: Any) -> bytes:
    """Compact JSON. Raises EnvelopeError for what JSON cannot say."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as exc:
        raise EnvelopeError("this value cannot be written as JSON: use text, numbers, lists and tables") from exc


def read_json(data: bytes, what: str = "message") -> Any:
    """Strict JSON: no duplicate keys, no NaN, at most `cbor.MAX_DEPTH` deep. Raises EnvelopeError."""
    if _json_depth(data) > cbor.MAX_DEPTH:
        raise EnvelopeError(f"{what} is nested too deeply")
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise EnvelopeError(f"{what} is not well-formed JSON") from exc


def plain(value: Any, depth: int = MAX_BODY_DEPTH) -> Any:
    """Lists, tables with text keys, text, finite numbers, booleans and null out of `value` (numpy scalars included).

    NaN and infinities become null. Raises EnvelopeError for any other type, a number over 64 bits, or more than
    `depth` levels.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is bool or value is None:
        return value
    if kind is int:
        if not -(1 << 63) <= value < 1 << 64:
            raise EnvelopeError("a whole number in an event must fit in 64 bits")
        return value
    if depth == 0 and isinstance(value, Mapping | list | tuple):
        raise EnvelopeError(f"the body of an event may be nested {MAX_BODY_DEPTH} levels deep, not more")
    if kind is dict or isinstance(value, Mapping):
        return {_key(k): plain(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, depth - 1) for v in value]
    for base in (str, float, int):  # numbers and text that other packages made
        if isinstance(value, base):
            return plain(base(value), depth)
    if isinstance(value, np.generic):
        return plain(value.item(), depth)
    raise EnvelopeError(f"an event cannot hold a {type(value).__name__}: use text, numbers, lists and tables")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise EnvelopeError("keys in the body of an event must be text")
    return key


def _wrong(key: str, must: str) -> EnvelopeError:
    return EnvelopeError(f"event: key '{key}' must be {must}")


def _text(table: dict[Any, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise _wrong(key, f"text of 1 to {MAX_TEXT} characters")
    return value


def _whole(table: dict[Any, Any], key: str) -> int:
    value = table.get(key)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _wrong(key, "a whole number of 63 bits")
    return value


def _number(table: dict[Any, Any], key: str) -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise _wrong(key, "a finite number")
    try:
        return float(value)
    except OverflowError as exc:
        raise _wrong(key, "a finite number") from exc


def _flag(table: dict[Any, Any], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(key, "true or false")
    return value


def _choice(table: dict[Any, Any], key: str) -> Any:
    value = table.get(key)
    if not isinstance(value, str) or value not in _CHOICES[key]:
        raise _wrong(key, " or ".join(_CHOICES[key]))
    return value


def _table(table: dict[Any, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise _wrong(key, "a map")
    checked: dict[str, Any] = plain(value)
    return checked


def _model(table: dict[Any, Any]) -> ModelRef | None:
    if "model" not in table:
        return None
    inner = table["model"]
    if not isinstance(inner, dict):
        raise _wrong("model", "a map")
    return ModelRef(_text(inner, "name"), _text(inner, "version"), _text(inner, "sha256"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("duplicate key")
    return table


def _no_constant(_: str) -> None:
    raise ValueError("not a JSON number")


def _json_depth(data: bytes) -> int:
    """Deepest nesting of brackets outside strings: counted before parsing, which recurses."""
    depth = deepest = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', data, re.DOTALL):
        mark = token.group()[0]
        depth += (mark in b"[{") - (mark in b"]}")
        deepest = max(deepest, depth)
    return deepest
