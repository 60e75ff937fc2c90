"""How a release on probation proves itself: by running well for a while, and by reaching the broker if its elders did.

`Standing` judges and knows no clock; `Watcher` feeds it, once per turn of the main thread, and tells the updater. A
release that cannot reach a broker that was reached before would be out of anybody's reach, so it goes back even though
offline is healthy otherwise. One that dies, hangs or never comes here is none of this file's business: the try counter
and systemd see to that.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.depot import AGENT, Trial, read_state
from agent.durable import read_limited, write_durably
from agent.errors import UpdateError
from agent.health import Health
from agent.release.place import own_release, release_id
from agent.settings.updates import UpdatesConfig
from agent.trial.judge import Verdict, refused
from agent.updates.jobs import Job, drop

log = logging.getLogger(__name__)

AGAIN_S: Final = 60.0
"""How long the updater has to act on a verdict before it is told again, and how often the memory may be written."""


@dataclass(slots=True)
class Standing:
    """The judge of the release that runs."""

    probation_s: float
    """It stays after so long without a fault, seconds."""
    deadline_s: float
    """It goes after so long without having stood, seconds since its start."""
    needs_uplink: bool
    """Whether the release before it reached the broker."""
    start_s: float
    _well_since_s: float | None = field(default=None, init=False)
    _fault: str = field(default="", init=False)

    def verdict(self, now_s: float, health: Health, connected: bool) -> Verdict | None:
        """The decision, None while it is too early. `now_s`: monotonic."""
        if health.status == "unhealthy":
            self._fault = "; ".join(health.reasons)
        elif self.needs_uplink and not connected:
            self._fault = "it did not reach the broker, which the release before it did"
        else:
            self._fault = ""
            self._well_since_s = now_s if self._well_since_s is None else self._well_since_s
            if now_s - self._well_since_s >= self.probation_s:
                return Verdict("commit", f"it ran well for {self.probation_s:g} s", "", self._seen(now_s, connected))
            return None
        self._well_since_s = None
        if now_s - self.start_s >= self.deadline_s:
            return refused(f"for {self.deadline_s:g} s: {self._fault}"[:1000], **self._seen(now_s, connected))
        return None

    def _seen(self, now_s: float, connected: bool) -> dict[str, float | bool]:
        return {"time_s": round(now_s - self.start_s, 1), "connected": connected}


class Watcher:
    """Carries the release that this process runs from through its probation, if it is on one."""

    def __init__(
        self, config: UpdatesConfig, memory: Path, mono_s: Callable[[], float], release: str | None = None
    ) -> None:
        """`memory`: a file in which a committed release notes whether it reaches its broker. `release`: own id."""
        self._config, self._memory, self._mono_s = config, memory, mono_s
        self._release = own_release() if release is None else release
        self._trial = self._on_trial()
        self._verdict: Verdict | None = None
        self._due_s = 0.0
        self._standing = Standing(
            config.release_probation_s, config.release_deadline_s, self._remembered() == "yes", mono_s()
        )

    @property
    def trial(self) -> Trial | None:
        """The probation that this release is on."""
        return self._trial

    def turn(self, health: Health, connected: bool) -> None:
        """Once per turn of the main thread; `connected`: the broker is reached."""
        now_s = self._mono_s()
        if self._trial is None:
            self._remember(now_s, connected)
            return
        self._verdict = self._verdict or self._standing.verdict(now_s, health, connected)
        if self._verdict and now_s >= self._due_s:
            self._due_s = now_s + AGAIN_S
            self._tell(self._trial, self._verdict)

    def _tell(self, trial: Trial, verdict: Verdict) -> None:
        """Leave the verdict for the updater, until the record shows that it acted."""
        if self._on_trial() is None:
            log.info("release=%s probation over", self._release)
            self._trial = None
            return
        job = Job(
            f"release-{trial.sha256[:12]}", "verdict", AGENT, trial.version, trial.sha256, verdict.decision,
            verdict.reason, verdict.text, dict(verdict.detail),
        )  # fmt: skip
        try:
            drop(self._config.spool, job)
            log.info("release=%s verdict=%s text=%r", self._release, verdict.decision, verdict.text)
        except UpdateError as exc:
            log.error("release=%s verdict=%s cannot be told: %s", self._release, verdict.decision, exc)

    def _on_trial(self) -> Trial | None:
        """The record's trial, when it is about this very release."""
        if not self._release:
            return None
        trial = read_state(self._config.folder).agent.trial
        return trial if trial and release_id(trial.version, trial.sha256) == self._release else None

    def _remember(self, now_s: float, connected: bool) -> None:
        """Note a change, at most once a minute; only where there are releases to compare."""
        word = "yes" if connected else "no"
        if not self._release or now_s < self._due_s or self._remembered() == word:
            return
        self._due_s = now_s + AGAIN_S
        with contextlib.suppress(OSError):  # no memory, no demand: a full disk must not stop a release that mends it
            write_durably(self._memory, word.encode())

    def _remembered(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return read_limited(self._memory, 16).decode(errors="replace")
        return ""
