"""The promises of decoders: pure, findings inside the picture, labels from the list, numbers that are numbers."""

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np

from agent.errors import LimpetError, ModelError
from agent.promises.material import views
from agent.promises.promise import FAULTS, Promise, frozen_bytes, tried, watch
from agent.promises.steps import frozen, strict
from agent.records import Array, Finding, View
from agent.strict import build

LABELS: Final = ("ant", "bee", "cat", "dog")
SHAPES: Final[tuple[dict[str, tuple[int, ...]], ...]] = (
    {"scores": (1, 4)},
    {"y": (1, 6, 8)},
    {"y": (1, 6, 8, 4)},
    {"y": (1, 25, 9)},
    {"y": (1, 9, 25)},
    {"boxes": (1, 10, 4), "scores": (1, 10, 4)},
    {"boxes": (1, 10, 4), "classes": (1, 10), "scores": (1, 10), "count": (1,)},
)
"""Outputs that models have: a vector, maps, boxes. The first that the decoder reads is used, or what is asked for."""
ROUNDS: Final = 40


def check(cls: type[Any], keys: dict[str, object], where: str) -> list[Promise]:
    """Try every promise of the decoder `cls`. Key `outputs` {"name": [shape]} says what its model gives."""
    asked = keys.pop("outputs", None)
    made = tried("it can be made from its keys", lambda: (build(cls, keys, where), None)[1])
    if made.problem:
        return [made]
    decoder = build(cls, keys, where)
    shapes, why = _readable(decoder, _shapes(asked))
    return [
        made,
        tried("it is frozen", lambda: frozen(decoder)),
        tried("unknown keys are refused", lambda: strict(cls)),
        Promise("it reads a model's outputs", "" if shapes else why),
        *(_behaviour(decoder, shapes) if shapes else []),
    ]


def _behaviour(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> list[Promise]:
    return [
        tried("the same outputs give the same findings", lambda: _same(decoder, shapes)),
        tried("it writes into nothing that it is given", lambda: _untouched(decoder, shapes)),
        tried("it opens no file, socket or process", lambda: _inside(decoder, shapes)),
        tried("it returns a tuple of findings with scores from 0 to 1", lambda: _findings(decoder, shapes)),
        tried("its boxes lie inside the picture", lambda: _boxes(decoder, shapes)),
        tried("in a view of a part of the picture its boxes lie about that part", lambda: _way_back(decoder, shapes)),
        tried("its labels are the model's", lambda: _labels(decoder, shapes)),
        tried("outputs far beyond what is usual do no harm", lambda: _far_beyond(decoder, shapes)),
        tried("what is not finite is refused, or finds nothing", lambda: _not_finite(decoder, shapes)),
    ]


def _shapes(asked: object) -> tuple[dict[str, tuple[int, ...]], ...]:
    if not isinstance(asked, dict):
        return SHAPES
    return ({str(name): tuple(int(n) for n in shape) for name, shape in asked.items()},)


def _readable(decoder: Any, choices: tuple[dict[str, tuple[int, ...]], ...]) -> tuple[dict[str, tuple[int, ...]], str]:
    """The first outputs that it can read, or why it reads none."""
    why = []
    for shapes in choices:
        try:
            for outputs, view in _rounds(shapes, 3):
                decoder(outputs, view, LABELS)
        except FAULTS as exc:
            told = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            why.append(f"{told}: {'' if isinstance(exc, LimpetError) else type(exc).__name__ + ': '}{exc}")
        else:
            return shapes, ""
    return {}, "; ".join(why) + "; say which outputs it reads: --set 'outputs = { name = [1, 4] }'"


def _rounds(shapes: dict[str, tuple[int, ...]], count: int = ROUNDS) -> list[tuple[dict[str, Array], View]]:
    rng = np.random.default_rng(3)
    made = []
    for i, view in enumerate(views("image", count)):
        outputs = {name: _numbers(rng, name, shape, i) for name, shape in shapes.items()}
        made.append((outputs, replace(view, size=(640, 480), scale=(10.0, 10.0))))
    return made


def _numbers(rng: np.random.Generator, name: str, shape: tuple[int, ...], i: int) -> Array:
    """Numbers between 0 and 1, classes and counts whole."""
    made = rng.uniform(0, 1, shape).astype(np.float32)
    if name == "count":
        made[...] = min(10, i % 12)
    elif name == "classes":
        made = np.floor(made * len(LABELS)).astype(np.float32)
    made.flags.writeable = False
    return made


def _same(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    told = [[frozen_bytes(decoder(*one, LABELS)) for one in _rounds(shapes)] for _ in range(2)]
    return None if told[0] == told[1] else "two calls with the same outputs differ: no chance, no clock, no memory"


def _untouched(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    for outputs, view in _rounds(shapes):
        before = frozen_bytes((outputs, view))
        decoder(outputs, view, LABELS)
        if frozen_bytes((outputs, view)) != before:
            return "the outputs are not what they were"
    return None


def _inside(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    for i, (outputs, view) in enumerate(_rounds(shapes)):
        with watch().looking() as seen:
            decoder(outputs, view, LABELS)
        if seen and i:
            return seen[0]
    return None


def _findings(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    for outputs, view in _rounds(shapes):
        found = decoder(outputs, view, LABELS)
        if not isinstance(found, tuple) or not all(isinstance(one, Finding) for one in found):
            return f"it returned {type(found).__name__}"
        for one in found:
            if not (math.isfinite(one.score) and 0 <= one.score <= 1):
                return f"the score of '{one.label}' is {one.score}"
    return None


def _boxes(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    for outputs, view in _rounds(shapes):
        width, height = view.size
        for one in decoder(outputs, view, LABELS):
            if one.box is None:
                continue
            x1, y1, x2, y2 = one.box
            if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height):
                return f"box {one.box} of '{one.label}' in a picture of {width} x {height}"
    return None


def _way_back(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """A view of the part from (100, 50) to (228, 146) of the picture, two source pixels for each of its own."""
    for outputs, view in _rounds(shapes):
        part = replace(view, scale=(2.0, 2.0), offset=(100.0, 50.0))
        for one in decoder(outputs, part, LABELS):
            if one.box is None:
                continue
            x, y = (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2
            if not (99 <= x <= 229 and 49 <= y <= 147):
                return f"box {one.box}, and the view shows x 100 to 228, y 50 to 146: use its scale and offset"
    return None


def _labels(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    for outputs, view in _rounds(shapes):
        for one in decoder(outputs, view, LABELS):
            if not isinstance(one.label, str) or not one.label:
                return f"a finding has the label {one.label!r}"
            if one.label not in LABELS and one.value is None:
                return f"the label '{one.label}' is none of the model's {', '.join(LABELS)}"
    return None


def _far_beyond(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Numbers from -1,000 to 1,000: refused by an error of Limpet's, or findings that are finite."""
    for outputs, view in _rounds(shapes, 6):
        try:
            found = decoder({name: (array - 0.5) * np.float32(2000) for name, array in outputs.items()}, view, LABELS)
        except LimpetError:
            continue
        if any(not math.isfinite(number) for one in found for number in (one.score, *(one.box or ()))):
            return f"they gave {found[0]}"
    return None


def _not_finite(decoder: Any, shapes: dict[str, tuple[int, ...]]) -> str | None:
    for outputs, view in _rounds(shapes, 3):
        broken = {name: np.full_like(array, np.nan) for name, array in outputs.items()}
        try:
            found = decoder(broken, view, LABELS)
        except (ModelError, ValueError):
            continue
        if any(not math.isfinite(one.score) or (one.box and not all(map(math.isfinite, one.box))) for one in found):
            return f"NaN in the outputs gave {found[0]}"
    return None
