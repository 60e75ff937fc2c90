"""What a host says of itself, checked like a file from a stranger: JSON of bounded size and of known keys."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from agent.errors import ConfigError, ModelError
from agent.runtime.contract import Declared, RuntimeMissingError
from agent.runtime.hosting import LostError, RefusedError
from agent.strict import Range, build

T = TypeVar("T")
Word = Annotated[str, Range(0, 4000)]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the loaded file; -1 is an open dimension, no shape an unknown rank."""

    name: Word
    dtype: Word
    shape: Annotated[tuple[int, ...], Range(0, 32)] | None = None
    scale: float = 0.0
    zero_point: int = 0
    quantised: bool = False

    def declared(self) -> Declared:
        """As a runtime in this process would say it."""
        shape = None if self.shape is None else tuple(n if n >= 0 else None for n in self.shape)
        return Declared(self.name, shape, self.dtype, self.scale, self.zero_point, self.quantised)


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to OPEN: the file is loaded."""

    runtime: Word
    version: Word
    used: tuple[Word, ...]
    inputs: tuple[Tensor, ...]
    python: Word = ""
    forks: bool = False
    """Whether it makes a worker of its own for each connection."""
    fallbacks: tuple[tuple[Word, Word], ...] = ()


@dataclass(frozen=True, slots=True)
class LaidOut:
    """The answer to LAYOUT: the sizes are pinned and the memory is planned."""

    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class _Failed:
    text: Word
    missing: bool = False


def parsed(kind: type[T], body: bytes) -> T:
    """Raises LostError when `body` is no such answer."""
    try:
        return build(kind, _object(body), "answer")
    except (ConfigError, ValueError, RecursionError) as exc:
        raise LostError(f"gave an answer that means nothing: {exc}") from exc


def refusal(where: str, refused: RefusedError) -> ModelError:
    """What a host says instead of an answer, as the error that a runtime in this process would raise."""
    said = parsed(_Failed, refused.body)
    return (RuntimeMissingError if said.missing else ModelError)(f"{where}: {said.text}")


def _object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value
