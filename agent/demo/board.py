"""What the live view knows, and plain lines of it where there is no terminal (`agent.demo.page` draws it on one).

`Board` is data that the demo fills; `plain_line` makes one line of an event. Nothing here asks the agent or the broker.
"""

from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from agent.cli.phrases import summary
from agent.demo.story import Story
from agent.records import Event

SHOWN = 40
"""Events kept for the screen."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event as it came back from the broker."""

    event: Event
    topic: str
    sealed: bool
    latency_ms: float
    """From the sample's wall time to its arrival here, milliseconds."""
    batch: int = 1
    """Events in the message that brought it."""


@dataclass(slots=True)
class Board:
    """Everything on the screen."""

    device: str
    broker: str
    protection: str
    dashboard: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    """Source -> what feeds it, in words: a real device, or a recording and why."""
    state: str = "unknown"
    status: dict[str, Any] = field(default_factory=dict)
    """The newest answer of the agent's control socket."""
    arrivals: deque[Arrival] = field(default_factory=lambda: deque(maxlen=SHOWN))
    total: int = 0
    gaps: int = 0
    refused: int = 0
    """Messages that could not be opened."""
    story: Story | None = None
    """What happens beside the events: an update that stays and one that goes."""

    def take(self, arrival: Arrival) -> None:
        """Show one more event."""
        self.arrivals.append(arrival)
        self.total += 1
        self.gaps += arrival.event.draft.kind == "gap"


class Lines:
    """One line per event, for a log or a pipe."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._told = 0
        self._story_told = 0
        self._labelled: set[str] = set()

    def __enter__(self) -> Self:
        board = self._board
        print(f"device {board.device}\nbroker {board.broker}\nprotection {board.protection}")
        for name, words in board.sources.items():
            print(f"{name} {words}")
        if board.dashboard:
            print(f"page {board.dashboard}", flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Print what has arrived since the last call."""
        self._tell_story()
        self._tell_labels()
        new = min(self._board.total - self._told, len(self._board.arrivals))
        for arrival in list(self._board.arrivals)[len(self._board.arrivals) - new :]:
            print(plain_line(arrival), flush=True)
        self._told = self._board.total

    def _tell_labels(self) -> None:
        """Once for each pipeline: that its model is only a demonstration, and why."""
        for name, pipeline in (self._board.status.get("pipelines") or {}).items():
            if pipeline.get("demonstration") and name not in self._labelled:
                self._labelled.add(name)
                print(f"{name:<10} {model_words(pipeline)}: {pipeline['demonstration']}", flush=True)

    def _tell_story(self) -> None:
        story = self._board.story
        if story is None:
            return
        new = min(story.told - self._story_told, len(story.lines))
        for line in list(story.lines)[len(story.lines) - new :]:
            print(f"update     {line}", flush=True)
        self._story_told = story.told


def plain_line(arrival: Arrival) -> str:
    """One event for a log or a pipe."""
    draft = arrival.event.draft
    seal = "sealed" if arrival.sealed else "plain"
    words = f"{draft.stream:<10} {draft.kind:<8} {summary(draft.body)}"
    return f"{words} seq={arrival.event.seq} {seal} cache={draft.cache or '-'} latency_ms={arrival.latency_ms:.0f}"


def model_words(pipeline: dict[str, Any]) -> str:
    """What a pipeline runs, from its part of the status."""
    model = pipeline.get("model")
    words = f"{model['name']} {model['version']}" if model else "streaming statistic"
    return f"{words}, a demonstration" if pipeline.get("demonstration") else words
