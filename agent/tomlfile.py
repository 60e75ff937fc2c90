"""Reads a TOML file that may be anything: never waits for a pipe, never reads without limit, never follows it too deep.

Raises OSError and ValueError; who calls says in its own words which file it was and what to do.
"""

import errno
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NESTING_LIMIT = 32
"""Deepest table or list in a file; nothing of ours needs ten."""


def read_plain(path: Path, limit_bytes: int) -> bytes:
    """The first `limit_bytes` + 1 bytes of a regular file. Raises OSError, also for a pipe, a socket or a device."""
    with open(path, "rb", opener=_open) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read(min(found.st_size, limit_bytes) + 1)  # a read takes as much memory as it asks for


def parse(raw: bytes) -> dict[str, Any]:
    """The tables in `raw`. Raises ValueError that says what is wrong."""
    try:
        made = tomllib.loads(raw.decode())
    except RecursionError:
        made = None
    if made is None or _deeper(made, NESTING_LIMIT):
        raise ValueError(f"tables and lists lie more than {NESTING_LIMIT} deep in each other")
    return made


def _open(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)  # a pipe without a writer would make us wait for ever


def _deeper(value: Any, left: int) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return left < 0 or any(_deeper(one, left - 1) for one in inner)
