"""What the record says, and every way in which it may change: pure functions, no file is touched here.

`State` is the record; each transition returns a new one. For the agent's own releases the same shape and the same rules
hold under the name `AGENT`. Words: `active` runs, and was committed; `good` is what was committed before it, the way
back; `trial` is on probation beside them. None stands for the factory's model, which lies read-only in the package.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, Self

from agent.depot.places import AGENT
from agent.errors import UpdateError
from agent.strict import Match, Range

Mode = Literal["live", "shadow"]
BAD_LIMIT: Final = 16
"""Versions that are remembered as bad, per model; the oldest is forgotten first."""
MODELS_LIMIT: Final = 256
"""Models that the record may know before a pin of yet another name is refused: names cost nothing to invent."""
_VERSION = r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]{1,32})?"


@dataclass(frozen=True, slots=True)
class Pick:
    """One signed version: `sha256` is that of the package manifest's bytes, hex."""

    version: Annotated[str, Match(f"|{_VERSION}", "a version like 1.0.0, or nothing for the factory's model")]
    sha256: Annotated[str, Match("|[0-9a-f]{64}", "64 hex digits, or nothing for the factory's model")]

    def __str__(self) -> str:
        return f"{self.version} ({self.sha256[:12]})" if self.sha256 else "the factory's model"


FACTORY: Final = Pick("", "")
"""Stands for the factory's model where None means something else."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate on probation. The try that runs now is already taken off `tries_left`."""

    version: Annotated[str, Match(_VERSION, "a version like 1.0.0")]
    sha256: Annotated[str, Match("[0-9a-f]{64}", "64 hex digits")]
    tries_left: Annotated[int, Range(0, 100)]
    mode: Mode
    """shadow: it runs beside the active model and tells nobody; live: it takes its place."""
    job: Annotated[str, Range(0, 64)]
    """The job that began it, and that the verdict ends."""
    since_wall_s: float
    burnt: Annotated[int, Range(0, 2**53)] = 0
    """Generation of the record that took the last try off."""

    @property
    def pick(self) -> Pick:
        return Pick(self.version, self.sha256)


@dataclass(frozen=True, slots=True)
class Bad:
    """A version that went wrong here and is not tried again."""

    version: str
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the record says of one model, or of the agent."""

    active: Pick | None = None
    good: Pick | None = None
    trial: Trial | None = None
    bad: Annotated[tuple[Bad, ...], Range(0, BAD_LIMIT)] = ()
    floor: Annotated[str, Match(f"|{_VERSION}", "a version like 1.0.0, or nothing")] = ""
    """No signed package older than this is taken; empty: any."""
    pinned: Pick | None = None
    """The one that stays until it is unpinned; None: not pinned, `FACTORY`: pinned to the factory's model."""

    def chosen(self, token: int | None) -> Pick | None:
        """What shall run after a start: the live trial if `token` proves that its try is burnt, else the active one.

        `token`: generation of the record that the step before this start wrote (`read_token`); None: it did not.
        """
        trial = self.trial
        may_try = trial is not None and trial.mode == "live" and token is not None and token <= trial.burnt
        return trial.pick if trial and may_try else self.active

    @property
    def ways_back(self) -> tuple[Pick | None, ...]:
        """What to take when a model cannot be loaded, best first; None is the factory's, which is always there."""
        return tuple(dict.fromkeys((self.active, self.good, None)))

    @property
    def kept(self) -> frozenset[Pick]:
        """What must stay on the disk."""
        trial = self.trial.pick if self.trial else None
        return frozenset(p for p in (self.active, self.good, trial, self.pinned) if p is not None and p != FACTORY)

    def is_bad(self, pick: Pick) -> str:
        """Why `pick` is not tried again; empty when it may be."""
        return next((bad.reason for bad in self.bad if bad.sha256 == pick.sha256), "")


@dataclass(frozen=True, slots=True)
class State:
    """The whole record."""

    generation: Annotated[int, Range(0, 2**53)] = 0
    models: Mapping[str, ModelState] = field(default_factory=dict)
    agent: ModelState = field(default_factory=ModelState)
    damaged: str = ""
    """What is wrong with the files it was read from, in words; empty when nothing is. An alarm, never written."""
    repaired: str = ""
    """What was wrong before this generation was written over it; gone with the next change."""

    @property
    def alarm(self) -> str:
        """What people should hear about: damage that is there, or was there until the last change. Empty: nothing."""
        return self.damaged or self.repaired

    def model(self, name: str) -> ModelState:
        """Of the model `name`, or of the agent for `AGENT`; a name that the record does not know is the factory's."""
        return self.agent if name == AGENT else self.models.get(name, ModelState())

    def changed(self, name: str, model: ModelState) -> Self:
        """The record with another entry for `name`; one that says nothing is left out."""
        if name == AGENT:
            return replace(self, agent=model)
        others = {other: known for other, known in self.models.items() if other != name}
        return replace(self, models=others if model == ModelState() else {**others, name: model})

    @property
    def trials(self) -> tuple[tuple[str, Trial], ...]:
        """Everything on probation, by name."""
        every = [*self.models.items(), (AGENT, self.agent)]
        return tuple((name, model.trial) for name, model in every if model.trial)

    def begin_trial(
        self, name: str, pick: Pick, *, tries: int, mode: Mode, job: str, now_s: float, older: bool = False
    ) -> Self:
        """Put `pick` on probation with its first try burnt. `older`: an admin allows a version below the floor.

        Raises UpdateError for what is bad, pinned otherwise, or older than the floor.
        """
        model = self.model(name)
        refuse_trial(name, model, pick, older=older)
        trial = Trial(pick.version, pick.sha256, tries - 1, mode, job, now_s, self.generation + 1)
        return self.changed(name, replace(model, trial=trial))

    def promote(self, name: str, sha256: str, tries: int) -> Self:
        """A candidate that was good in the shadow goes live, again with a first try burnt. Raises UpdateError."""
        model, trial = self._on_trial(name, sha256)
        live = replace(trial, mode="live", tries_left=tries - 1, burnt=self.generation + 1)
        return self.changed(name, replace(model, trial=live))

    def counted_from(self, name: str, sha256: str, now_s: float) -> Self:
        """A candidate whose probation began under a wrong clock. Raises UpdateError when it is not on probation."""
        model, trial = self._on_trial(name, sha256)
        return self.changed(name, replace(model, trial=replace(trial, since_wall_s=now_s)))

    def burn(self, *, agent: bool = False, reason: str = "it did not stay up long enough to be judged") -> Self:
        """Take one try off every model on probation; what has none left goes back and counts as bad.

        `agent`: the start to come runs the agent's own release on probation, so one is taken off that too.
        """
        state = self
        for name, trial in self.trials:
            if name == AGENT and not agent:
                continue
            if trial.tries_left <= 0:
                state = state.roll_back(name, trial.sha256, reason)
                continue
            fewer = replace(trial, tries_left=trial.tries_left - 1, burnt=self.generation + 1)
            state = state.changed(name, replace(state.model(name), trial=fewer))
        return state

    def commit(self, name: str, sha256: str) -> Self:
        """The candidate stays: what ran before is the way back, and the floor rises. Raises UpdateError."""
        model, trial = self._on_trial(name, sha256)
        way_back = model.good if model.active == trial.pick else model.active
        floor = max(model.floor, trial.version, key=ordered)
        return self.changed(name, replace(model, active=trial.pick, good=way_back, trial=None, floor=floor))

    def roll_back(self, name: str, sha256: str, reason: str) -> Self:
        """The candidate goes and counts as bad. Raises UpdateError when it is not on probation."""
        model, trial = self._on_trial(name, sha256)
        return self.changed(name, replace(_with_bad(model, trial.pick, reason), trial=None))

    def refuse(self, name: str, pick: Pick, reason: str) -> Self:
        """Remember a version as bad that never came as far as a trial."""
        return self.changed(name, _with_bad(self.model(name), pick, reason))

    def withdraw(self, name: str) -> Self:
        """The candidate goes without a word against it: another one takes its place, or somebody wants it so."""
        return self.changed(name, replace(self.model(name), trial=None))

    def go_back(self, name: str, reason: str) -> Self:
        """The active version goes and counts as bad; the one before it runs, then the factory's. Raises UpdateError."""
        model = self.model(name)
        if model.active is None:
            text = f"{name} runs the factory's model, and there is nothing before it"
            raise UpdateError(f"{text}: ask for a version instead", "ROLLBACK_FAILED")
        _refuse_pinned(name, model, model.good)
        marked = _with_bad(model, model.active, reason)
        return self.changed(name, replace(marked, active=model.good, good=None, trial=None))

    def activate(self, name: str, pick: Pick | None) -> Self:
        """Run `pick` at once, as the admin of this device decides: older ones lower the floor. Raises UpdateError."""
        model = self.model(name)
        _refuse_pinned(name, model, pick)
        bad = tuple(bad for bad in model.bad if pick is None or bad.sha256 != pick.sha256)
        good = model.good if model.active == pick else model.active
        floor = pick.version if pick else ""
        return self.changed(name, replace(model, active=pick, good=good, trial=None, bad=bad, floor=floor))

    def pin(self, name: str) -> Self:
        """What is active stays; a trial ends without a word against it. Raises UpdateError: too many names."""
        model = self.model(name)
        if model == ModelState() and len(self.models) >= MODELS_LIMIT:
            raise UpdateError(f"{name}: {MODELS_LIMIT} models are in the record already: unpin those that are not used")
        return self.changed(name, replace(model, pinned=model.active or FACTORY, trial=None))

    def unpin(self, name: str) -> Self:
        """Updates are taken again."""
        return self.changed(name, replace(self.model(name), pinned=None))

    def _on_trial(self, name: str, sha256: str) -> tuple[ModelState, Trial]:
        model = self.model(name)
        if model.trial is None or model.trial.sha256 != sha256:
            there = f"{model.trial.pick} is" if model.trial else "nothing is"
            raise UpdateError(f"{name}: {sha256[:12]} is not on probation, {there}: the verdict comes too late")
        return model, model.trial


def refuse_trial(name: str, model: ModelState, pick: Pick, *, older: bool = False) -> None:
    """Raises UpdateError when `pick` may not be tried here; asked before the first byte is fetched, too."""
    if reason := model.is_bad(pick):
        words = f"{name} {pick.version} went wrong on this device before ({reason})"
        raise UpdateError(f"{words}: publish a new version, or have an admin activate it", "PROBATION_FAILED")
    if model.floor and not older and ordered(pick.version) < ordered(model.floor):
        words = f"{name} {pick.version} is older than {model.floor}, which ran here"
        raise UpdateError(f"{words}: roll back, or have an admin activate it", "REJECTED_ROLLBACK_ATTACK")
    _refuse_pinned(name, model, pick)


def ordered(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """A key that sorts versions as semver 2.0.0, section 11 does; nothing comes before every version."""
    release, _, rest = version.partition("+")[0].partition("-")
    numbers = tuple(int(part) for part in release.split(".")) if release else ()
    parts = re.split(r"\.", rest) if rest else []
    return numbers, not rest, tuple((not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts)


def _refuse_pinned(name: str, model: ModelState, pick: Pick | None) -> None:
    if model.pinned is not None and model.pinned != (pick or FACTORY):
        raise UpdateError(f"{name} is pinned to {model.pinned}: unpin it first", "REJECTED_UNSUPPORTED")


def _with_bad(model: ModelState, pick: Pick, reason: str) -> ModelState:
    others = tuple(bad for bad in model.bad if bad.sha256 != pick.sha256)
    bad = (*others, Bad(pick.version, pick.sha256, reason[:200]))[-BAD_LIMIT:]
    return replace(model, bad=bad)
