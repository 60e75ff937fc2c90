"""What needs no network: verdicts on candidates, going back, pinning, and the end of jobs that were cut off.

The record decides, the book follows: a transition is durable in the record before its job ends, and a job whose end was
lost in a power cut is ended from what the record says (`settle`). Everything here may run twice.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.depot import AGENT, Pick, State, Trial, Writer, burn_all, folder_of, present, read_state
from agent.depot.record import ordered, refuse_trial
from agent.errors import UpdateError
from agent.progress import Progress
from agent.updates.jobs import Book, Job, Track

LOCAL: Final = frozenset({"verdict", "rollback", "pin", "unpin", "activate"})
"""Jobs that are done in a moment and beside a download."""
MOMENT_S: Final = 60.0
"""After so long a job of `LOCAL` that has not ended was broken off, seconds by the wall clock."""
_JUDGED: Final = frozenset({"activate", "probation", "commit", "rollback"})


def burn(folder: Path, book: Book, *, agent: bool = False) -> State:
    """Before a start of the agent: take the tries off, and end the jobs of what had none left.

    `agent`: that start runs a release on probation. Raises UpdateError.
    """
    before = dict(read_state(folder).trials)
    state = burn_all(folder, agent=agent)
    settle(state, book, (trial.job for name, trial in before.items() if state.model(name).trial is None))
    return state


def work(folder: Path, book: Book, job: Job) -> Track | None:
    """Do a job of `LOCAL`; how it ended, or None when another job's progress tells. Raises UpdateError on the disk's
    account only: what is wrong with the job itself is its end."""
    if job.do == "verdict":
        judge(folder, book, job)
        return None
    track = book.open(job)
    track.move("executing")
    try:
        with Writer(folder) as writer:
            before = writer.state
            saved = writer.save(_changed(folder, before, job))
        settle(saved, book, (trial.job for name, trial in before.trials if saved.model(name).trial is None))
        track.move("successful", _now(job.model, saved), generation=saved.generation)
    except UpdateError as exc:
        track.fail(exc)
    return track


def judge(folder: Path, book: Book, job: Job) -> None:
    """Carry out what the agent found out about a candidate. One that comes twice or too late changes nothing."""
    with Writer(folder) as writer:
        trial = writer.state.model(job.model).trial
        if trial is None or trial.sha256 != job.sha256:
            return
        track = _track(book, trial, job)
        if track and not track.progress.terminal and job.verdict != "promote":
            track.move("commit" if job.verdict == "commit" else "rollback", job.text, **job.detail)
        state = writer.save(_judged(writer.state, job, trial))
    if track and job.verdict == "promote":
        track.move("probation", job.text or "it was good in the shadow and is live now", mode="live", **job.detail)
    settle(state, book, (trial.job,))


def settle(state: State, book: Book, jobs: Iterable[str]) -> None:
    """End jobs whose candidate is no longer on probation, as the record says it went. Raises UpdateError."""
    for job_id in jobs:
        progress = book.get(job_id)
        if progress and not progress.terminal:
            _end(Track(book, progress), state)


def cut_off(state: State, book: Book) -> list[Progress]:
    """Jobs that a kill or a power cut broke off before their candidate was on probation. Others are put right here."""
    trials = {trial.job: trial for _, trial in state.trials}
    settle(state, book, [p.id for p in book.every() if p.id not in trials and p.status in _JUDGED])
    for progress in book.every():
        if progress.status == "activate" and progress.id in trials:
            mode = trials[progress.id].mode
            Track(book, progress).move("probation", "", mode=mode, generation=state.generation)
    left = [progress for progress in book.every() if not progress.terminal and progress.id not in trials]
    for progress in left:
        if progress.operation in LOCAL and abs(book.now_s() - progress.t_wall_s) > MOMENT_S:
            words = f"it was broken off; now {_now(str(progress.detail.get('model', '')), state)}"
            Track(book, progress).fail(UpdateError(words, "INTERRUPTED"))
    return [progress for progress in left if progress.operation not in LOCAL]


def _end(track: Track, state: State) -> None:
    told = track.progress.detail
    name, sha256 = str(told.get("model", "")), str(told.get("sha256", ""))
    model = state.model(name)
    if model.trial and model.trial.sha256 == sha256:
        return
    seen = {"generation": state.generation}
    if sha256 and (reason := model.is_bad(Pick(str(told.get("version", "")), sha256))):
        kept = model.active or "the factory's model"
        track.fail(UpdateError(f"rolled back to {kept}: {reason}", "ROLLED_BACK"), **seen)
    elif sha256 and model.active and model.active.sha256 == sha256:
        track.move("successful", track.progress.text, **seen)
    elif track.progress.status != "activate":  # that one was cut off before it was on probation
        track.fail(UpdateError("another update or a rollback took its place", "SUPERSEDED"), **seen)


def _judged(state: State, job: Job, trial: Trial) -> State:
    match job.verdict:
        case "commit":
            return state.commit(job.model, trial.sha256)
        case "promote":
            return state.promote(job.model, trial.sha256, trial.tries_left + 1)
    return state.roll_back(job.model, trial.sha256, job.text or job.reason or "it went wrong on probation")


def _changed(folder: Path, state: State, job: Job) -> State:
    match job.do:
        case "rollback":
            return _back(folder, state, job)
        case "pin":
            return _pinned(folder, state, job)
        case "unpin":
            return state.unpin(job.model)
    return _activated(folder, state, job)


def _back(folder: Path, state: State, job: Job) -> State:
    """A trial goes first; without one the active version does. What was asked by name must be what is left."""
    reason = job.text or "rolled back on request"
    trial = state.model(job.model).trial
    after = state.roll_back(job.model, trial.sha256, reason) if trial else state.go_back(job.model, reason)
    left = after.model(job.model).active
    if job.version and job.version != (left.version if left else "factory"):
        words = f"{job.model} would go back to {left or 'the factory model'}, not to {job.version}"
        raise UpdateError(f"{words}: activate that version instead", "ROLLBACK_FAILED")
    if left and not folder_of(folder, job.model, left).is_dir():
        words = f"{job.model} {left} is no longer in the depot"
        raise UpdateError(f"{words}: activate another version, or 'factory'", "ROLLBACK_FAILED")
    return after


def _pinned(folder: Path, state: State, job: Job) -> State:
    """What runs stays, or another version that may run. Unlike `activate` it takes back nothing that was learnt here:
    no floor falls and no version that went wrong is tried again, because a technician may ask for it."""
    if not job.version:
        return state.pin(job.model)
    model, after = state.model(job.model), _activated(folder, state, job)
    chosen = after.model(job.model)
    if chosen.active and chosen.active != model.active:
        refuse_trial(job.model, model, chosen.active, older=chosen.active == model.good)
    floor = max(model.floor, chosen.floor, key=ordered)
    return after.changed(job.model, replace(chosen, floor=floor, bad=model.bad)).pin(job.model)


def _activated(folder: Path, state: State, job: Job) -> State:
    if job.version == "factory" and job.model != AGENT:
        return state.activate(job.model, None)
    there = [(path, version) for path, version, short in present(folder, job.model) if job.sha256.startswith(short)
             or (version == job.version and not job.sha256)]  # fmt: skip
    if not there:
        known = ", ".join(version for _, version, _ in present(folder, job.model)) or "nothing"
        words = f"{job.model} {job.version} is not in the depot, which holds {known}"
        raise UpdateError(f"{words}: fetch it first: limpet update {job.model} --version {job.version}", "FAILED")
    return state.activate(job.model, _pick(there[-1][0], there[-1][1]))


def _pick(folder: Path, version: str) -> Pick:
    try:
        return Pick(version, hashlib.sha256((folder / "package.json").read_bytes()).hexdigest())
    except OSError as exc:
        raise UpdateError(f"{folder}: its package cannot be read: {exc.strerror}: fetch it again") from exc


def _track(book: Book, trial: Trial, job: Job) -> Track | None:
    progress = book.get(trial.job)
    return Track(book, progress) if progress and not progress.terminal else None


def _now(name: str, state: State) -> str:
    model = state.model(name)
    pinned = ", pinned" if model.pinned else ""
    return f"{name} runs {model.active or 'the factory model'}{pinned}"
