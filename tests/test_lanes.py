"""Lanes carry samples from a source to the store, count what is lost, and leave when told."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from agent.app.assembly import make_pipeline
from agent.app.shelf import Shelf
from agent.capture import EndOfStream
from agent.clock import SystemClock
from agent.config import load_pipeline
from agent.errors import CaptureError, ModelError, StoreError
from agent.inbox import Inbox
from agent.lanes import CaptureLane, PipelineLane
from agent.meters import Meters
from agent.metrics import Registry
from agent.records import Channel, Sample
from agent.settings.runtime import CacheConfig, ModelsConfig

STATISTIC = """
schema = 1
name = "machine"
source = "s"
[detector]
step = "streaming_zscore"
warm_rows = 5
[[rule]]
kind = "appears"
"""


class Rows:
    """A finite source of rows, or one that breaks after them."""

    def __init__(self, values, end):
        self._values = list(values)
        self._end = end

    def opener(self, opened):
        @contextmanager
        def source(first_seq):
            opened.append(first_seq)
            self._seq = first_seq
            yield self

        return source

    def counts(self):
        return {"bad_lines": 3}

    def read(self, _timeout_s):
        if not self._values:
            raise self._end
        i, self._seq = self._seq, self._seq + 1
        row = np.array([self._values.pop(0)])
        return Sample("s", i, float(i), float(i), float(i), "series", row, rate_hz=1.0, channels=(Channel("x"),))


@pytest.fixture
def meters():
    return Meters(Registry())


@pytest.fixture
def pipeline(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(STATISTIC)
    shelf = Shelf(ModelsConfig(folders=()), CacheConfig(), SystemClock())
    return make_pipeline(load_pipeline(path), shelf)


def test_a_recording_goes_through_to_the_store_and_both_lanes_end(meters, pipeline):
    """Every sample is looked at, the anomaly is accepted, and the end of the recording ends the lanes."""
    inbox, accepted, opened, stop = Inbox(4, "block"), [], [], threading.Event()
    rows = Rows([1.0, 1.1] * 20 + [99.0], EndOfStream("over"))
    capture = CaptureLane("s", rows.opener(opened), EndOfStream, [inbox], meters)
    thread = threading.Thread(target=capture.run, args=(stop, lambda: None))
    thread.start()
    PipelineLane(pipeline, inbox, accepted.append, meters).run(stop, lambda: None)
    thread.join(5)
    assert [d.kind for d in accepted] == ["appears"]
    assert inbox.counts().taken == 41
    assert opened == [0]
    assert capture.next_seq == 41


def test_what_a_source_leaves_out_is_shown_by_reason():
    """A line that could not be understood is a number in the metrics."""
    registry, stop = Registry(), threading.Event()
    lane = CaptureLane(
        "s", Rows([1.0], EndOfStream("over")).opener([]), EndOfStream, [Inbox(9, "block")], Meters(registry)
    )
    lane.run(stop, lambda: None)
    assert 'limpet_source_left_out{source="s",reason="bad_lines"} 3' in registry.text()


def test_a_source_that_breaks_raises_and_goes_on_counting_when_opened_again(meters):
    """The supervisor sees the error; the next opening continues the sequence numbers."""
    inbox, opened, stop = Inbox(8, "drop_oldest"), [], threading.Event()
    capture = CaptureLane(
        "s", Rows([1.0, 2.0], CaptureError("unplugged: plug it in")).opener(opened), EndOfStream, [inbox], meters
    )
    with pytest.raises(CaptureError, match="unplugged"):
        capture.run(stop, lambda: None)
    with pytest.raises(CaptureError):
        capture.run(stop, lambda: None)
    assert opened == [0, 2]
    assert not inbox.closed


def test_several_pipelines_see_the_same_samples(meters):
    """One source fans out."""
    inboxes, stop = [Inbox(100, "block"), Inbox(100, "block")], threading.Event()
    CaptureLane("s", Rows(range(10), EndOfStream("over")).opener([]), EndOfStream, inboxes, meters).run(
        stop, lambda: None
    )
    assert [inbox.counts().received for inbox in inboxes] == [10, 10]


def test_a_full_blocking_inbox_does_not_keep_the_lane_from_stopping(meters):
    """Waiting for room ends with the stop, and the lane beats meanwhile."""
    inbox, stop, beats = Inbox(1, "block"), threading.Event(), []
    lane = CaptureLane("s", Rows(range(10), EndOfStream("over")).opener([]), EndOfStream, [inbox], meters)
    thread = threading.Thread(target=lane.run, args=(stop, lambda: beats.append(1)))
    thread.start()
    time.sleep(0.7)
    stop.set()
    thread.join(3)
    assert not thread.is_alive()
    assert len(beats) >= 2


class _Refusing:
    def __init__(self, pipeline, exc):
        self.config, self._pipeline, self._exc = pipeline.config, pipeline, exc

    def feed(self, sample):
        if sample.seq == 1:
            raise self._exc
        return self._pipeline.feed(sample)


def test_a_view_that_the_model_refuses_is_counted_and_the_next_one_looked_at(pipeline):
    """One NaN does not end a pipeline."""
    registry = Registry()
    inbox, stop = Inbox(10, "block"), threading.Event()
    rows = Rows([1.0, 2.0, 3.0], EndOfStream("over"))
    CaptureLane("s", rows.opener([]), EndOfStream, [inbox], Meters(registry)).run(stop, lambda: None)
    lane = PipelineLane(_Refusing(pipeline, ModelError("NaN")), inbox, lambda _d: None, Meters(registry))
    lane.run(stop, lambda: None)
    text = registry.text()
    assert 'limpet_refused_total{pipeline="machine",reason="model"} 1' in text
    assert 'limpet_results_total{pipeline="machine",cache="miss"} 2' in text


def test_a_pipeline_whose_model_refuses_everything_fails_and_says_why(pipeline, meters, caplog):
    """Not one sample's fault any more: the supervisor sees it, and health with it."""

    class Never:
        config = pipeline.config

        def feed(self, _sample):
            raise ModelError("it takes pictures, this is sound")

    inbox, stop = Inbox(100, "block"), threading.Event()
    rows = Rows([1.0] * 50, EndOfStream("over"))
    CaptureLane("s", rows.opener([]), EndOfStream, [inbox], meters).run(stop, lambda: None)
    caplog.set_level("WARNING")
    with pytest.raises(ModelError, match="takes pictures"):
        PipelineLane(Never(), inbox, lambda _d: None, meters).run(stop, lambda: None)
    assert inbox.counts().taken == 20
    assert caplog.text.count("view refused") == 5  # the 1st, 2nd, 4th, 8th and 16th: a log is not flooded by one reason


def test_an_event_that_the_store_refuses_is_counted(pipeline):
    """A refusal is never silent."""

    def refuse(_draft):
        raise StoreError("closed")

    registry = Registry()
    inbox, stop = Inbox(100, "block"), threading.Event()
    rows = Rows([1.0, 1.1] * 20 + [99.0], EndOfStream("over"))
    CaptureLane("s", rows.opener([]), EndOfStream, [inbox], Meters(registry)).run(stop, lambda: None)
    PipelineLane(pipeline, inbox, refuse, Meters(registry)).run(stop, lambda: None)
    assert 'limpet_refused_total{pipeline="machine",reason="store"} 1' in registry.text()
