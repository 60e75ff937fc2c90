"""What a rule decides, which findings it looks at, and how a finding is written into an event's body."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from agent.records import Finding
from agent.settings.rules import RuleCommon, RuleConfig

EVERY = ("*",)
"""The patterns of a rule that looks at all labels, which most do."""
MAX_LABELS = 64
"""Labels that one rule watches at a time: more than a scene holds, few enough that no input can fill the memory."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Something to be told; the pipeline makes a `Draft` of it."""

    kind: str
    body: Mapping[str, Any]
    """JSON values only; numbers are finite."""
    decided_by: str
    """The rule's name."""


def title(rule: RuleConfig) -> str:
    """The rule's name, or its kind and label."""
    return rule.name or f"{rule.kind} {pattern(rule)}"


def pattern(rule: RuleCommon) -> str:
    """The rule's label as one string, as it was written."""
    return rule.label if isinstance(rule.label, str) else "|".join(rule.label)


def by_label(rule: RuleCommon, findings: tuple[Finding, ...]) -> dict[str, tuple[Finding, ...]]:
    """The findings that the rule looks at, by the label it watches, best first."""
    patterns = (rule.label,) if isinstance(rule.label, str) else rule.label
    every = patterns == EVERY
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.score >= rule.min_score and (every or any(fnmatchcase(finding.label, p) for p in patterns)):
            found.setdefault(pattern(rule) if rule.together else finding.label, []).append(finding)
    return {label: tuple(sorted(group, key=_falling)) for label, group in found.items()}


def _falling(finding: Finding) -> float:
    return -finding.score


def number(value: float | str | None) -> float | None:
    """The value as a finite number; a display's text counts when it is one."""
    try:
        made = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return made if math.isfinite(made) else None


def told(finding: Finding) -> dict[str, Any]:
    """The finding as JSON values, absent fields left out."""
    value = number(finding.value) if isinstance(finding.value, float) else finding.value
    fields = {
        "label": finding.label,
        "score": number(finding.score),
        "box": None if finding.box is None else list(finding.box),
        "interval": None if finding.interval is None else list(finding.interval),
        "value": value,
        "unit": finding.unit,
    }
    return {key: field for key, field in fields.items() if field is not None}
