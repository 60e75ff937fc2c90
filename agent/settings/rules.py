"""The `[[rule]]` tables of a pipeline: a frozen type per kind, which the key `kind` chooses. See `agent.rules`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from agent.records import EventClass
from agent.settings.names import Name
from agent.strict import Range

_Text = Annotated[str, Range(1, 200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCommon:
    """What every rule has."""

    label: _Text | Annotated[tuple[_Text, ...], Range(1, 64)] = "*"
    """Which findings the rule looks at: a label or a pattern with `*`, `?` and `[...]`, or a list of them."""
    together: bool = False
    """False: every label is watched by itself. True: all matching labels are one thing ("any vehicle")."""
    min_score: float = 0.0
    """Findings below this score do not exist for the rule."""
    name: str = ""
    """How the rule calls itself in its events (`decided_by`); by default its kind and its label."""
    class_: EventClass | None = None
    """`critical` is stored at once, `routine` may wait (see the store's settings); by default that of the pipeline."""
    stream: Name | None = None
    """Stream of the events; by default that of the pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Debounced(RuleCommon):
    """What every rule has that watches for changes."""

    n: Annotated[int, Range(1, 1000)] = 1
    """So many of the last `m` results must agree."""
    m: Annotated[int, Range(1, 1000)] = 1
    """How many results are remembered."""
    cooldown_s: Annotated[float, Range(0, 1e7)] = 0.0
    """At least so many seconds between two events of a label. What still holds when they are over is told then."""
    max_gap_s: Annotated[float, Range(0, 1e7)] = 0.0
    """After so many seconds without a result the remembered results are forgotten, the state is kept; 0: never."""

    def __post_init__(self) -> None:
        if self.n > self.m:
            raise ValueError(f"n = {self.n} can never be reached: it must be at most m = {self.m}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence(Debounced):
    """A label is present when `n` of the last `m` results have it."""

    clear_n: Annotated[int, Range(1, 1000)] | None = None
    """It is gone again when so many of the last `m` results lack it; by default all `m`."""

    def __post_init__(self) -> None:
        Debounced.__post_init__(self)
        if self.clear_n is not None and self.clear_n > self.m:
            raise ValueError(f"clear_n = {self.clear_n} can never be reached: it must be at most m = {self.m}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Appears(Presence):
    """A label becomes present."""

    kind: Literal["appears"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clears(Presence):
    """A label that was present is gone: the other half of `appears`, with the same keys."""

    kind: Literal["clears"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crosses(Debounced):
    """A finding's value (or score) crosses a threshold."""

    kind: Literal["crosses"]
    threshold: float
    """In the unit of the finding's value."""
    hysteresis: Annotated[float, Range(0)] = 0.0
    """Width of the band, in the same unit, that must be left on the other side before the rule fires again.
    rising: below the threshold; falling: above it; both: half on each side."""
    direction: Literal["rising", "falling", "both"] = "rising"
    """Which crossings are told."""
    of: Literal["value", "score"] = "value"
    """What is compared. A result without a matching number says nothing: it is neither high nor low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Debounced):
    """The number of findings of a label changes: `n` of the last `m` results have the new number."""

    kind: Literal["counts"]
    reaches: Annotated[int, Range(1, 100_000)] | None = None
    """Tell only when the number rises to this or beyond; by default tell every change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Every(RuleCommon):
    """A summary of what was seen in each period."""

    kind: Literal["every"]
    period_s: Annotated[float, Range(0.001, 1e7)]
    """Length of a period, seconds. Periods follow each other from the first result on."""


RuleConfig = Appears | Clears | Crosses | Counts | Every
