"""Tells what became of a candidate: the updater by a job, readers by an event and an alarm, the operator in the log.

Owns the words and the order: the job first, because only the updater can write the verdict down. A job that cannot be
left (no spool yet, a full disk) is kept and offered again; the agent runs the right model meanwhile.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.clock import Clock
from agent.depot import Pick, Trial
from agent.errors import StoreError, UpdateError
from agent.records import Draft
from agent.trial.judge import Verdict
from agent.updates.jobs import JOB_LIMIT_BYTES, Job

log = logging.getLogger(__name__)

STREAM: Final = "updates"
"""Stream of the events that tell of verdicts."""
ALARM_S: Final = 3600.0
"""An alarm about a candidate that went back stands so long, unless the next candidate stays, seconds."""
AGAIN_S: Final = 30.0
"""A job that could not be left is offered again after this time, seconds."""
_ROOM_BYTES: Final = JOB_LIMIT_BYTES - 1024


class Tidings:
    """Tells; called by the main thread and by loading lanes."""

    def __init__(
        self, leave: Callable[[Job], None], accept: Callable[[Draft], object],
        alarm: Callable[[str, str | None], None], clock: Clock,
    ) -> None:  # fmt: skip
        """`leave` puts a job into the spool or raises UpdateError; `accept` is the store's door."""
        self._leave, self._accept, self._alarm, self._clock = leave, accept, alarm, clock
        self._waiting: list[Job] = []
        self._again_s = 0.0
        self._clear_s: dict[str, float] = {}

    def turn(self) -> None:
        """Offer what could not be left, clear what stood long enough. Once per turn of the main thread."""
        now_s = self._clock.mono_s()
        if self._waiting and now_s >= self._again_s:
            self._again_s = now_s + AGAIN_S
            waiting, self._waiting = self._waiting, []
            for job in waiting:
                self._send(job)
        for name in [name for name, until_s in self._clear_s.items() if now_s >= until_s]:
            self._clear(name)

    def verdict(self, model: str, trial: Trial, verdict: Verdict) -> None:
        """A candidate was judged."""
        detail = fitting(verdict.detail)
        self._send(Job(
            f"verdict-{secrets.token_hex(8)}", "verdict", model, trial.version, trial.sha256, verdict.decision,
            verdict.reason, verdict.text[:1000], detail,
        ))  # fmt: skip
        what = f"{model} {trial.version}"
        said = {"model": model, "version": trial.version, "sha256": trial.sha256, "mode": trial.mode}
        self._event("verdict", {**said, "verdict": verdict.decision, "text": verdict.text, "detail": detail})
        if verdict.decision == "roll_back":
            log.error("model=%s candidate=%s verdict=roll_back reason=%r", model, trial.pick, verdict.text)
            self._raise(_alarm_of(model), f"{what} went back: {verdict.text}", ALARM_S)
        else:
            log.info("model=%s candidate=%s verdict=%s %s", model, trial.pick, verdict.decision, verdict.text)
            self._clear(_alarm_of(model))

    def broken(self, model: str, pick: Pick | None, text: str) -> None:
        """What should run cannot be loaded, and something older runs: ask for its files again."""
        log.error("model=%s wanted=%s unusable reason=%r", model, pick, text)
        if pick is not None:
            job_id = f"refresh-{secrets.token_hex(8)}"
            self._send(Job(job_id, "refresh", model, pick.version, pick.sha256, text=text[:1000]))
        self._event("unusable", {"model": model, "version": pick.version if pick else "", "text": text})
        self._raise(f"model-{model}", f"{model} {pick or 'of the factory'} cannot be used, another one runs: {text}")

    def mended(self, model: str) -> None:
        """What should run runs."""
        self._clear(f"model-{model}")

    def damaged(self, text: str) -> None:
        """The depot's record is damaged, or with no text whole again."""
        if text:
            self._raise("depot", text)
        else:
            self._clear("depot")

    def _send(self, job: Job) -> None:
        try:
            self._leave(job)
        except UpdateError as exc:
            log.warning("job=%s do=%s not left, offered again in %g s: %s", job.id, job.do, AGAIN_S, exc)
            self._waiting.append(job)
            self._again_s = self._clock.mono_s() + AGAIN_S

    def _event(self, kind: str, body: Mapping[str, Any]) -> None:
        clock = self._clock
        draft = Draft(STREAM, kind, body, clock.wall_s(), clock.mono_s(), clock=clock.state(), decided_by="updates")
        try:
            self._accept(draft)
        except StoreError as exc:
            log.error("stream=%s event not accepted: %s", STREAM, exc)

    def _raise(self, name: str, text: str, for_s: float = float("inf")) -> None:
        self._clear_s[name] = self._clock.mono_s() + for_s
        self._alarm(name, text)

    def _clear(self, name: str) -> None:
        if self._clear_s.pop(name, None) is not None:
            self._alarm(name, None)


def fitting(detail: Mapping[str, Any]) -> dict[str, Any]:
    """`detail` with as much of its evidence as a job has room for; the last differences go first."""
    made = dict(detail)
    evidence = {key: list(value) for key, value in made.get("evidence", {}).items()}
    while evidence and len(Job("x", "verdict", detail={**made, "evidence": evidence}).encode()) > _ROOM_BYTES:
        longest = max(evidence, key=lambda key: len(str(evidence[key])))
        if not evidence[longest]:
            break
        evidence[longest].pop()
    return {**made, "evidence": evidence} if evidence else made


def _alarm_of(model: str) -> str:
    return f"update-{model}"
