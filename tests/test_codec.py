"""The bytes of an event: deterministic CBOR whatever it holds, and back."""

import enum
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import cbor, codec
from agent.errors import EnvelopeError
from agent.records import Draft, Event, ModelRef

_TEXT = st.text("abcdefgh.xyz 0123_é", min_size=1, max_size=40)
_FLOAT = st.floats(allow_nan=False, allow_infinity=False)
_LEAF = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | _FLOAT | _TEXT
_BODY = st.dictionaries(_TEXT, st.recursive(_LEAF, lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner)))
_DRAFTS = st.builds(
    Draft, stream=st.just("door"), kind=_TEXT, body=_BODY, t_wall_s=_FLOAT, t_mono_s=_FLOAT,
    event_class=st.sampled_from(["critical", "routine"]), clock=st.sampled_from(["synced", "unsynced"]),
    replay=st.booleans(), model=st.none() | st.builds(ModelRef, _TEXT, _TEXT, _TEXT), pipeline=st.just("") | _TEXT,
    pipeline_digest=st.just("") | _TEXT, config_digest=st.just("") | _TEXT, input_digest=st.just("") | _TEXT,
    cache=st.none() | st.sampled_from(["miss", "exact", "similar"]), decided_by=st.just("") | _TEXT,
    media=st.none() | _BODY,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(_DRAFTS, st.integers(0, (1 << 63) - 1))
def test_every_event_is_written_in_deterministic_order(draft, seq):
    """The order of an event's keys is known beforehand; it is the one that sorting would give, and none is left out."""
    event = Event("01890000-0000-7000-8000-000000000000", "0123456789abcdef", seq, draft)
    data = codec.encode(event)
    assert data == cbor.encode(codec.to_map(event))
    assert codec.decode(data) == event


class _Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.float64(0.5), 0.5), (np.float32(0.25), 0.25), (np.int16(-3), -3), (np.bool_(True), True),
        (_Colour.RED, "red"), (np.str_("x"), "x"), (math.nan, None), (np.float32("inf"), None), (-math.inf, None),
        ((1, 2), [1, 2]), (True, True), ("\ud800", "\\ud800"),
    ],
)  # fmt: skip
def test_numbers_and_text_of_other_packages_become_plain(value, said):
    """What a step of numpy's puts into a finding is written as what it means."""
    made = codec.plain({"k": value})["k"]
    assert made == said
    assert type(made) is type(said)


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1, np.zeros(3), object(), b"raw", {1: 2}, {2.5}])
def test_what_no_event_can_hold_is_refused(value):
    """Neither a number beyond 64 bits nor anything that JSON has no word for."""
    with pytest.raises(EnvelopeError):
        codec.plain({"k": value})


def test_nesting_ends_at_ten_levels():
    """Ten levels are written, eleven are not."""
    deep: object = 1
    for _ in range(codec.MAX_BODY_DEPTH):
        deep = [deep]
    assert codec.plain(deep) == deep
    with pytest.raises(EnvelopeError, match="nested"):
        codec.plain([deep])
