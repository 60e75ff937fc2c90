"""The depot's side of `limpet models`: what lies there and what it is to this device, and the verbs that change it.

Changes need the updater's rights: root or its own user does them at once; who may write the spool only (the agent's
group) leaves a job there and looks on while the updater does it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from agent.cli.rights import become_owner
from agent.cli.terminal import fleeting, shown
from agent.depot import ModelState, Pick
from agent.errors import ConfigError, LimpetError
from agent.progress import Progress
from agent.registry import Found, Origin
from agent.settings.updates import UpdatesConfig
from agent.stock import Stock
from agent.updates.jobs import Book, Do, Job, drop
from agent.updates.verdicts import work

PATIENCE_S: Final = 120.0
"""How long the updater is waited for, seconds."""
TURN_S: Final = 0.3


def held(config: UpdatesConfig, names: tuple[str, ...] = ()) -> Iterator[tuple[Found, Origin, str]]:
    """Every version in the depot of the models `names` (default all): its folder, how its file is opened, its use."""
    stock = Stock(config)
    state = stock.state()
    for name in names or sorted({*state.models, *_shelves(config.folder)}):
        for pick in stock.there(name):
            words = use(state.model(name), pick)
            try:
                one = stock.hold(name, pick)
            except LimpetError as exc:
                yield Found(Path(f"{name} {pick.version}"), None, str(exc)), Origin(), words
            else:
                yield Found(one.manifest.folder, one.manifest), one.origin, words


def bad(config: UpdatesConfig) -> Iterator[dict[str, Any]]:
    """A row per version that went wrong on this device and is not tried again."""
    for name, model in sorted(Stock(config).state().models.items()):
        for one in model.bad:
            yield {"name": name, "version": one.version, "use": "bad", "state": f"not tried again: {one.reason}"}


def use(model: ModelState, pick: Pick | None) -> str:
    """What a version is to this device, in words; None is the factory's."""
    words: list[str] = []
    if model.active == pick:
        words += ["active", *(["pinned"] if model.pinned else []), *([f"floor {model.floor}"] if model.floor else [])]
    if pick is not None and model.good == pick:
        words.append("good")
    if model.trial is not None and model.trial.pick == pick:
        words.append(f"trial ({model.trial.mode}, {model.trial.tries_left} tries left)")
    return ", ".join(words)


def change(config: UpdatesConfig, do: Do, model: str, version: str = "") -> int:
    """Do it, or have it done; 1 when it failed. Raises ConfigError without the right to either."""
    become_owner(config.folder)
    job = Job(f"hand-{time.time_ns():x}", do, model, version)
    book = Book(config.folder)
    if os.access(config.folder, os.W_OK):
        track = work(config.folder, book, job)
        ended = track.progress if track else None
    elif os.access(config.spool, os.W_OK):
        drop(config.spool, job)
        ended = _watched(book, job.id)
    else:
        words = f"{config.folder} belongs to the updater and {config.spool} to its group"
        raise ConfigError(f"{words}: run this with sudo")
    if ended is None:
        print(f"the updater has not answered within {PATIENCE_S:g} s: look at limpet-update.service", file=sys.stderr)
        return 1
    print(shown(ended.text or ended.status), file=sys.stderr if ended.reason else sys.stdout)
    return 0 if ended.status == "successful" else 1


def _watched(book: Book, job_id: str, mono_s: Callable[[], float] = time.monotonic) -> Progress | None:
    """The job's end, told on one line while it is awaited; None when it never comes."""
    until_s, said = mono_s() + PATIENCE_S, ""
    while mono_s() < until_s:
        progress = book.get(job_id)
        if progress is not None and progress.terminal:
            fleeting()
            return progress
        now = progress.status if progress else "waiting for the updater"
        if now != said:
            fleeting(now)
        said = now
        time.sleep(TURN_S)
    return None


def _shelves(folder: Path) -> list[str]:
    return [path.name for path in (folder / "models").glob("*")]
