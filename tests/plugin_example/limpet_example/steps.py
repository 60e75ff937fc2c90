"""A step before a model, a decoder, and a step behind it that remembers."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from agent.errors import ModelError
from agent.records import Finding, Tensors, View
from agent.strict import Range

LIMPET_API = 1


@dataclass(frozen=True, slots=True)
class Negative:
    """Pre: a picture as its negative. uint8 of any shape; anything else is a ModelError."""

    white: Annotated[int, Range(1, 255)] = 255
    """What black becomes."""

    def __call__(self, view: View, /) -> View:
        if view.data.dtype != np.uint8:
            raise ModelError(f"step 'negative' takes uint8, it was given {view.data.dtype}: put it before 'normalise'")
        return replace(view, data=self.white - np.minimum(view.data, self.white))


@dataclass(frozen=True, slots=True)
class Brightest:
    """Decoder: the cell of a map with the highest value, as a box. The first output is float32 [1, rows, columns]."""

    min_score: Annotated[float, Range(0, 1)] = 0.5
    """A map without such a value holds nothing."""

    def __call__(self, outputs: Tensors, view: View, labels: tuple[str, ...], /) -> tuple[Finding, ...]:
        heat = next(iter(outputs.values()))[0]
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        score = float(np.clip(heat[row, column], 0, 1))
        if not score >= self.min_score:  # nor when it is no number
            return ()
        height, width = view.data.shape[0] / heat.shape[0], view.data.shape[1] / heat.shape[1]
        (sx, sy), (ox, oy) = view.scale, view.offset
        left, top = float(column * width * sx + ox), float(row * height * sy + oy)
        box = (left, top, left + width * sx, top + height * sy)
        return (Finding(labels[0] if labels else "bright", score, box),)


@dataclass(frozen=True, slots=True)
class Streak:
    """Follow: lets a finding through once its label was there in `views` views in a row."""

    views: Annotated[int, Range(1, 1000)] = 3

    def initial(self) -> tuple[tuple[str, int], ...]:
        return ()

    def __call__(
        self, state: tuple[tuple[str, int], ...], findings: tuple[Finding, ...], view: View, /
    ) -> tuple[tuple[tuple[str, int], ...], tuple[Finding, ...]]:
        before = {} if view.gap else dict(state)
        now = {finding.label: min(self.views, before.get(finding.label, 0) + 1) for finding in findings}
        passed = tuple(finding for finding in findings if now[finding.label] >= self.views)
        return tuple(sorted(now.items())), passed
