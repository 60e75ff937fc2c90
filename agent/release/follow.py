"""Keeps root's links in step with the record: wishes what is due, and takes note of what root refused.

Called by the updater at the end of each of its runs and in the step before every start of the agent. Nothing is
remembered here, so calling it once more than needed does no harm.
"""

from pathlib import Path

from agent.depot import AGENT, State, Trial, Writer, read_state
from agent.errors import UpdateError
from agent.release.place import Place, release_id
from agent.release.wish import ANSWER, WISH, Answer, Wish, leave, next_wish, read_answer, refused, trial_wish
from agent.updates.jobs import Book, Job, Track
from agent.updates.verdicts import judge


def follow(
    folder: Path, book: Book, place: Place | None = None, wish: Path = WISH, answer: Path = ANSWER
) -> Wish | None:
    """The wish that was left for root, None when everything is as the record of `folder` says. Raises UpdateError."""
    there = place or Place()
    told = read_answer(answer)
    state = read_state(folder)
    trial = state.agent.trial
    if trial and told and refused(told, trial_wish(trial)):
        _fold(folder, book, trial, told)
        state = read_state(folder)
    due = next_wish(state.agent, there, told)
    if due is not None:
        leave(due, wish)
    return due


def runs_trial(state: State, place: Place | None = None) -> bool:
    """Whether the release on probation is the one that the next start of the agent runs: only then a try is due."""
    trial = state.agent.trial
    return trial is not None and (place or Place()).current == release_id(trial.version, trial.sha256)


def _fold(folder: Path, book: Book, trial: Trial, told: Answer) -> None:
    """Root's no ends the trial. Only what failed by itself counts as bad: a full disk says nothing about a release."""
    words = f"root refused it: {told.text}"[:2000]
    if told.reason == "PROBATION_FAILED":
        no = Job(f"refused-{trial.sha256[:12]}", "verdict", AGENT, sha256=trial.sha256, verdict="roll_back",
                 reason=told.reason, text=words)  # fmt: skip
        judge(folder, book, no)
        return
    progress = book.get(trial.job)
    if progress and not progress.terminal:
        Track(book, progress).fail(UpdateError(words, told.reason))
    with Writer(folder) as writer:
        if writer.state.agent.trial == trial:
            writer.save(writer.state.withdraw(AGENT))
