"""JSON in and out: size first, then syntax, then every key; canonical bytes on the way out."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from agent.errors import ConfigError, UpdateError
from agent.strict import build

T = TypeVar("T")
_LINES_SHOWN = 5


def read(cls: type[T], data: bytes, limit_bytes: int, what: str) -> T:
    """A `cls` from a JSON object with "schema": 1. Raises UpdateError (VERIFY_FAILED) that names `what`."""
    if len(data) > limit_bytes:
        raise refused(f"{what}: {len(data)} bytes, at most {limit_bytes} are allowed")
    try:
        table = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as exc:
        raise refused(f"{what}: this is not JSON: {exc}") from exc
    if not isinstance(table, dict) or type(table.get("schema")) is not int or table.pop("schema") != 1:
        raise refused(f"{what}: no JSON object of schema 1: a newer agent may be needed to read it")
    try:
        return build(cls, _without_nulls(table), what)
    except (ConfigError, RecursionError) as exc:
        raise refused("\n".join(str(exc).splitlines()[:_LINES_SHOWN])) from exc


def write(table: Mapping[str, Any]) -> bytes:
    """Canonical: keys sorted, no blanks, UTF-8, no escapes that JSON does not ask for."""
    return json.dumps({"schema": 1, **table}, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def refused(text: str) -> UpdateError:
    """The one kind of error that this package raises."""
    return UpdateError(text, "VERIFY_FAILED")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return table


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _without_nulls(value: Any) -> Any:
    """A key with null says the same as no key."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
