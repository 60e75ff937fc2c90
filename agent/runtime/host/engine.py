"""What the host asks of a vendor's runtime that has loaded a model file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Engine(Protocol):
    """Made of a file's path and the OPEN message, both of which it may refuse: Refused, or one of `refusals`."""

    refusals: tuple[type[Exception], ...]
    """What the runtime raises when it cannot; everything else ends the process."""
    runtime: str
    version: str
    used: list[str]
    fallbacks: list[tuple[str, str]]
    """What was asked for, and why it is not used."""

    def inputs(self) -> list[dict[str, Any]]:
        """The tensors of the file, as docs/runner-host.md has them under OPEN; likewise `outputs`."""

    def outputs(self) -> list[dict[str, Any]]: ...

    def lay(self, shapes: dict[str, Any]) -> None:
        """Pin the inputs' sizes, by the graph's names, and plan the memory."""

    def bind(self, ins: dict[str, Any], outs: dict[str, Any]) -> Callable[[], None]:
        """A run that computes from the arrays `ins` into the arrays `outs`, by the graph's names."""
