"""What the live view knows, and how it is drawn: a page of a terminal, or plain lines where there is none.

`Board` is data that the demo fills; `draw` makes a rich renderable of it and `plain_line` one line per event. Nothing
here asks the agent or the broker.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.demo.story import Story
from agent.records import Event

DRAW_S = 0.2
"""Shortest time between two pages, seconds."""
SHOWN = 14
"""Events kept on the screen."""
KIND_STYLES = {
    "appears": "bold green",
    "clears": "dim",
    "crosses": "bold yellow",
    "gap": "bold red",
    "alarm": "bold red",
}


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


class Page:
    """The whole terminal, drawn again a few times a second."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._live = Live(auto_refresh=False, screen=True)
        self._drawn_s = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def refresh(self) -> None:
        """Draw what the board holds now."""
        if time.monotonic() - self._drawn_s >= DRAW_S:
            self._drawn_s = time.monotonic()
            self._live.update(draw(self._board), refresh=True)


class Lines:
    """One line per event, for a log or a pipe."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._told = 0
        self._story_told = 0

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
        new = min(self._board.total - self._told, len(self._board.arrivals))
        for arrival in list(self._board.arrivals)[len(self._board.arrivals) - new :]:
            print(plain_line(arrival), flush=True)
        self._told = self._board.total

    def _tell_story(self) -> None:
        story = self._board.story
        if story is None:
            return
        new = min(story.told - self._story_told, len(story.lines))
        for line in list(story.lines)[len(story.lines) - new :]:
            print(f"update     {line}", flush=True)
        self._story_told = story.told


def draw(board: Board) -> RenderableType:
    """The whole page."""
    return Group(_head(board), _pipelines(board), *_story(board), _events(board), _foot(board))


def plain_line(arrival: Arrival) -> str:
    """One event for a log or a pipe."""
    draft = arrival.event.draft
    seal = "sealed" if arrival.sealed else "plain"
    words = f"{draft.stream:<10} {draft.kind:<8} {summary(draft.body)}"
    return f"{words} seq={arrival.event.seq} {seal} cache={draft.cache or '-'} latency_ms={arrival.latency_ms:.0f}"


def summary(body: Any) -> str:
    """The body of an event in a few words."""
    if not isinstance(body, dict):
        return str(body)
    if isinstance(body.get("seen"), list):
        return "; ".join(_seen(s) for s in body["seen"]) or "nothing seen"
    label = body.get("label", "")
    parts = [str(label)] if label else []
    if "value" in body and body["value"] != label:
        parts.append(f"= {_short(body['value'])}{_unit(body)}")
    if "score" in body:
        parts.append(f"score {_short(body['score'])}")
    parts += [f"{key} {_short(body[key])}" for key in ("count", "present_s", "threshold", "reason") if key in body]
    return " ".join(parts) or ", ".join(f"{key} {_short(value)}" for key, value in body.items())


def _seen(seen: dict[str, Any]) -> str:
    figures = seen.get("value") or seen.get("score") or {}
    mean = f" mean {_short(figures['mean'])}" if "mean" in figures else ""
    return f"{seen.get('label')} x{seen.get('findings')}{mean}{_unit(seen)}"


def _unit(table: dict[str, Any]) -> str:
    unit = table.get("unit")
    return f" {unit}" if unit and unit != "1" else ""


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _head(board: Board) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    online = "bold green" if board.state == "online" else "bold red"
    table.add_row("device", Text.assemble((board.device, "bold"), "  ", (board.state, online)))
    table.add_row("broker", board.broker)
    table.add_row("protection", board.protection)
    for name, words in board.sources.items():
        table.add_row(name, words)
    return Panel(table, title="[bold cyan]limpet[/] on-device inference, as its events come back from the broker")


def _pipelines(board: Board) -> RenderableType:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    for column in ("pipeline", "model", "runtime"):
        table.add_column(column)
    for column in ("results", "p50 ms", "p99 ms", "cached", "gated", "events"):
        table.add_column(column, justify="right")
    for name, pipeline in (board.status.get("pipelines") or {}).items():
        model = pipeline.get("model")
        table.add_row(
            Text(name, style="bold"), f"{model['name']} {model['version']}" if model else "streaming statistic",
            str(pipeline.get("runtime", "")), str(pipeline["results"]), _ms(pipeline.get("p50_ms")),
            _ms(pipeline.get("p99_ms")), str(pipeline.get("cached", 0)), str(pipeline.get("gated", 0)),
            str(pipeline["events"]),
        )  # fmt: skip
    reasons = [Text(f"! {reason}", style="yellow") for reason in board.status.get("reasons") or ()]
    return Panel(Group(table, *reasons), title="pipelines")


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _story(board: Board) -> Iterator[RenderableType]:
    """The update as it happens: what was typed, and what the device answered."""
    if board.story is None or not board.story.lines:
        return
    lines = [Text(line, style=_story_style(line), no_wrap=True, overflow="ellipsis") for line in board.story.lines]
    yield Panel(Group(*lines), title="an update that stays, and one that goes back by itself")


def _story_style(line: str) -> str:
    if line.startswith("$"):
        return "bold"
    return "green" if ": successful" in line else "yellow" if ": failed" in line or ": rollback" in line else "dim"


def _events(board: Board) -> RenderableType:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    table.add_column("stream")
    table.add_column("event")
    table.add_column("what", ratio=1, no_wrap=True)
    for column in ("seq", "cache", "latency"):
        table.add_column(column, justify="right")
    table.add_column("")
    for arrival in board.arrivals:
        draft = arrival.event.draft
        seal = Text("sealed, verified", style="green") if arrival.sealed else Text("plain", style="yellow")
        table.add_row(
            draft.stream, Text(draft.kind, style=KIND_STYLES.get(draft.kind, "")), summary(draft.body),
            str(arrival.event.seq), draft.cache or "", f"{arrival.latency_ms:.0f} ms", seal,
        )  # fmt: skip
    if not board.arrivals:
        table.add_row("", "", Text("waiting for the first event ...", style="dim"), "", "", "", "")
    return Panel(table, title=f"events, decrypted here: {board.total}")


def _foot(board: Board) -> RenderableType:
    outbox, uplink = board.status.get("outbox") or {}, board.status.get("uplink") or {}
    words = [
        f"outbox {outbox.get('events', 0) + outbox.get('pending', 0)} waiting",
        f"{uplink.get('acked_events', 0)} acknowledged in {uplink.get('acked_messages', 0)} messages",
        f"{board.gaps} gaps",
        f"{board.refused} refused",
    ]
    words += [f"page {board.dashboard}"] if board.dashboard else []
    return Text("  ·  ".join([*words, "Ctrl-C ends"]), style="dim")
