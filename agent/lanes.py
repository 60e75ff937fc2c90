"""The bodies of the agent's own lanes: from a source into inboxes, and from an inbox through a pipeline into the store.

A capture lane opens its source, fans every sample out to the inboxes of the pipelines that look at it, and ends when a
recording ends; a broken source raises, and the supervisor opens it again after a jittered wait. A pipeline lane
finishes the sample in hand when it is told to stop, never waits for the disk, and counts a view that its model
refuses instead of dying of it.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from agent.errors import ModelError, StoreError
from agent.inbox import Inbox
from agent.pipeline import Outcome
from agent.records import Draft, Result, Sample
from agent.settings.core import PipelineConfig

log = logging.getLogger(__name__)

TURN_S = 1.0
"""Longest wait of a lane before it looks at `stop` and beats, seconds."""
REFUSALS = 20
"""Samples refused in a row that make a pipeline a failed one."""
COUNTS_EVERY = 16
"""How often a busy source is asked what it left out, samples."""


class Source(Protocol):
    """What a capture lane needs of an open source."""

    def read(self, timeout_s: float) -> Sample | None: ...
    def counts(self) -> Mapping[str, int]: ...


class Observer(Protocol):
    """Is told what lanes did: the agent's metrics, a replay's printer."""

    def sampled(self, source: str) -> None: ...
    def left_out(self, source: str, counts: Mapping[str, int]) -> None: ...
    def looked(self, result: Result) -> None: ...
    def gated(self, pipeline: str) -> None: ...
    def refused(self, pipeline: str, reason: str) -> None: ...
    def accepted(self, draft: Draft) -> None: ...


@dataclass(slots=True)
class CaptureLane:
    """One source and the inboxes that it fills."""

    name: str
    open: Callable[[int], AbstractContextManager[Source]]
    """Opens the source; the number is the first sequence number, so that a reopened source goes on counting."""
    ended: type[Exception]
    """What the source raises at the end of a recording."""
    inboxes: Sequence[Inbox]
    observer: Observer
    next_seq: int = 0

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Read until `stop` or the end of the recording. Raises CaptureError when the source breaks."""
        with self.open(self.next_seq) as source:
            log.info("source=%s open", self.name)
            while not stop.is_set():
                beat()
                try:
                    sample = source.read(TURN_S)
                except self.ended:
                    log.info("source=%s end of recording", self.name)
                    break
                if sample is None or sample.seq % COUNTS_EVERY == 0:
                    self.observer.left_out(self.name, source.counts())
                if sample is not None:
                    self.next_seq = sample.seq + 1
                    self.observer.sampled(self.name)
                    self._hand_over(sample, stop, beat)
        for inbox in self.inboxes if not stop.is_set() else ():
            inbox.close()

    def _hand_over(self, sample: Sample, stop: threading.Event, beat: Callable[[], None]) -> None:
        for inbox in self.inboxes:
            while not inbox.put(sample, TURN_S) and not stop.is_set():
                beat()


class Looker(Protocol):
    """A pipeline, or a seat that pipelines take one after another."""

    @property
    def config(self) -> PipelineConfig: ...
    def feed(self, sample: Sample) -> Iterator[Outcome]: ...


@dataclass(slots=True)
class PipelineLane:
    """One pipeline, its inbox and the store's door.

    A thread that hung in a model and was left behind tells nothing more when it wakes up: the newest one speaks.
    """

    pipeline: Looker
    inbox: Inbox
    accept: Callable[[Draft], object]
    observer: Observer
    refused: int = 0
    """Samples refused in a row."""
    speaker: int = 0
    """The thread that runs this lane."""

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Look at samples until `stop`, or until the inbox is closed and empty.

        Raises ModelError when the model refuses `REFUSALS` samples in a row: then this is not a sample's fault.
        """
        self.speaker = me = threading.get_ident()
        while not stop.is_set() and self.speaker == me:
            beat()
            sample = self.inbox.get(TURN_S)
            if sample is not None:
                self._look(sample, me)
            elif self.inbox.closed:
                return

    def _look(self, sample: Sample, me: int) -> None:
        try:
            for outcome in self.pipeline.feed(sample):
                if self.speaker != me:
                    return
                self._tell(outcome)
                self.refused = 0
        except ModelError as exc:
            name = self.pipeline.config.name
            self.observer.refused(name, "model")
            self.refused += 1
            if self.refused % REFUSALS == 0:
                raise
            if self.refused & (self.refused - 1) == 0:  # the 1st, 2nd, 4th, ... in a row: one reason, not twenty lines
                log.warning("pipeline=%s seq=%d view refused: %s", name, sample.seq, exc)

    def _tell(self, outcome: Outcome) -> None:
        name = self.pipeline.config.name
        if outcome.result is None:
            self.observer.gated(name)
        else:
            self.observer.looked(outcome.result)
        for draft in outcome.drafts:
            try:
                self.accept(draft)
            except StoreError as exc:
                self.observer.refused(name, "store")
                log.error("pipeline=%s event not accepted: %s", name, exc)
            else:
                self.observer.accepted(draft)
