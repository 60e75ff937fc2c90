"""What a guess is: keys of `model.toml` with the reason for them, how sure it is, and what else it could be.

Owns the records between the guessing (`pictures`, `detectors`, `scenes`, `sounds`) and the writing (`text`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Keys = dict[str, Any]
"""Keys of a step as they are written."""

Sure = Literal["known", "likely", "guess"]
"""known: the file says so. likely: shapes or a public family leave little else. guess: one of several, check it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One table, `step` and its keys."""

    keys: Mapping[str, Any]
    sure: Sure
    why: str
    instead: str = ""
    """What to write when the guess is wrong."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Names of the classes."""

    names: tuple[str, ...]
    sure: Sure
    why: str
    file: str = ""
    """The file beside the model that holds exactly these, one per line."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the outputs are read, and what follows from that for the input."""

    decoder: Part | None = None
    classes: int = 0
    """How many labels the decoder needs; 0: it cannot be told."""
    needs_labels: bool = False
    """Whether the decoder refuses to work without labels."""
    labels: Labels | None = None
    """What a public family is known to tell, when no file says better."""
    family: str = ""
    """Which preparation the family is known to want; see `pictures.FAMILIES`."""
    window: Part | None = None
    pre: tuple[Part, ...] = ()
    post: tuple[Part, ...] = ()
    modality: str = ""
    remarks: tuple[str, ...] = ()
    constants: Mapping[str, int] = field(default_factory=dict)
    """Input -> the constant that fills it."""
    most: int = 0
    """How many labels there are at most, where the decoder can do with any number; 0: unknown."""


@dataclass(frozen=True, slots=True)
class Guess:
    """Everything that is written."""

    modality: Part
    labels: Labels | None
    layouts: Mapping[str, str]
    constants: Mapping[str, tuple[float, str]]
    """Input -> constant and why."""
    states: tuple[tuple[str, str], ...]
    window: Part | None
    pre: tuple[Part, ...]
    decoder: Part | None
    post: tuple[Part, ...]
    remarks: tuple[str, ...]
