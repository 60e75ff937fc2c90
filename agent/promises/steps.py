"""The promises of every step but decoders: pure, frozen, nothing written into, state handed on and bounded."""

import time
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields
from typing import Any, Final, cast

from agent.errors import LimpetError
from agent.plugins.loading import REMEMBERS
from agent.promises.material import findings, samples, views
from agent.promises.promise import FAULTS, Promise, frozen_bytes, tried, watch
from agent.records import Finding, Modality, View
from agent.strict import build

MODALITIES: Final[tuple[Modality, ...]] = ("image", "audio", "series", "tensor")
SHORT, LONG = 24, 600
"""Views of a short and of a long stream."""
PATIENCE_S: Final = 3.0
"""A slow step gets a shorter stream, seconds."""
STATE_BYTES: Final = 64 << 20
"""Most that a state may take, pickled."""
Turn = Callable[[Any, Any], tuple[Any, Any]]
"""`(state, input) -> (state, output)`, whatever the kind."""


def check(kind: str, cls: type[Any], keys: dict[str, object], where: str) -> list[Promise]:
    """Try every promise of the step `cls` of `kind`, made with `keys`."""
    made = tried("it can be made from its keys", lambda: (build(cls, keys, where), None)[1])
    if made.problem:
        return [made]
    step = build(cls, keys, where)
    kept = [made, tried("it is frozen", lambda: frozen(step)), tried("unknown keys are refused", lambda: strict(cls))]
    fitting = [m for m in MODALITIES if _takes(kind, step, m)]
    reads = Promise("it takes some kind of input", "" if fitting else _why_not(kind, step))
    if not fitting:
        return [*kept, reads]
    for modality in fitting if kind not in ("post", "follow") else fitting[:1]:
        kept += [Promise(f"{one.text} ({modality})", one.problem) for one in _behaviour(kind, step, modality)]
    return [*kept, reads]


def _behaviour(kind: str, step: Any, modality: Modality) -> list[Promise]:
    turn, first = _turn(kind, step), _first(kind, step)
    promises = [
        tried("the same input gives the same output", lambda: _same(turn, first, kind, modality)),
        tried("it writes into nothing that it is given", lambda: _untouched(turn, first, kind, modality)),
        tried("it opens no file, socket or process", lambda: _inside(turn, first, kind, modality)),
        tried("what it returns is of its kind", lambda: _of_its_kind(turn, first, kind, modality)),
    ]
    if kind in REMEMBERS:
        promises += [
            tried("its state can be put aside and taken up again", lambda: _resumes(turn, first, kind, modality)),
            tried("its state stays bounded", lambda: _bounded(turn, first, kind, modality)),
        ]
    return promises


def _turn(kind: str, step: Any) -> Turn:
    if kind == "follow":
        return lambda state, given: step(state, *given)
    if kind in REMEMBERS:
        return cast("Turn", step)
    if kind == "post":
        return lambda state, given: (state, step(given[0]))
    return lambda state, given: (state, step(given))


def _first(kind: str, step: Any) -> Any:
    return step.initial() if kind in REMEMBERS else None


def _stream(kind: str, modality: Modality, count: int) -> Iterator[Any]:
    if kind == "window":
        return samples(modality, count * (20 if modality == "series" else 1))
    return findings(count) if kind in ("post", "follow") else views(modality, count)


def _takes(kind: str, step: Any, modality: Modality) -> bool:
    """Whether the step works on such a stream at all: it may refuse what is not for it, by an error of Limpet's."""
    return not _refusal(kind, step, modality)


def _refusal(kind: str, step: Any, modality: Modality) -> str:
    turn, state = _turn(kind, step), _first(kind, step)
    try:
        for given in _stream(kind, modality, 3):
            state, _ = turn(state, given)
    except FAULTS as exc:
        return f"{modality}: {'' if isinstance(exc, LimpetError) else type(exc).__name__ + ': '}{exc}"
    return ""


def _why_not(kind: str, step: Any) -> str:
    return "; ".join(_refusal(kind, step, modality) for modality in MODALITIES)


def frozen(step: Any) -> str | None:
    for part in fields(step):
        try:
            setattr(step, part.name, getattr(step, part.name))
        except (FrozenInstanceError, AttributeError):
            continue
        return f"field '{part.name}' can be set"
    return "it has a __dict__: slots=True is missing" if hasattr(step, "__dict__") else None


def strict(cls: type[Any]) -> str | None:
    try:
        build(cls, {"no_such_key_of_any_step": 1}, "check")
    except LimpetError as exc:
        return None if "no_such_key_of_any_step" in str(exc) else str(exc)
    return "a key that it does not know was taken"


def _same(turn: Turn, first: Any, kind: str, modality: Modality) -> str | None:
    told = []
    for _ in range(2):
        state, outputs = first, []
        for given in _stream(kind, modality, SHORT):
            state, output = turn(state, given)
            outputs.append(frozen_bytes(output))
        told.append(outputs)
    apart = [i for i, (one, other) in enumerate(zip(*told, strict=True)) if one != other]
    return f"two runs over one stream differ, first at input {apart[0]}: no chance, no clock" if apart else None


def _untouched(turn: Turn, first: Any, kind: str, modality: Modality) -> str | None:
    state = first
    for i, given in enumerate(_stream(kind, modality, SHORT)):
        before = frozen_bytes((state, given))
        after, _ = turn(state, given)
        if frozen_bytes((state, given)) != before:
            return f"input {i} or the state it was given is not what it was: return a new one"
        state = after
    return None


def _inside(turn: Turn, first: Any, kind: str, modality: Modality) -> str | None:
    """The first input is passed over: a module may be imported then."""
    state = first
    for i, given in enumerate(_stream(kind, modality, SHORT)):
        with watch().looking() as seen:
            state, _ = turn(state, given)
        if seen and i:
            return f"at input {i}: {seen[0]}"
    return None


def _of_its_kind(turn: Turn, first: Any, kind: str, modality: Modality) -> str | None:
    state = first
    for given in _stream(kind, modality, SHORT):
        state, output = turn(state, given)
        if why := _wrong(kind, output):
            return why
    return None


def _wrong(kind: str, output: Any) -> str | None:
    if kind == "gate":
        return None if isinstance(output, bool) else f"a gate says True or False, not {type(output).__name__}"
    if kind == "pre":
        return None if isinstance(output, View) else f"a pre step returns a View, not {type(output).__name__}"
    wanted = View if kind == "window" else Finding
    if not isinstance(output, tuple) or not all(isinstance(one, wanted) for one in output):
        return f"it returns a tuple of {wanted.__name__}, not {type(output).__name__}"
    return None


def _resumes(turn: Turn, first: Any, kind: str, modality: Modality) -> str | None:
    """Half of a stream, then the state as it was put aside, then the rest: nothing may be missing."""
    import pickle

    stream = list(_stream(kind, modality, SHORT))
    state = first
    for given in stream[: len(stream) // 2]:
        state, _ = turn(state, given)
    again = pickle.loads(frozen_bytes(state))  # noqa: S301  what this very process has just written
    for i, given in enumerate(stream[len(stream) // 2 :]):
        (state, one), (again, other) = turn(state, given), turn(again, given)
        if frozen_bytes(one) != frozen_bytes(other):
            return f"{i} inputs later it says something else: keep everything that counts in the state"
    return None


def _bounded(turn: Turn, first: Any, kind: str, modality: Modality) -> str | None:
    state, sizes, until_s = first, [], time.monotonic() + PATIENCE_S
    for i, given in enumerate(_stream(kind, modality, LONG)):
        state, _ = turn(state, given)
        if i % (LONG // 30) == 0:
            sizes.append(len(frozen_bytes(state)))
        if len(sizes) >= 6 and time.monotonic() > until_s:
            break
    early, late = max(sizes[: len(sizes) // 2]), max(sizes[len(sizes) // 2 :])
    if late > STATE_BYTES:
        return f"it grew to {late} bytes"
    if late > 1.25 * early + 1024:
        return f"it grew from {early} to {late} bytes in the second half of a stream: give it a limit"
    return None


