"""Strict TOML tables: a frozen dataclass describes a table, `build` makes one from parsed TOML.

An unknown key, a missing key, a wrong type or a value out of range is a ConfigError that names file, table, key
and what is allowed. All problems of a table are reported together. Supported field types: bool, int, float, str,
pathlib.Path, Literal, tuple[X, ...], fixed tuples, dict[str, X], X | None, nested dataclasses, unions of
dataclasses that tell themselves apart by a field `kind: Literal[...]`, and Annotated[X, Range(...)].
A table merged from several files is a `Merged`, so that a problem names the very file that wrote the key.
"""

import dataclasses
import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from agent.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Range:
    """Inclusive bounds of a number, or of the length of a string, tuple or table."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        low, high = (str(int(x)) if math.isfinite(x) and x == int(x) else f"{x:g}" for x in (self.low, self.high))
        return f"at least {low}" if math.isinf(self.high) else f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class Match:
    """A regular expression that the whole string must match, with the words that explain it."""

    pattern: str
    words: str

    def __str__(self) -> str:
        return self.words


class Merged(dict[str, Any]):
    """A table put together from several files; `origins` says which file wrote each key last."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[str, str] = {}

    def overlay(self, table: Mapping[str, Any], file: str) -> None:
        """Lay `table` over this one: tables merge key by key, everything else is replaced."""
        for key, value in table.items():
            self.origins[key] = file
            if isinstance(value, Mapping):
                mine = self.get(key)
                if not isinstance(mine, Merged):
                    mine = self[key] = Merged()
                mine.overlay(value, file)
            else:
                self[key] = value


class _ProblemError(Exception):
    """One wrong value; gathered by `build`."""


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make a `cls` from `table`. `where` names file and table, e.g. "limpet.toml [uplink]". Raises ConfigError."""
    problems: list[str] = []
    made = _table(cls, table, where, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return typing.cast("T", made)


def build_any(kind: Any, value: Any, where: str) -> Any:
    """Make a value of any supported field type, such as a union of tables by `kind`. Raises ConfigError."""
    problems: list[str] = []
    try:
        made = _value(kind, value, where, problems)
    except _ProblemError as problem:
        problems.append(f"{where}: {problem}")
    if problems:
        raise ConfigError("\n".join(problems))
    return made


def describe(kind: Any) -> str:
    """What a field of type `kind` allows, in words for people."""
    kind, limits = _unwrap(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    tail = f" ({', '.join(str(x) for x in limits)})" if limits else ""
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        if tagged := _tagged(args):
            return "a table whose 'kind' is one of " + ", ".join(repr(k) for k in tagged)
        return " or ".join(describe(a) for a in args if a is not types.NoneType) + tail
    if origin is tuple:
        inner = describe(args[0]) if args[-1] is Ellipsis else ", ".join(describe(a) for a in args)
        return f"a list of {inner}{tail}"
    if origin is dict:
        return f"a table of {describe(args[1])}{tail}"
    if dataclasses.is_dataclass(kind):
        return "a table"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}
    return names.get(kind, "any value") + tail


def _table(cls: type[Any], table: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    spelled = {_key(name): name for name in fields}
    for key in table:
        if key not in spelled:
            near = difflib.get_close_matches(key, spelled, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            allowed = ", ".join(sorted(spelled)) or "none"
            problems.append(f"{_at(where, table, key)}: unknown key '{key}': {hint}allowed are {allowed}")
    values: dict[str, Any] = {}
    before = len(problems)
    for key, name in spelled.items():
        if key not in table:
            if fields[name].default is dataclasses.MISSING and fields[name].default_factory is dataclasses.MISSING:
                problems.append(f"{where}: key '{key}' is missing: it must be {describe(hints[name])}")
            continue
        try:
            values[name] = _value(hints[name], table[key], _inside(where, key), problems)
        except _ProblemError as problem:
            problems.append(f"{_at(where, table, key)}: key '{key}': {problem}")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as exc:  # __post_init__ checks what spans several keys
        problems.append(f"{where}: {exc}")
        return None


def _at(where: str, table: Mapping[str, Any], key: str) -> str:
    """File and table of a key: a merged table knows which file wrote it."""
    origin = table.origins.get(key) if isinstance(table, Merged) else None
    file, bracket, rest = where.partition(" [")
    return f"{origin or file}{bracket}{rest}"


def _inside(where: str, key: str) -> str:
    """The name of a table inside another: "f.toml" -> "f.toml [a]" -> "f.toml [a.b]"."""
    return f"{where[:-1]}.{key}]" if where.endswith("]") else f"{where} [{key}]"


def _key(name: str) -> str:
    """Field names that would shadow a Python word carry a trailing underscore, which TOML does not show."""
    return name.rstrip("_")


def _unwrap(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(kind) is typing.Annotated:
        inner, *limits = typing.get_args(kind)
        return inner, tuple(x for x in limits if isinstance(x, Range | Match))
    return kind, ()


def _value(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    full = kind
    kind, limits = _unwrap(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    made: Any
    if kind is Any:
        made = value
    elif origin is Literal:
        if value not in args or isinstance(value, bool) != any(isinstance(a, bool) for a in args):
            raise _ProblemError(f"{value!r} is not allowed: it must be {describe(full)}")
        made = value
    elif origin in (typing.Union, types.UnionType):
        made = _union(args, value, where, problems, full)
    elif origin is tuple:
        made = _sequence(args, value, where, problems, full)
    elif origin in (dict, Mapping) or kind is dict:
        if not isinstance(value, Mapping):
            raise _ProblemError(f"{value!r} is not a table: it must be {describe(full)}")
        made = {str(k): _value(args[1], v, _inside(where, str(k)), problems) for k, v in value.items()}
    elif dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise _ProblemError(f"{value!r} is not a table")
        made = _table(typing.cast("type[Any]", kind), value, where, problems)
    else:
        made = _scalar(kind, value, full)
    _check(made, limits, full)
    return made


def _union(args: tuple[Any, ...], value: Any, where: str, problems: list[str], full: Any) -> Any:
    if (tagged := _tagged(args)) and isinstance(value, Mapping):
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in tagged:
            raise _ProblemError(f"kind = {kind!r} is not allowed: it must be {describe(full)}")
        return _table(tagged[kind], value, where, problems)
    for kind in args:
        if kind is types.NoneType:
            continue
        trial: list[str] = []
        try:
            made = _value(kind, value, where, trial)
        except _ProblemError:
            continue
        if not trial or dataclasses.is_dataclass(kind):
            problems.extend(trial)
            return made
    raise _ProblemError(f"{value!r} is not allowed: it must be {describe(full)}")


def _tagged(args: tuple[Any, ...]) -> dict[str, type[Any]]:
    """The dataclasses of a union by their `kind`; empty unless each has one."""
    arms = [a for a in args if a is not types.NoneType]
    if not all(dataclasses.is_dataclass(a) and "kind" in a.__dataclass_fields__ for a in arms):
        return {}
    return {tag: a for a in arms for tag in typing.get_args(typing.get_type_hints(a)["kind"])}


def _sequence(args: tuple[Any, ...], value: Any, where: str, problems: list[str], full: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _ProblemError(f"{value!r} is not a list: it must be {describe(full)}")
    if args[-1] is Ellipsis:
        return tuple(_item(args[0], v, i, where, problems) for i, v in enumerate(value))
    if len(value) != len(args):
        raise _ProblemError(f"it has {len(value)} values: it must be {describe(full)}")
    return tuple(_item(a, v, i, where, problems) for i, (a, v) in enumerate(zip(args, value, strict=True)))


def _item(kind: Any, value: Any, i: int, where: str, problems: list[str]) -> Any:
    try:
        return _value(kind, value, f"{where} #{i + 1}", problems)
    except _ProblemError as problem:
        raise _ProblemError(f"#{i + 1}: {problem}") from None


def _scalar(kind: Any, value: Any, full: Any) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:  # NaN, infinity, and whole numbers that no float holds
            raise _ProblemError(f"{value!r} is not a finite number: it must be {describe(full)}")
        return float(value)
    if isinstance(value, str) and "\0" in value:
        raise _ProblemError(f"{value!r} holds a zero byte, which no name can: it must be {describe(full)}")
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if kind in (bool, int, str) and type(value) is kind:
        return value
    raise _ProblemError(f"{value!r} is of the wrong type: it must be {describe(full)}")


def _check(value: Any, limits: tuple[Any, ...], full: Any) -> None:
    for limit in limits:
        if isinstance(limit, Match):
            if not re.fullmatch(limit.pattern, value):
                raise _ProblemError(f"{value!r} is not allowed: it must be {describe(full)}")
            continue
        size = len(value) if isinstance(value, str | tuple | dict) else value
        if not limit.low <= size <= limit.high:
            raise _ProblemError(f"{value!r} is out of range: it must be {describe(full)}")
