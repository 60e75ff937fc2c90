"""What happens to findings behind a decoder: a list of steps, of which some remember what they saw.

Owns the order of the steps and the state that they carry. Knows no step: it asks each whether it follows (see
`pipelines.Follow`) or looks at one view alone (`pipelines.Post`).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.records import Finding, View
from pipelines import Follow, Post, make_step


def make_posts(tables: Iterable[Mapping[str, Any]], where: str) -> tuple[Post | Follow, ...]:
    """The steps of the `[[post]]` tables of the file `where`. Raises ConfigError."""
    return tuple(make_step("post", table, f"{where} [[post]] #{i}") for i, table in enumerate(tables, 1))


class Chain:
    """Steps behind a decoder and what they remember: one stream's, not to be shared."""

    def __init__(self, steps: tuple[Post | Follow, ...]) -> None:
        self._steps = steps
        self._calls = tuple(_following(step) for step in steps)
        self.state: tuple[Any, ...] = ()
        """One entry per step, None for a step that remembers nothing; frozen, so that it may be kept."""
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.state = tuple(step.initial() if isinstance(step, Follow) else None for step in self._steps)

    def __call__(self, findings: tuple[Finding, ...], view: View) -> tuple[Finding, ...]:
        """What is left of the findings of `view`, the next one of the stream, and what the steps add."""
        states = []
        for call, state in zip(self._calls, self.state, strict=True):
            after, findings = call(state, findings, view)
            states.append(after)
        self.state = tuple(states)
        return findings

    def finish(self, findings: tuple[Finding, ...] = ()) -> tuple[Finding, ...]:
        """`findings` and what the steps still had open, behind the last view; then the stream is forgotten.

        A step that has something open tells it by a method `ends(state) -> findings`.
        """
        for step, state in zip(self._steps, self.state, strict=True):
            if isinstance(step, Follow):
                ends = getattr(step, "ends", None)
                findings += ends(state) if ends is not None else ()
            else:
                findings = step(findings)
        self.reset()
        return findings


def _following(step: Post | Follow) -> Callable[..., tuple[Any, tuple[Finding, ...]]]:
    """Every step as one that follows; asked once, because asking for a protocol takes longer than most steps."""
    if isinstance(step, Follow):
        return step
    return lambda state, findings, view: (None, step(findings))
