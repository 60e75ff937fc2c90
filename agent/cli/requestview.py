"""How `limpet request` shows devices on their way: bars on a terminal, a line per change elsewhere."""

import json
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from agent.cli.terminal import shown
from agent.progress import STATUSES
from agent.technician.asking import Asked, Round, words

_WAY = [name for name in STATUSES if name not in ("rollback", "failed")]
_STEPS: dict[str, int] = {name: number for number, name in enumerate(_WAY)}
_LAST = _STEPS["successful"]


class Page:
    """One bar per device: the states of an update, and within `download` the bytes."""

    def __init__(self, round_: Round) -> None:
        self._round = round_
        self._bars = Progress(
            SpinnerColumn(finished_text=" "), TextColumn("[bold]{task.description}"), BarColumn(bar_width=28),
            TimeElapsedColumn(), TextColumn("{task.fields[words]}"), console=Console(highlight=False),
        )  # fmt: skip
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        for one in self._round.asked:
            name = f"{one.target.site}/{one.target.device}"
            self._rows[one.target.id + name] = self._bars.add_task(name, total=_LAST, words="waits its turn")
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def tell(self, changed: Asked | None) -> None:
        """Draw what is new."""
        if changed is None:
            return
        row = self._rows[f"{changed.target.id}{changed.target.site}/{changed.target.device}"]
        colour = "green" if changed.ok else "red" if changed.failed else "cyan"
        self._bars.update(row, completed=position(changed), words=f"[{colour}]{escape(shown(words(changed)))}")


class Lines:
    """One line per change, for a log or a pipe."""

    def __init__(self, round_: Round, *, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def tell(self, changed: Asked | None) -> None:
        """Print what is new."""
        if changed is None:
            return
        target = changed.target
        if self._as_json:
            print(json.dumps(fields(changed)), flush=True)
        else:
            print(f"{target.site}/{target.device} {target.operation} {shown(words(changed))}", flush=True)


def position(one: Asked) -> float:
    """How far along the states, 0 to the last; within the download by its bytes."""
    if one.seen is None:
        return 0.0
    if one.phase == "ended":
        return float(_LAST)
    base = float(_STEPS.get(one.seen.status, 1))  # a state that this version does not know is a middle one
    part = one.seen.done_bytes / one.seen.total_bytes if one.seen.status == "download" and one.seen.total_bytes else 0.0
    return base + min(part, 1.0)


def fields(one: Asked) -> dict[str, Any]:
    """One change as JSON values; bytes of a result are told by their size."""
    target, seen = one.target, one.seen
    made: dict[str, Any] = {
        "type": "request", "device": f"{target.site}/{target.device}", "operation": target.operation, "id": target.id,
        "phase": one.phase,
    }  # fmt: skip
    if one.refusal:
        made["refusal"] = one.refusal
    if seen is not None:
        made |= _plain(asdict(seen))
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return f"{len(value)} bytes" if isinstance(value, bytes) else value
