"""`limpet update`: bring signed models, releases, trust and settings onto this device, and prove them.

Everything that the step before every start of the agent needs (`--burn`) and everything about verdicts is light: TUF,
numpy and the runtimes are loaded only when something is fetched or tried.
"""

import argparse
import json
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli.options import Commands, add_config
from agent.cli.rights import become_owner
from agent.cli.terminal import shown
from agent.depot import AGENT, ModelState, read_state, write_token
from agent.depot.places import drop_token
from agent.errors import ConfigError, UpdateError
from agent.progress import TERMINAL, Progress
from agent.release.follow import follow, runs_trial
from agent.updates.jobs import Book, Do, Job
from agent.updates.spool import work_local
from agent.updates.terms import Terms, read_terms
from agent.updates.timer import place_s
from agent.updates.verdicts import burn, cut_off

if TYPE_CHECKING:
    from rich.progress import TaskID

    from agent.updates.worker import Worker

FACTORY_MODELS: Final = Path(__file__).resolve().parent.parent.parent / "models"
WATCH_S: Final = 0.3
PAUSE_S: Final = 5.0


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser(
        "update", help="bring signed models onto this device",
        description="Without MODEL: what the channel offers to the models of [updates] models, trust lists, settings.",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"bring this model, or {AGENT} for the agent itself")
    parser.add_argument("--version", metavar="V", help="this version instead of what the channel offers")
    parser.add_argument("--from", dest="place", type=Path, metavar="PATH",
                        help="a published repository on a stick: its folder, or a tar file of it")  # fmt: skip
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the verdict of the probation")
    parser.add_argument("--json", action="store_true", help="every state as a JSON line")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--status", action="store_true", help="what runs, what is on probation, the last jobs")
    ways.add_argument("--jobs", action="store_true", help="work through the spool (limpet-update.service)")
    ways.add_argument("--timer", action="store_true", help="a regular look: waits its place, keeps the window")
    ways.add_argument("--burn", action="store_true", help="before a start of the agent (limpet-try.service)")


def run(args: argparse.Namespace) -> int:
    """0: all well, or on probation when nobody waits; 1: something failed."""
    if args.model and (args.status or args.jobs or args.timer or args.burn):
        raise ConfigError("MODEL does not go with --status, --jobs, --timer or --burn")
    if args.version and not args.model:
        raise ConfigError("--version needs a MODEL")
    terms = read_terms(args.config)
    if args.status:
        return _status(terms, args.json)
    logging.basicConfig(level=logging.INFO if args.jobs or args.timer else logging.WARNING, format="%(message)s")
    become_owner(terms.updates.folder)
    book = Book(terms.updates.folder)
    if args.burn:
        return _burn(terms, book)
    if args.jobs:
        return _jobs(terms, book)
    if args.timer:
        time.sleep(place_s(terms.site, terms.device, terms.updates.jitter_s))
        return _worst(_worker(terms, book, args.place).look(in_time=True))
    return _by_hand(terms, book, args)


def _burn(terms: Terms, book: Book) -> int:
    """Drop the token of the last start, take the tries off, write this start's token: in this order."""
    drop_token(terms.updates.token)
    folder = terms.updates.folder
    if not folder.exists():  # nothing was ever installed
        return 0
    state = burn(folder, book, agent=runs_trial(read_state(folder)))
    if state.alarm:
        print(f"limpet update: {state.alarm}", file=sys.stderr)
    write_token(terms.updates.token, state.generation)
    follow(folder, book)
    return 0


def _jobs(terms: Terms, book: Book) -> int:
    """Light work first; the rest of the updater is loaded only when there is more."""
    folder = terms.updates.folder
    try:
        left = work_local(folder, terms.updates.spool, book)
        if left or cut_off(read_state(folder), book):
            _worker(terms, book, None).work()  # a job that failed has its answer: no failure of this command
        follow(folder, book)
    except UpdateError:
        time.sleep(PAUSE_S)  # the jobs stay, and whoever watches the spool starts us again at once
        raise
    return 0


def _by_hand(terms: Terms, book: Book, args: argparse.Namespace) -> int:
    worker = _worker(terms, book, args.place)
    with _shown(args.json) as show:
        if args.model is None:
            ended = worker.look(show)
        else:
            do: Do = "release" if args.model == AGENT else "update"
            ended = worker.run([Job(f"hand-{time.time_ns():x}", do, args.model, args.version or "")], show)
        if not args.no_wait:
            ended = [_verdict(terms, book, progress, show) for progress in ended]
    return _worst(ended)


def _verdict(terms: Terms, book: Book, progress: Progress, show: Callable[[Progress], None]) -> Progress:
    """Wait until the agent has judged, if one is running; what it says lies in the spool."""
    until_s = time.monotonic() + terms.updates.probation_s + 60
    while progress.status not in TERMINAL and time.monotonic() < until_s and _is_running(terms):
        time.sleep(WATCH_S)
        work_local(terms.updates.folder, terms.updates.spool, book)
        now = book.get(progress.id) or progress
        if now.version != progress.version:
            show(now)
        progress = now
    return progress


def _worker(terms: Terms, book: Book, place: Path | None) -> "Worker":
    from agent.updates.worker import Worker

    return Worker(terms, book, FACTORY_MODELS if FACTORY_MODELS.is_dir() else None, place)


def _worst(ended: list[Progress]) -> int:
    return 1 if any(progress.status == "failed" for progress in ended) else 0


def _is_running(terms: Terms) -> bool:
    """Whether an agent listens on the control socket."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(1.0)
        return door.connect_ex(str(terms.runtime / "control.sock")) == 0


def _status(terms: Terms, as_json: bool) -> int:
    """1 when the record is damaged."""
    state = read_state(terms.updates.folder)
    book = Book(terms.updates.folder)
    rows = [*((name, state.model(name)) for name in sorted(state.models)), (AGENT, state.agent)]
    if as_json:
        print(json.dumps({
            "generation": state.generation, "damaged": state.damaged,
            "models": {name: _row(model) for name, model in rows},
            "jobs": [json.loads(progress.encode()) for progress in book.every()[-10:]],
        }))  # fmt: skip
        return 1 if state.damaged else 0
    if state.damaged:
        print(f"! {state.damaged}")
    for name, model in rows:
        print(shown(f"{name:<24} {'  '.join(f'{key}: {value}' for key, value in _row(model).items() if value)}"))
    for progress in book.every()[-10:]:
        print(_line(progress))
    return 1 if state.damaged else 0


def _row(model: ModelState) -> dict[str, str]:
    trial = model.trial
    return {
        "active": str(model.active or "the factory's model"), "good": str(model.good or ""),
        "trial": f"{trial.pick} {trial.mode}, {trial.tries_left} tries left" if trial else "",
        "pinned": "yes" if model.pinned is not None else "", "floor": model.floor,
        "bad": ", ".join(f"{bad.version} ({bad.reason})" for bad in model.bad),
    }  # fmt: skip


def _line(progress: Progress) -> str:
    what = f"{progress.detail.get('model', '')} {progress.detail.get('version', '')}".strip()
    size = f" {progress.done_bytes / 1e6:.1f} of {progress.total_bytes / 1e6:.1f} MB" if progress.total_bytes else ""
    words = ": ".join(filter(None, (progress.reason, progress.text)))
    loading = size if progress.status == "download" else ""
    return shown(f"{what or progress.operation}: {progress.status}{loading}{f' ({words})' if words else ''}")


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """How each state is shown: JSON lines, a bar on a terminal, else a line per state."""
    if as_json:
        yield lambda progress: print(progress.encode().decode(), end="", flush=True)
    elif sys.stdout.isatty():
        with _bar() as show:
            yield show
    else:
        yield lambda progress: print(_line(progress), flush=True)


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bars(*columns) as bars:
        tasks: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            task = tasks.get(progress.id)
            if task is None:
                task = tasks[progress.id] = bars.add_task("", total=None)
            total = progress.total_bytes or None
            bars.update(task, description=escape(_line(progress)), completed=progress.done_bytes, total=total)

        yield show
