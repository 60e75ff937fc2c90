"""Recorded steps from one format to the next, each one version up, for records of ours and for the operator's files.

A ladder knows the format that this agent reads and the steps that lead there. There is no step today: every format is
still its first. The steps of limpet.toml edit text, so that comments and order stay; whoever rewrites a file keeps the
old one beside it and checks the new one with the strict loader first. A newer format than ours is refused, not guessed.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from agent.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ladder(Generic[T]):
    """The formats of one kind of document."""

    what: str
    current: int
    """The format that this agent reads."""
    steps: Mapping[int, Callable[[T], T]]
    """Format n -> the function that makes n + 1 of it. A function must not mind being run on its own result."""

    def climb(self, document: T, schema: Any, where: str) -> T:
        """`document`, which is of format `schema`, in the current format. Raises ConfigError that names `where`."""
        if not isinstance(schema, int) or isinstance(schema, bool):
            raise ConfigError(f"{where}: key 'schema': {schema!r} is no version of a {self.what}")
        if schema > self.current:
            raise ConfigError(
                f"{where}: key 'schema': {schema} is newer than this agent, which reads {self.current}: update the "
                f"agent, or go back to the {self.what} that fits it"
            )
        for at in range(schema, self.current):
            if at not in self.steps:
                raise ConfigError(f"{where}: key 'schema': there is no way from {at} to {self.current}: write it anew")
            document = self.steps[at](document)
        return document


TOML: Final[Ladder[str]] = Ladder("limpet.toml", 1, {})
"""Steps for limpet.toml and the files of conf.d, as text. They also write the new number with `set_schema`."""

_HEADER: Final = re.compile(r"^\s*\[{1,2}\s*([^\]#]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY: Final = r"^(\s*){key}(\s*=)"


def set_schema(text: str, schema: int) -> str:
    """`text` with the number of its top-level key schema replaced, where it has one."""
    return _edit(text, "", "schema", lambda line: re.sub(r"(=\s*)\d+", rf"\g<1>{schema}", line, count=1))


def rename_key(text: str, table: str, old: str, new: str) -> str:
    """`text` with key `old` of [table] called `new`; its value, its comment and everything else stay."""
    return _edit(text, table, old, lambda line: re.sub(_KEY.format(key=re.escape(old)), rf"\g<1>{new}\g<2>", line))


def replace_value(text: str, table: str, key: str, change: Callable[[str], str]) -> str:
    """`text` with the one-line value of `key` in [table] changed; `change` gets and gives TOML."""

    def edited(line: str) -> str:
        head, sign, rest = line.partition("=")
        value, comment = _split_comment(rest)
        room = rest[: len(rest) - len(rest.lstrip())]
        return f"{head}{sign}{room}{change(value.strip())}{comment}"

    return _edit(text, table, key, edited)


def drop_key(text: str, table: str, key: str) -> str:
    """`text` with the one-line `key` of [table] turned into a comment that says so."""
    return _edit(text, table, key, lambda line: f"# no longer known: {line.lstrip()}")


def quoted(value: str) -> str:
    """A TOML string."""
    return json.dumps(value, ensure_ascii=False)


def _edit(text: str, table: str, key: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the line that begins `key` directly under [table] ("" for the top level)."""
    here, lines = "", []
    begins = re.compile(_KEY.format(key=re.escape(key)))
    for line in text.splitlines(keepends=True):
        if header := _HEADER.match(line.rstrip("\r\n")):
            here = header[1]
        lines.append(change(line) if here == table and begins.match(line) else line)
    return "".join(lines)


def _split_comment(rest: str) -> tuple[str, str]:
    """Value and what follows it, the line's end included; a # within quotes is no comment."""
    quote = ""
    for i, letter in enumerate(rest):
        if quote:
            quote = "" if letter == quote and rest[i - 1] != "\\" else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "#\r\n":
            end = len(rest[:i].rstrip())
            return rest[:end], rest[end:]
    return rest, ""
