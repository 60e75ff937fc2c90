"""Strict tables: every wrong word is named with file, table, key and what is allowed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from agent.errors import ConfigError
from agent.strict import Match, Merged, Range, build


@dataclass(frozen=True, slots=True)
class Inner:
    port: Annotated[int, Range(1, 65535)]
    host: Annotated[str, Match(r"[a-z.]+", "lower case letters and dots")] = "localhost"


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    class_: Literal["critical", "routine"] = "critical"
    share: Annotated[float, Range(0, 1)] = 0.5
    path: Path | None = None
    box: tuple[int, int] = (0, 0)
    tags: tuple[str, ...] = ()
    inner: Inner = field(default_factory=lambda: Inner(1))
    many: tuple[Inner, ...] = ()
    extra: dict[str, int] = field(default_factory=dict)
    on: bool = False

    def __post_init__(self):
        if self.on and not self.tags:
            raise ValueError("'on' needs 'tags': write at least one")


def test_a_full_table_becomes_a_frozen_record():
    """Every supported type is read as written."""
    made = build(
        Outer,
        {
            "name": "a", "class": "routine", "share": 1, "path": "/x", "box": [1, 2], "tags": ["t"], "on": True,
            "inner": {"port": 2, "host": "h"}, "many": [{"port": 3}], "extra": {"k": 4},
        },
        "f.toml",
    )  # fmt: skip
    assert made == Outer("a", "routine", 1.0, Path("/x"), (1, 2), ("t",), Inner(2, "h"), (Inner(3),), {"k": 4}, True)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, ["f.toml", "'name' is missing", "a string"]),
        ({"name": "a", "clas": "x"}, ["unknown key 'clas'", "did you mean 'class'?"]),
        ({"name": 3}, ["key 'name'", "3", "wrong type", "a string"]),
        ({"name": "a", "class": "big"}, ["'big' is not allowed", "'critical', 'routine'"]),
        ({"name": "a", "share": 2}, ["key 'share'", "out of range", "0 to 1"]),
        ({"name": "a", "share": float("nan")}, ["not a finite number"]),
        ({"name": "a", "share": True}, ["wrong type"]),
        ({"name": "a", "on": 1}, ["key 'on'", "true or false"]),
        ({"name": "a", "box": [1]}, ["key 'box'", "1 values"]),
        ({"name": "a", "tags": "t"}, ["not a list"]),
        ({"name": "a", "inner": {"port": 0}}, ["f.toml [inner]", "key 'port'", "1 to 65535"]),
        ({"name": "a", "inner": {"port": 1, "host": "A"}}, ["lower case letters and dots"]),
        ({"name": "a", "many": [{"port": 1}, {"prt": 1}]}, ["[many] #2", "unknown key 'prt'", "'port' is missing"]),
        ({"name": "a", "on": True}, ["'on' needs 'tags'"]),
    ],
)
def test_a_wrong_table_names_place_and_remedy(table: dict[str, Any], words: list[str]):
    """The message says which file, table and key, and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        build(Outer, table, "f.toml")
    for word in words:
        assert word in str(caught.value)


def test_all_problems_are_reported_together():
    """An operator mends a file in one go."""
    with pytest.raises(ConfigError) as caught:
        build(Outer, {"nam": 1, "share": 7}, "f.toml")
    assert len(str(caught.value).splitlines()) == 3


def test_a_merged_table_names_the_file_that_wrote_the_key():
    """With conf.d, the message points at the file to edit."""
    merged = Merged()
    merged.overlay({"name": "a", "inner": {"port": 1}}, "limpet.toml")
    merged.overlay({"inner": {"port": 70000}}, "conf.d/10.toml")
    with pytest.raises(ConfigError, match=r"conf\.d/10\.toml \[inner\]: key 'port'"):
        build(Outer, merged, "limpet.toml")
    merged.overlay({"inner": {"port": 7}}, "conf.d/20.toml")
    assert build(Outer, merged, "limpet.toml").inner.port == 7
