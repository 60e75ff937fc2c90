"""`limpet demo`: a broker, an agent and a reader on this machine, and what the reader sees, live.

Everything lies in a temporary folder and is gone afterwards; the keys are made at the start. The events on the screen
have gone the whole way: model, outbox, seal, TLS, broker, TLS, signature, decryption.
"""

import argparse
import contextlib
import datetime as dt
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from agent import __version__
from agent.app.shelf import FACTORY_MODELS
from agent.cli.options import Commands
from agent.cli.terminal import counted
from agent.clock import Clock, SystemClock
from agent.config import load_config, load_reader
from agent.control import ask
from agent.demo import board as boards
from agent.demo import children, stage
from agent.demo.broker import BrokerPlan, choose
from agent.demo.page import Page
from agent.demo.pki import DemoKeys, make_keys
from agent.demo.story import Story
from agent.envelope.setup import make_opener
from agent.envelope.topics import ROOT
from agent.errors import ConfigError, LimpetError
from agent.reading import Heard, Refused, Said, filters, listen
from agent.settings.technician import TechnicianConfig

PIPELINES = Path(__file__).resolve().parent.parent.parent / "pipelines"
STATES = tuple(f"{ROOT}/+/+/{tail}" for tail in ("cmd/+/+", "twin/commands"))
"""What the demo's technician needs to hear besides."""
STATUS_S = 1.0
"""How often the agent is asked how it is, seconds."""


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("demo", help="broker, agent and live view on this machine")
    parser.add_argument("duration", nargs="?", default="", metavar="20s", help="end after this time (s, m or h)")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "amqtt"), default="auto", help="broker to start")
    parser.add_argument("--lines", action="store_true", help="plain lines instead of a page")


def run(args: argparse.Namespace) -> int:
    """Show events until Ctrl-C or the end of the time; 1 when none arrived or the agent died."""
    for_s = _seconds(args.duration)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the last: the terminal was closed
        signal.signal(number, lambda *_: stop.set())
    with _folder() as name:
        return _show(Path(name), args, for_s, stop)


def _folder() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="limpet-demo-")
    except OSError as exc:
        raise ConfigError(f"no temporary folder: {exc.strerror}: set TMPDIR to one that you may write to") from exc


def _show(folder: Path, args: argparse.Namespace, for_s: float | None, stop: threading.Event) -> int:
    clock = SystemClock()
    print("looking for a camera, a microphone and sensors ...", flush=True)
    parts = tuple(stage.find_parts(PIPELINES, FACTORY_MODELS, clock))
    keys = make_keys(folder / "keys", dt.datetime.now(dt.UTC))
    story = _story(folder, keys)
    with contextlib.ExitStack() as running:
        running.callback(story.close)
        broker = running.enter_context(choose(BrokerPlan(folder / "broker", keys, stage.accounts()), args.broker))
        updates = stage.Source(running.enter_context(children.web_server(story.repository / "public")), story.prepare())
        config_path = stage.write_agent(folder, keys, broker, parts, FACTORY_MODELS, updates)
        reader = load_reader(stage.write_reader(folder, keys, broker, asks=True))
        child = running.enter_context(children.agent(config_path, folder / "agent.log"))
        page = running.enter_context(children.dashboard(stage.write_page(folder, keys, broker)))
        board = boards.Board(
            device=f"{stage.SITE}/{stage.DEVICE} (limpet {__version__})",
            broker=broker.words,
            protection="COSE_Encrypt0 under an epoch key, HPKE to this reader, signed by the device",
            dashboard=f"{page} with the key {keys.reader.key}" if page else "not built: make dashboard",
            sources={part.source: part.words for part in parts},
            story=story,
        )
        heard = listen(
            reader.broker, "limpet-demo-reader", make_opener(reader.reader), (*filters(), *STATES), stop, clock,
            story.outgoing,
        )  # fmt: skip
        view = boards.Lines(board) if args.lines or not sys.stdout.isatty() else Page(board)
        until_s = clock.mono_s() + for_s if for_s is not None else float("inf")
        with view:
            for _ in _ticks(heard, board, story, child, load_config(config_path).paths.socket, clock):
                view.refresh()
                if clock.mono_s() >= until_s:
                    break
        died = child.poll() is not None
    if died:
        log = (folder / "agent.log").read_text(errors="replace")
        raise ConfigError("the agent ended by itself; its last lines were:\n" + "\n".join(log.splitlines()[-8:]))
    lost = f"{counted(board.gaps, 'gap')}, {counted(board.refused, 'message')} refused"
    print(f"{counted(board.total, 'event')} came back decrypted, {lost}", flush=True)
    return 0 if board.total else 1


def _story(folder: Path, keys: DemoKeys) -> Story:
    technician = TechnicianConfig(key=keys.technician.key)
    return Story(folder, f"{stage.SITE}/{stage.DEVICE}", technician, FACTORY_MODELS, deque())


def _ticks(
    heard: Iterator[Said | None], board: boards.Board, story: Story, child: children.Child, socket: Path,
    clock: Clock,
) -> Iterator[None]:
    """Fill the board with what is heard and with the agent's own word; ends when the agent does."""
    asked_s = -STATUS_S
    for said in heard:
        if said is not None:
            story.hear(said)
        if isinstance(said, Heard):
            _take(board, said, clock.wall_s())
        elif isinstance(said, Refused):
            board.refused += 1
        if clock.mono_s() - asked_s >= STATUS_S:
            asked_s = clock.mono_s()
            with contextlib.suppress(LimpetError):  # not up yet
                board.status = ask(socket, "status")
        if child.poll() is not None:
            return
        if board.total:
            story.turn()
        yield


def _take(board: boards.Board, heard: Heard, now_wall_s: float) -> None:
    opened = heard.opened
    if opened.place == "status":
        board.state = str(opened.body.get("state", opened.body.get("status", "unknown")))
    for event in opened.events:
        latency_ms = (now_wall_s - event.draft.t_wall_s) * 1e3
        board.take(boards.Arrival(event, heard.topic, opened.sealed, latency_ms, len(opened.events)))


def _seconds(text: str) -> float | None:
    """ "20s", "2m", "1h" or bare seconds; None for no limit. Raises ConfigError."""
    if not text:
        return None
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1])
    try:
        value = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e7:
        raise ConfigError(f"{text!r} is no time: write one such as 20s, 2m or 1h")
    return value
