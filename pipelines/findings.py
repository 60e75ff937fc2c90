"""Steps behind a model or a detector that drop or rewrite findings without looking at the input."""

from dataclasses import dataclass, replace
from typing import Annotated

from agent.records import Finding
from agent.strict import Range
from pipelines.outputs import Share


@dataclass(frozen=True, slots=True)
class MinScore:
    """Drops findings whose score is below `score`."""

    score: Share

    def __call__(self, findings: tuple[Finding, ...], /) -> tuple[Finding, ...]:
        return tuple(f for f in findings if f.score >= self.score)


@dataclass(frozen=True, slots=True)
class KeepLabels:
    """Drops findings whose label is not listed."""

    labels: Annotated[tuple[str, ...], Range(1, 1000)]

    def __call__(self, findings: tuple[Finding, ...], /) -> tuple[Finding, ...]:
        return tuple(f for f in findings if f.label in self.labels)

    def says(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are kept."""
        return tuple(label for label in labels if label in self.labels)


@dataclass(frozen=True, slots=True)
class Top:
    """Keeps the `n` findings with the best scores, best first; equal scores keep their order."""

    n: Annotated[int, Range(1, 1000)]

    def __call__(self, findings: tuple[Finding, ...], /) -> tuple[Finding, ...]:
        return tuple(sorted(findings, key=lambda f: -f.score)[: self.n])


@dataclass(frozen=True, slots=True)
class LabelByValue:
    """Names each finding by its value, so that rules see every new reading of a display as something that appears.

    A finding without a value keeps its label; the value stays.
    """

    def __call__(self, findings: tuple[Finding, ...], /) -> tuple[Finding, ...]:
        return tuple(f if f.value is None else replace(f, label=_text(f.value)) for f in findings)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
