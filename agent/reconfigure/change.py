"""Takes changes of the remote configuration, puts them on trial and judges them: the running agent's side.

The order of every change: the whole that would come of it is validated with the loaders of a start, pipelines put
together and models found; it is written as provisional; the agent starts anew, burns a try and uses it; healthy for
`settle_s` without a break and not worse than before it is committed, else at its deadline it is taken back and the
agent starts anew. `look` belongs to the main thread, the rest may be called from any.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.clock import Clock
from agent.errors import CommandError, ConfigError
from agent.health import Health
from agent.layers.effective import Effective, effective
from agent.layers.record import Baseline, Ended, Origin, Provisional, Record, Remote
from agent.reconfigure.fleet import FleetWatch
from agent.reconfigure.request import changed, parse
from agent.reconfigure.start import Started

log = logging.getLogger(__name__)

RESTARTS: Final = "on trial: the agent restarts with it"


@dataclass(frozen=True, slots=True)
class Now:
    """How the agent is at this moment."""

    health: Health
    running: tuple[str, ...]
    """Names of the pipelines whose lanes run."""
    connected: bool


class Reconfiguration:
    """The remote configuration of one running agent."""

    def __init__(
        self, started: Started, examine: Callable[[Effective], Mapping[str, str]], clock: Clock,
        alarm: Callable[[str, str | None], None], restart: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`examine` puts pipelines together without loading models: name -> why it cannot be made.

        `alarm(name, text or None)`; `restart(why)` makes the agent start anew, and returns at once.
        """
        self._started = started
        self._examine = examine
        self._clock = clock
        self._restart = restart
        self._lock = threading.Lock()
        self._record = started.record
        self._trying = started.trial
        """What this very process runs with on trial; what is proposed meanwhile waits for the next start."""
        self._begin_s = clock.mono_s()
        self._now: Now | None = None
        self._well_since_s: float | None = None
        self._good_kept = False
        self._fleet = FleetWatch(started.effective.config, started.local_digest, alarm)

    # --- changes --------------------------------------------------------------------------------------------------

    def set_config(self, args: Mapping[str, Any], job: str) -> str:
        """Take the set-config request `job`; returns what becomes of it, in words.

        `RESTARTS` when `outcome` will tell later how it ended, else it is done. Raises CommandError.
        """
        asked = parse(args)
        with self._lock:
            remote = Remote(self._record.committed.fleet, changed(self._record.committed.settings, asked))
            if remote == self._record.committed:
                return "nothing to change: all this is so already"
            valid = self._validated(remote)
            if asked.dry_run:
                return "valid; nothing was changed"
            self._propose(remote, valid, "set-config", job, asked.deadline_s)
        return RESTARTS

    def revert(self, *, everything: bool = False, job: str = "") -> str:
        """Take the last set-config back, or all of them; a change on trial is given up at once. Raises CommandError."""
        with self._lock:
            if self._record.provisional is not None:
                self._take_back("CANCELED", "it was reverted by hand")
                return "the change on trial is taken back; the agent starts anew"
            settings = {} if everything else self._record.before
            if settings is None or settings == self._record.committed.settings:
                raise CommandError("there is nothing to revert", "REJECTED_UNSUPPORTED")
            remote = Remote(self._record.committed.fleet, settings)
            self._propose(remote, self._validated(remote), "revert", job, None)
        return RESTARTS

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        """What the control socket offers of it: config-revert, with `everything` as an argument."""
        return {"config-revert": lambda asked: {"said": self.revert(everything=asked.get("everything") is True)}}

    def outcome(self, job: str) -> Ended | None:
        """How the change that `job` asked for ended; None while it is on trial or when it is not known."""
        return self._record.outcome(job)

    def on_trial(self, job: str) -> bool:
        """Whether the change that `job` asked for waits for its judgement."""
        change = self._record.provisional
        return change is not None and change.job == job

    def status(self) -> dict[str, Any]:
        """For `limpet status` and the twin, JSON values."""
        trial = self._trying
        left_s = max(0.0, trial.deadline_s - (self._clock.mono_s() - self._begin_s)) if trial else 0.0
        return {
            "mode": "safe" if self._started.safe else "provisional" if trial else "normal",
            "layers": [layer.name for layer in self._started.layers],
            "left_s": round(left_s, 1),
            "remote": self._record.committed.digest,
        }

    # --- judging --------------------------------------------------------------------------------------------------

    def look(self, now: Now) -> None:
        """Once per turn of the main thread: judge the change on trial, keep the good copy, notice fleet layers."""
        now_s = self._clock.mono_s()
        with self._lock:
            self._now = now
            if self._trying is not None:
                self._judge(self._trying, now, now_s)
            else:
                self._keep_good(now, now_s)
                enabled = self._started.effective.config.remote.enabled and self._record.provisional is None
                if enabled and (remote := self._fleet.due(self._record, now_s)):
                    self._try_fleet(remote, now_s)

    def cannot_start(self, why: str) -> bool:
        """The start failed: whether that was a change on trial, which is then taken back; the agent starts anew."""
        with self._lock:
            if self._trying is None:
                return False
            self._take_back("ROLLED_BACK", f"the agent does not start with it: {why}")
        return True

    def _judge(self, change: Provisional, now: Now, now_s: float) -> None:
        lack = change.baseline.lacks(now.health, now.running, connected=now.connected)
        self._well_since_s = None if lack else self._well_since_s or now_s
        settings = self._started.effective.config.remote
        settle_s = min(settings.settle_s, change.deadline_s / 2)
        if self._well_since_s is not None and now_s - self._well_since_s >= settle_s:
            self._commit()
        elif now_s - self._begin_s >= change.deadline_s:
            self._take_back("PROBATION_FAILED", lack or f"it was not healthy for {settle_s:g} s without a break")

    def _commit(self) -> None:
        if self._write(self._record.commit(self._clock.wall_s())):
            self._trying = None
            log.info("remote-configuration=committed digest=%s", self._record.committed.digest)

    def _take_back(self, reason: Any, why: str) -> None:
        """Whether or not the disk takes the news: without it the next start burns no further try than there are."""
        log.error("remote-configuration=taken-back reason=%s why=%r", reason, why)
        self._trying = None
        self._write(self._record.give_up(reason, why, self._started.local_digest, self._clock.wall_s()))
        self._restart(f"the configuration is taken back: {why}")

    def _keep_good(self, now: Now, now_s: float) -> None:
        """Once per start, when the agent has been well for a while with limpet.toml as it stands."""
        well = now.health.status != "unhealthy"
        self._well_since_s = (self._well_since_s or now_s) if well else None
        settle_s = self._started.effective.config.remote.settle_s
        if self._good_kept or self._started.safe or self._well_since_s is None or now_s - self._well_since_s < settle_s:
            return
        self._good_kept = True
        try:
            self._started.files.keep_good(self._started.path, self._started.local, self._record.committed)
        except ConfigError as exc:
            log.warning("good-copy=not-kept reason=%r", str(exc))

    # --- proposing ------------------------------------------------------------------------------------------------

    def _try_fleet(self, remote: Remote, now_s: float) -> None:
        try:
            self._propose(remote, self._validated(remote), "fleet", "", None)
        except CommandError as exc:
            self._fleet.invalid(remote, str(exc), now_s)

    def _validated(self, remote: Remote) -> Effective:
        """The whole that would come of `remote`. Raises CommandError when it may not be, or breaks more than now."""
        started = self._started
        if not started.effective.config.remote.enabled:
            raise CommandError("[remote] enabled = false in limpet.toml of this device", "REJECTED_UNAUTHORIZED")
        try:
            made = effective(started.path, started.local, remote.layers)
        except ConfigError as exc:
            raise CommandError(str(exc), "VERIFY_FAILED") from exc
        before, after = self._broken(started.effective), self._broken(made)
        if worse := [f"{part}: {why}" for part, why in after.items() if part not in before]:
            raise CommandError("\n".join(worse), "VERIFY_FAILED")
        return made

    def _broken(self, made: Effective) -> dict[str, str]:
        return made.broken | {f"pipeline {name}": why for name, why in self._examine(made).items()}

    def _propose(self, remote: Remote, made: Effective, origin: Origin, job: str, deadline_s: float | None) -> None:
        """Write the change as provisional and start anew. Raises CommandError."""
        now, settings = self._now, self._started.effective.config.remote
        if now is None or self._record.provisional is not None:
            raise CommandError("the agent has only just started, or tries a change: ask later", "REJECTED_BUSY")
        kept = {file.config.name for file in made.pipelines}
        baseline = Baseline(now.health.status, tuple(n for n in now.running if n in kept), now.connected)
        change = Provisional(
            remote, origin, job, settings.tries, deadline_s or settings.deadline_s, baseline, self._clock.wall_s()
        )
        if not self._write(self._record.propose(change)):
            raise CommandError("the change cannot be written: see to the device's disk", "NO_SPACE")
        log.info("remote-configuration=on-trial origin=%s digest=%s job=%s", origin, remote.digest, job)
        self._restart(f"a changed configuration is tried ({origin})")

    def _write(self, record: Record) -> bool:
        try:
            self._started.files.write(record, self._record)
        except ConfigError as exc:
            log.error("remote-configuration=not-written reason=%r", str(exc))
            return False
        self._record = record
        return True
