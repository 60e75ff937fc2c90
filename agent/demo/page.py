"""The live view as a page of a terminal: head, pipelines, the story of the update, events, and a line of figures.

Everything fits the terminal's height and width as they are at each drawing. What does not change its size comes first;
the story and the events share the lines that are left, the newest of each. A small terminal loses frames, the
line of protection, the column of runtimes and the ends of long lines, so that nothing is cut off at the bottom.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agent.cli.phrases import summary
from agent.demo.board import Arrival, Board, model_words

DRAW_S = 0.2
"""Shortest time between two pages, seconds."""
FRAMED_LINES = 40
"""Terminals of fewer lines get a heading instead of a frame around each part."""
RUNTIME_COLUMNS = 100
"""Terminals of fewer columns do not show the runtimes."""
STORY_SHARE = 0.6
"""Of the lines that story and events share."""
KIND_STYLES = {
    "appears": "bold green",
    "clears": "dim",
    "crosses": "bold yellow",
    "gap": "bold red",
    "alarm": "bold red",
}
_Frame = Callable[[RenderableType, str], RenderableType]


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
            self._live.update(Sheet(self._board), refresh=True)


@dataclass(frozen=True, slots=True)
class Sheet:
    """The board at the size of the console that it is drawn on."""

    board: Board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        board, height = self.board, options.height or console.height
        framed = height >= FRAMED_LINES
        frame = _framed if framed else _headed
        head = _head(board, whole=framed)
        above = Group(
            frame(head, "[bold cyan]limpet[/] on-device inference, as its events come back from the broker"),
            frame(_pipelines(board, options.max_width), "pipelines"),
        )
        story, events = frame(Text("x"), ""), frame(_events([]), "")
        left = height - _lines(console, options, above, _foot(board), story, events) + 2
        told = _story(board, max(1, left - min(len(board.arrivals) or 1, left - round(left * STORY_SHARE))))
        yield above
        if told:
            yield frame(Group(*told), "an update that stays, and one that goes back by itself")
        shown = max(1, left - len(told)) if told else left + _lines(console, options, story) - 1
        yield frame(_events(list(board.arrivals)[-shown:]), f"events, decrypted here: {board.total}")
        yield _foot(board)


def _lines(console: Console, options: ConsoleOptions, *parts: RenderableType) -> int:
    """How many lines these take at this width."""
    return sum(len(console.render_lines(part, options.update(height=None))) for part in parts)


def _framed(inside: RenderableType, title: str) -> RenderableType:
    return Panel(inside, title=title)


def _headed(inside: RenderableType, title: str) -> RenderableType:
    return Group(Rule(title, style="dim", characters="─"), inside)


def _head(board: Board, *, whole: bool) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    online = "bold green" if board.state == "online" else "bold red"
    table.add_row("device", Text.assemble((board.device, "bold"), "  ", (board.state, online)))
    table.add_row("broker", board.broker)
    if whole:  # else each event still says whether it was sealed
        table.add_row("protection", board.protection)
    for name, words in board.sources.items():
        table.add_row(name, words)
    return table


def _pipelines(board: Board, columns: int) -> RenderableType:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    wide = columns >= RUNTIME_COLUMNS
    for column in ("pipeline", "model", *(("runtime",) if wide else ())):
        table.add_column(column, no_wrap=True)
    for column in ("results", "p50 ms", "p99 ms", "cached", "gated", "events"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, pipeline in (board.status.get("pipelines") or {}).items():
        table.add_row(
            Text(name, style="bold"), model_words(pipeline),
            *((str(pipeline.get("runtime", "")),) if wide else ()), str(pipeline["results"]),
            _ms(pipeline.get("p50_ms")), _ms(pipeline.get("p99_ms")), str(pipeline.get("cached", 0)),
            str(pipeline.get("gated", 0)), str(pipeline["events"]),
        )  # fmt: skip
    return Group(table, *(_one_line(f"! {reason}", "yellow") for reason in board.status.get("reasons") or ()))


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _story(board: Board, most: int) -> list[Text]:
    """The update as it happens: what was typed, the way of the request, and how it ended."""
    told = list(board.story.page)[-most:] if board.story is not None else []
    return [_one_line(line, _story_style(line)) for line in told]


def _story_style(line: str) -> str:
    if line.startswith("$"):
        return "bold"
    return "green" if line.startswith("  successful") else "yellow" if line.startswith("  failed") else "dim"


def _one_line(words: str, style: str) -> Text:
    return Text(words, style=style, no_wrap=True, overflow="ellipsis")


def _events(arrivals: list[Arrival]) -> RenderableType:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    table.add_column("stream", no_wrap=True)
    table.add_column("event", no_wrap=True)
    table.add_column("what", ratio=1, no_wrap=True)
    for column in ("seq", "cache", "latency"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in _rows(arrivals):
        table.add_row(*row)
    return table


def _rows(arrivals: list[Arrival]) -> Iterator[tuple[Any, ...]]:
    if not arrivals:
        yield "", "", Text("waiting for the first event ...", style="dim"), "", "", "", ""
    for arrival in arrivals:
        draft = arrival.event.draft
        seal = Text("sealed, verified", style="green") if arrival.sealed else Text("plain", style="yellow")
        yield (
            draft.stream, Text(draft.kind, style=KIND_STYLES.get(draft.kind, "")), summary(draft.body),
            str(arrival.event.seq), draft.cache or "", f"{arrival.latency_ms:.0f} ms", seal,
        )  # fmt: skip


def _foot(board: Board) -> RenderableType:
    """The figures, and where the browser page is. The page's address is never shortened: people copy it."""
    outbox, uplink = board.status.get("outbox") or {}, board.status.get("uplink") or {}
    words = [
        f"outbox {outbox.get('events', 0) + outbox.get('pending', 0)} waiting",
        f"{uplink.get('acked_events', 0)} acknowledged in {uplink.get('acked_messages', 0)} messages",
        f"{board.gaps} gaps",
        f"{board.refused} refused",
    ]
    words += [f"page {board.dashboard}"] if board.dashboard else []
    return Text("  ·  ".join([*words, "Ctrl-C ends"]), style="dim")
