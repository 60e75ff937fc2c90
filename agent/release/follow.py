"""Keeps root's links in step with the record: wishes what is due, and takes note of what root refused.

Called by the updater at the end of each of its runs and in the step before every start of the agent. Nothing is
remembered here, so calling it once more than needed does no harm.
"""

from pathlib import Path

from agent.depot import AGENT, State, read_state
from agent.release.place import Place, release_id
from agent.release.wish import ANSWER, WISH, Wish, leave, next_wish, read_answer, refused
from agent.updates.jobs import Book, Job
from agent.updates.verdicts import judge


def follow(
    folder: Path, book: Book, place: Place | None = None, wish: Path = WISH, answer: Path = ANSWER
) -> Wish | None:
    """The wish that was left for root, None when everything is as the record of `folder` says. Raises UpdateError."""
    there = place or Place()
    told = read_answer(answer)
    state = read_state(folder)
    trial = state.agent.trial
    if trial and told and refused(told, _trial_wish(trial.version, trial.sha256)):
        words = f"root refused it: {told.text}"[:2000]
        no = Job(f"refused-{trial.sha256[:12]}", "verdict", AGENT, sha256=trial.sha256, verdict="roll_back",
                 reason=told.reason, text=words)  # fmt: skip
        judge(folder, book, no)
        state = read_state(folder)
    due = next_wish(state.agent, there, told)
    if due is not None:
        leave(due, wish)
    return due


def runs_trial(state: State, place: Place | None = None) -> bool:
    """Whether the release on probation is the one that the next start of the agent runs: only then a try is due."""
    trial = state.agent.trial
    return trial is not None and (place or Place()).current == release_id(trial.version, trial.sha256)


def _trial_wish(version: str, sha256: str) -> Wish:
    return Wish("try", release_id(version, sha256), version, sha256)
