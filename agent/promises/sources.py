"""The promises of sources: deadlines, numbering, times, read-only arrays, gaps, an end that ends."""

import time
from itertools import pairwise
from typing import Any, Final

import numpy as np

from agent.capture.source import EndOfStream, Source, Stamp
from agent.clock import SystemClock
from agent.errors import CaptureError
from agent.promises.promise import Promise, tried
from agent.promises.steps import frozen, strict
from agent.records import Sample
from agent.strict import build

FEW: Final = 5
"""Samples that a source is tried on."""
OPEN_S, READ_S, SLACK_S, WAIT_S = 10.0, 0.2, 0.5, 10.0
"""Longest opening; timeout of a read, how much later it may return, and how long samples are waited for; seconds."""
_DTYPES: Final = {"image": "uint8", "audio": "int16", "series": "float64"}
_DIMENSIONS: Final = {"image": (2, 3), "audio": (1,), "series": (1,)}


def check(cls: type[Any], keys: dict[str, object], where: str) -> list[Promise]:
    """Try every promise of the source whose settings are `cls`, made with `keys`: it is opened for real."""
    made = tried("it can be made from its keys", lambda: (build(cls, keys, where), None)[1])
    if made.problem:
        return [made]
    config = build(cls, keys, where)
    got: list[Sample] = []
    return [
        made,
        tried("its settings are frozen", lambda: frozen(config)),
        tried("unknown keys are refused", lambda: strict(cls)),
        tried(f"it opens within {OPEN_S:g} s", lambda: _opens(config)),
        tried("a read returns within its timeout", lambda: _in_time(config)),
        tried("it delivers samples", lambda: got.extend(_samples(config))),
        tried("they are of its modality and read-only", lambda: _material(config, got)),
        tried("numbers go up by one, times never back", lambda: _order(got)),
        tried("no array is handed out twice", lambda: _fresh(got)),
        tried("opened again it goes on counting, and says that something was lost", lambda: _goes_on(config)),
        tried("it tells what it left out", lambda: _counts(config)),
        tried("it can be closed twice, also while nothing was read", lambda: _closes(config)),
    ]


def _stamp(first_seq: int = 0) -> Stamp:
    return Stamp("check", SystemClock(), first_seq)


def _opens(config: Any) -> str | None:
    begin = time.monotonic()
    source: Source = config.open(_stamp())
    spent_s = time.monotonic() - begin
    with source:
        return f"it took {spent_s:.1f} s" if spent_s > OPEN_S else None


def _in_time(config: Any) -> str | None:
    with config.open(_stamp()) as source:
        for _ in range(2):
            begin = time.monotonic()
            try:
                source.read(READ_S)
            except EndOfStream:
                return None
            spent_s = time.monotonic() - begin
            if spent_s > READ_S + SLACK_S:
                return f"read({READ_S:g}) took {spent_s:.1f} s: nobody could stop it meanwhile"
    return None


def _read(source: Source, count: int) -> list[Sample]:
    """Up to `count` samples, fewer at the end of a recording. Raises CaptureError when none comes."""
    got: list[Sample] = []
    until_s = time.monotonic() + WAIT_S
    while len(got) < count and time.monotonic() < until_s:
        try:
            sample = source.read(READ_S)
        except EndOfStream:
            break
        if sample is not None:
            got.append(sample)
    if not got:
        raise CaptureError(f"nothing came within {WAIT_S:g} s")
    return got


def _samples(config: Any) -> list[Sample]:
    with config.open(_stamp()) as source:
        return _read(source, FEW)


def _material(config: Any, got: list[Sample]) -> str | None:
    for sample in got:
        if not isinstance(sample, Sample):
            return f"it delivered {type(sample).__name__}"
        if sample.modality != config.modality:
            return f"it delivered {sample.modality}, and its class says {config.modality}"
        if sample.data.flags.writeable:
            return "the array can be written to: make every sample with the stamp"
        dtype, dims = _DTYPES.get(sample.modality), _DIMENSIONS.get(sample.modality)
        if dtype and dims and (sample.data.dtype != dtype or sample.data.ndim not in dims):
            here = f"{sample.data.dtype} {list(sample.data.shape)}"
            return f"{sample.modality} is {dtype} with {' or '.join(map(str, dims))} dimensions, this is {here}"
    return None


def _order(got: list[Sample]) -> str | None:
    for one, after in pairwise(got):
        if after.seq != one.seq + 1 and not after.gap:
            return f"number {after.seq} follows {one.seq} without `gap`"
        if after.t_s < one.t_s or after.t_mono_s < one.t_mono_s:
            return f"sample {after.seq} is earlier than {one.seq}"
    return None if not got or got[0].seq == 0 else f"the first number is {got[0].seq}: make every sample with the stamp"


def _fresh(got: list[Sample]) -> str | None:
    again = [one.seq for one, after in pairwise(got) if np.shares_memory(one.data, after.data)]
    return f"samples {again[0]} and {again[0] + 1} share their memory" if again else None


def _goes_on(config: Any) -> str | None:
    with config.open(_stamp(41)) as source:
        first = _read(source, 1)[0]
    if first.seq != 41:
        return f"it was told to begin at 41 and began at {first.seq}: make every sample with the stamp"
    return None if first.gap else "its first sample does not carry `gap`"


def _counts(config: Any) -> str | None:
    with config.open(_stamp()) as source:
        _read(source, 1)
        counts = dict(source.counts())
    wrong = [name for name, count in counts.items() if not isinstance(name, str) or not isinstance(count, int)]
    return f"counts() holds {wrong[0]!r}, which is no name with a whole number" if wrong else None


def _closes(config: Any) -> str | None:
    source: Source = config.open(_stamp())
    source.__exit__(None, None, None)
    source.__exit__(None, None, None)
    return None
