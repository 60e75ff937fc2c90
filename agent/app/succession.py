"""Follows the depot's record while the agent runs: which version each seat shall have, and what becomes of candidates.

A reconciler. `turn`, called once per turn of the supervisor, looks at the record with one stat, compares what should
run with what runs, starts at most one loading lane per model, and hands finished pipelines to their seats. Rules:

- Loading, warming and replaying happen in a lane of their own, never in a pipeline's; where nothing changes there is
  no such lane.
- A candidate is touched only when its try is burnt (`token`), also when it only runs in the shadow: a candidate that
  takes the process down with it has none left after a few starts.
- What goes wrong is undone at once, in memory; the updater hears of it through a job and writes it down. Until it has,
  the candidate of that trial is not tried again.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any, Final, Protocol

from agent.app.assembly import make_with
from agent.app.shelf import Shelf
from agent.config import PipelineFile
from agent.depot import AGENT, ModelState, Pick, Trial
from agent.errors import LimpetError
from agent.pipeline import Pipeline
from agent.records import Sample
from agent.settings.updates import UpdatesConfig
from agent.stock import Stock
from agent.supervisor import Lane
from agent.trial.attempt import FAULTS, Attempt, in_words
from agent.trial.judge import Probation, Shadow, Verdict, refused
from agent.trial.rehearsal import limits, pace_ms, replay
from agent.trial.seat import Change, Seat

log = logging.getLogger(__name__)

LOAD_DEADLINE_S: Final = 60.0
"""A candidate that is not loaded and warm after this time goes back, seconds."""
HANG_S: Final = 20.0
"""A candidate that looks at one sample for longer goes back, and its thread is left behind, seconds."""
LANE_DEADLINE_S: Final = 900.0
"""A loading lane that says nothing for longer counts as stuck, seconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """A pipeline file and the seat that runs it."""

    file: PipelineFile
    seat: Seat


class Teller(Protocol):
    """What is told to the world."""

    def turn(self) -> None: ...
    def verdict(self, model: str, trial: Trial, verdict: Verdict) -> None: ...
    def broken(self, model: str, pick: Pick | None, text: str) -> None: ...
    def mended(self, model: str) -> None: ...
    def damaged(self, text: str) -> None: ...


Recent = Callable[[str], Iterable[Sequence[Sample]]]
"""The clips of recent inputs of a source, the oldest first."""


@dataclass(slots=True)
class _Line:
    """One model: who has its seats, who shall have them, who is tried."""

    name: str
    places: tuple[Place, ...]
    running: Pick | None
    """What the seats have outside a trial; None: the factory's."""
    wanted: ModelState = field(default_factory=ModelState)
    trial: Trial | None = None
    """The trial that was taken up, until the record moves on."""
    attempt: Attempt | None = None
    told: bool = False
    """Whether the updater has been sent the verdict on it."""
    loading_s: float | None = None
    """When the load under way began; None: there is none."""
    rehearsed: dict[str, Any] = field(default_factory=dict)
    """What the device's recent inputs said of the candidate."""
    failed: tuple[Pick | None, tuple[int, ...]] | None = None
    """What could not be loaded, and the state of its files: it is tried again when they change."""


class Succession:
    """Keeps the seats at what the record says. `turn` belongs to the main thread."""

    def __init__(
        self, config: UpdatesConfig, stock: Stock, shelf: Shelf, places: Iterable[Place], teller: Teller,
        start: Callable[[Lane], None], mono_s: Callable[[], float], token: int | None, agent_digest: str = "",
        recent: Recent = lambda _: (), replace_thread: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """`start` runs a lane; `token`: generation whose tries were burnt before this start, see `Stock`;
        `replace_thread` starts another thread for the lane of the pipeline that it names."""
        self._config, self._stock, self._shelf, self._teller = config, stock, shelf, teller
        self._start, self._mono_s, self._token, self._digest = start, mono_s, token, agent_digest
        self._recent, self._replace = recent, replace_thread
        self._stamp: tuple[int, ...] | None = None
        self._damaged = ""
        self._lines = [self._line(name, mine) for name, mine in _by_model(places, shelf).items()]

    def turn(self) -> None:
        """Look at the record, and at every candidate."""
        self._shelf.sweep()
        self._teller.turn()
        stamp = self._stock.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            self._read()
        for line in self._lines:
            self._judge(line)
            self._reconcile(line)

    # --- what should run -----------------------------------------------------------------------------------------

    def _line(self, name: str, places: list[Place]) -> _Line:
        line = _Line(name, tuple(places), self._shelf.taken.get(name))
        if (trouble := self._shelf.troubles.get(name)) is not None:
            line.failed = (trouble.pick, self._files(name, trouble.pick))
            self._teller.broken(name, trouble.pick, trouble.text)
        return line

    def _read(self) -> None:
        state = self._stock.state()
        if state.alarm != self._damaged:
            self._damaged = state.alarm
            self._teller.damaged(state.alarm)
        known = {line.name for line in self._lines}
        unused = [name for name, _ in state.trials if name not in known and name != AGENT]
        self._lines += [_Line(name, (), state.model(name).active) for name in unused]
        for line in self._lines:
            line.wanted = state.model(line.name)
            trial = line.wanted.trial
            if trial is not None and self._usable(trial) is None:
                why = "no try of it was burnt before this start: see limpet-try.service, then restart the agent"
                log.warning("model=%s candidate=%s waits: %s", line.name, trial.pick, why)

    def _reconcile(self, line: _Line) -> None:
        if line.loading_s is not None:
            return
        trial = self._usable(line.wanted.trial)
        if line.trial is not None and not _same(line.trial, trial):
            self._leave_trial(line, line.trial)
        active = line.wanted.active
        if active != line.running and line.failed != (active, self._files(line.name, active)):
            self._load(line, partial(self._succeed, line, active))
        elif trial is not None and line.trial is None:
            line.trial, line.attempt, line.told = trial, None, False
            self._load(line, partial(self._try, line, trial))

    def _usable(self, trial: Trial | None) -> Trial | None:
        """The trial, if its try is burnt. `ModelState.chosen` says the same of a live one."""
        burnt = trial is not None and self._token is not None and self._token <= trial.burnt
        return trial if burnt else None

    def _leave_trial(self, line: _Line, trial: Trial) -> None:
        """The record has moved on: committed, rolled back, promoted, or taken away by somebody."""
        if line.attempt is not None:
            line.attempt.end(refused("it was withdrawn"))
            verdict = line.attempt.verdict
            if verdict is not None and verdict.decision == "commit":
                line.running = trial.pick
        line.trial = line.attempt = None

    def _files(self, name: str, pick: Pick | None) -> tuple[int, ...]:
        return self._stock.folder_stamp(name, pick) if pick is not None else ()

    # --- loading, in a lane of its own ---------------------------------------------------------------------------

    def _load(self, line: _Line, work: Callable[[], None]) -> None:
        line.loading_s = self._mono_s()

        def run(_stop: Event, beat: Callable[[], None]) -> None:
            beat()
            work()
            line.loading_s = None

        self._start(Lane(f"load:{line.name}", run, LANE_DEADLINE_S))

    def _succeed(self, line: _Line, pick: Pick | None) -> None:
        """Bring what is active into the seats, without a trial: it was proved before, or an admin wants it so."""
        try:
            made = self._make(line, pick)
        except LimpetError as exc:
            line.failed = (pick, self._files(line.name, pick))
            self._teller.broken(line.name, pick, str(exc))
            return
        for place, pipeline in made:
            place.seat.offer(Change(pipeline))
        line.running, line.failed = pick, None
        self._teller.mended(line.name)

    def _try(self, line: _Line, trial: Trial) -> None:
        try:
            made = self._make(line, trial.pick)
        except FAULTS as exc:
            line.attempt = Attempt.over(refused(f"it cannot be loaded: {in_words(exc)}"))
            return
        attempt = self._attempt(line, trial, made)
        if attempt.verdict is not None or line.attempt is not None:  # the second: it took too long, that is decided
            self._drop(made)
        else:
            for place, pipeline in made:
                place.seat.offer(Change(pipeline, attempt, beside=trial.mode == "shadow"))
        line.attempt = line.attempt or attempt

    def _attempt(self, line: _Line, trial: Trial, made: list[tuple[Place, Pipeline]]) -> Attempt:
        if not made:
            return Attempt.over(Verdict("commit", "no pipeline uses this version: only its golden inputs speak for it"))
        shadow = trial.mode == "shadow"
        before_ms = max(max(pace_ms(place.seat.pipeline), place.seat.pace_ms) for place, _ in made)
        measure = limits(self._config, made[0][1], before_ms, shadow=shadow)
        log.info("model=%s candidate=%s mode=%s limit_ms=%.3g", line.name, trial.pick, trial.mode, measure.limit_ms)
        if shadow and (verdict := self._rehearse(line, made, Shadow(measure, self._mono_s()))) is not None:
            return Attempt.over(verdict)
        judge = Shadow(measure, self._mono_s()) if shadow else Probation(measure, self._mono_s())
        return Attempt(judge, self._mono_s)

    def _make(self, line: _Line, pick: Pick | None) -> list[tuple[Place, Pipeline]]:
        """A warm pipeline per seat that takes `pick`. Raises LimpetError when one cannot be made: then none is."""
        made: list[tuple[Place, Pipeline]] = []
        try:
            for place in line.places:
                if _takes(place, pick):
                    made.append((place, make_with(place.file, self._shelf, pick, self._digest)))
                    pace_ms(made[-1][1])
        except FAULTS:
            self._drop(made)
            raise
        return made

    def _drop(self, made: Iterable[tuple[Place, Pipeline]]) -> None:
        for _, pipeline in made:
            if pipeline.inference is not None:
                self._shelf.give_back(pipeline.inference)

    def _rehearse(self, line: _Line, made: list[tuple[Place, Pipeline]], shadow: Shadow) -> Verdict | None:
        """Let both models look at the device's recent inputs; a verdict only when that speaks against the candidate."""
        seen = 0
        for place, pipeline in made:
            now = place.seat.pipeline.another()
            seen += replay(self._recent(place.file.config.source), now, pipeline, shadow)
        verdict = shadow.verdict(self._mono_s(), over=True) if seen else None
        line.rehearsed = {"recent": {"inputs": seen, "text": shadow.sentence()}} if seen else {}
        return verdict if verdict is not None and verdict.decision == "roll_back" else None

    # --- verdicts ------------------------------------------------------------------------------------------------

    def _judge(self, line: _Line) -> None:
        trial = line.trial
        if trial is None or line.told:
            return
        if line.attempt is None and line.loading_s is not None:
            if self._mono_s() - line.loading_s < LOAD_DEADLINE_S:
                return
            line.attempt = Attempt.over(refused(f"it was not loaded within {LOAD_DEADLINE_S:g} s"))
        for place in line.places:
            if place.seat.hangs_s > HANG_S:
                self._leave_behind(line, place)
        verdict = line.attempt.look() if line.attempt is not None else None
        if verdict is not None:
            line.told = True
            self._teller.verdict(line.name, trial, replace(verdict, detail={**line.rehearsed, **verdict.detail}))

    def _leave_behind(self, line: _Line, place: Place) -> None:
        if line.attempt is not None:
            line.attempt.end(refused(f"it has been looking at one view for more than {HANG_S:g} s"))
        place.seat.leave_behind()
        self._replace(place.file.config.name)


def _by_model(places: Iterable[Place], shelf: Shelf) -> dict[str, list[Place]]:
    """The places whose model the depot may give, by its name."""
    found: dict[str, list[Place]] = {}
    for place in places:
        use = place.file.config.model
        if use is not None and shelf.from_depot(use, place.file.path.parent):
            found.setdefault(use.name, []).append(place)
    return found


def _takes(place: Place, pick: Pick | None) -> bool:
    """Whether the pipeline's file lets it have `pick`: [model] version holds it fast."""
    use = place.file.config.model
    return use is not None and (use.version is None or (pick is not None and use.version == pick.version))


def _same(one: Trial, other: Trial | None) -> bool:
    """Whether it is still the same trial; its tries may have been burnt since."""
    return other is not None and (one.sha256, one.mode, one.job) == (other.sha256, other.mode, other.job)
