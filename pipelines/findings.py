"""Steps behind a model or a detector that rewrite findings without looking at the input."""

from dataclasses import dataclass, replace

from agent.records import Finding


@dataclass(frozen=True, slots=True)
class LabelByValue:
    """Names each finding by its value, so that rules see every new reading of a display as something that appears.

    A finding without a value keeps its label; the value stays.
    """

    def __call__(self, findings: tuple[Finding, ...], /) -> tuple[Finding, ...]:
        return tuple(f if f.value is None else replace(f, label=_text(f.value)) for f in findings)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
