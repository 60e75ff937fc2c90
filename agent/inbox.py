"""The inbox between a source and a pipeline: bounded, in memory, and whatever it drops it counts.

Before acceptance anything may be dropped and is counted. `drop_oldest` never makes the writer wait: a slow pipeline
sees the newest samples, and the first sample after a loss carries `gap`. `block` makes the writer wait: nothing is
lost while both run. Nobody waits without a timeout, nobody polls. Waking a thread costs more than handing a sample
over, so a reader is woken when there is something again, and a writer when half of what waited has been read.
"""

import dataclasses
import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agent.records import Sample

Policy = Literal["drop_oldest", "block"]


@dataclass(frozen=True, slots=True)
class InboxCounts:
    """Totals since the inbox was made; received = taken + waiting + the sum of dropped."""

    received: int = 0
    taken: int = 0
    waiting: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """reason -> samples. full: the pipeline was slower than the source; closed: it had left."""


class Inbox:
    """A bounded queue of samples between two threads."""

    def __init__(self, capacity: int, policy: Policy) -> None:
        if capacity < 1:
            raise ValueError(f"capacity = {capacity} must be at least 1")
        self._capacity = capacity
        self._policy = policy
        self._waiting: deque[Sample] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._received = 0
        self._taken = 0
        self._dropped: Counter[str] = Counter()
        self._gap = False

    def put(self, sample: Sample, timeout_s: float = 0.0) -> bool:
        """Hand `sample` over. False: policy is `block`, it was full until the timeout; offer the same sample again."""
        with self._change:
            if self._policy == "block" and not self._room(timeout_s):
                return False
            self._received += 1
            if self._closed:
                self._dropped["closed"] += 1
                return True
            if len(self._waiting) == self._capacity:
                self._waiting.popleft()
                self._dropped["full"] += 1
                self._gap = True
            self._waiting.append(sample)
            if len(self._waiting) == 1:
                self._change.notify_all()
            return True

    def get(self, timeout_s: float) -> Sample | None:
        """The oldest waiting sample, or None when none came in time or the inbox is closed and empty."""
        with self._change:
            if not self._waiting:
                self._change.wait_for(self._has_something, timeout_s)
                if not self._waiting:
                    return None
            sample = self._waiting.popleft()
            self._taken += 1
            lost, self._gap = self._gap, False
            if len(self._waiting) == self._capacity // 2:
                self._change.notify_all()
        return dataclasses.replace(sample, gap=True) if lost and not sample.gap else sample

    def close(self) -> None:
        """Nothing more is wanted: wakes everybody. What waits can still be taken; what comes is dropped."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def counts(self) -> InboxCounts:
        """Totals, consistent among themselves."""
        with self._change:
            return InboxCounts(self._received, self._taken, len(self._waiting), dict(self._dropped))

    def _has_something(self) -> bool:
        return self._closed or bool(self._waiting)

    def _room(self, timeout_s: float) -> bool:
        return self._has_room() or self._change.wait_for(self._has_room, timeout_s)

    def _has_room(self) -> bool:
        return self._closed or len(self._waiting) < self._capacity
