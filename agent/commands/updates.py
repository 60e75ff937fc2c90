"""Models and releases: the agent hands the job to the updater and tells how it goes; it installs nothing itself.

The job's file in the spool has the request's id, and the updater never runs an id twice: leaving the same file again
after a power cut does no harm. How far it is stands in `<depot>/jobs/<id>.json`, looked at by its stamp alone. The
roles: what a technician may ask here cannot bring in anything that the repository has not signed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from agent.commands.table import Move, Operation
from agent.durable import read_limited
from agent.errors import CommandError, ConfigError
from agent.journal import Command
from agent.package.names import ModelName, Sha256, Version
from agent.package.trust import Role
from agent.progress import LIMIT_BYTES, Progress
from agent.strict import Match
from agent.updates.jobs import Do, Job, cancel, drop

Doing = Literal["update", "rollback", "pin", "unpin", "activate"]
_Asked = Annotated[str, Match("|[0-9A-Za-z.+-]{1,64}", "a version, or empty")]
AGENT: Final = "@agent"


@dataclass(frozen=True, slots=True)
class UpdateArgs:
    """update: fetch a version, prove it, run it."""

    model: ModelName | Literal["@agent"]
    """Name of a model, or @agent for the agent itself."""
    version: Version | Literal[""] = ""
    """Empty: the newest that this device's channel offers it."""
    sha256: Sha256 | Literal[""] = ""
    """Of the package manifest, when exactly that one is meant."""


@dataclass(frozen=True, slots=True)
class ChangeArgs:
    """rollback, pin, unpin, activate: change which of the versions on the device runs."""

    model: ModelName | Literal["@agent"]
    version: _Asked = ""


@dataclass(slots=True)
class Updates:
    """Hands jobs over and follows them. One thread."""

    spool: Path
    depot: Path
    do: Doing
    _stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    """id -> the stamp of the progress that was told last."""

    def begin(self, command: Command) -> Move | None:
        """Leave the job. Raises UpdateError when the spool refuses."""
        if not self.spool.is_dir():
            words = f"{self.spool} is not there: no updater takes jobs: install limpet-update, or set [updates] spool"
            raise CommandError(words, "FAILED")
        args = command.args
        what: Do = "release" if args["model"] == AGENT and self.do == "update" else self.do
        job = Job(
            command.id, what, str(args["model"]), str(args.get("version", "")), str(args.get("sha256", "")),
            detail={"by": command.by},
        )  # fmt: skip
        drop(self.spool, job)
        return None

    def follow(self, command: Command) -> Move | None:
        """What the updater has written since the last time."""
        path = self._path(command)
        try:
            about = path.stat()
            stamp = (about.st_mtime_ns, about.st_ino)
            if self._stamps.get(command.id) == stamp:
                return None
            said = Progress.decode(read_limited(path, LIMIT_BYTES), str(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ConfigError) as exc:
            raise CommandError(f"the updater's progress cannot be read: {exc}", "FAILED") from exc
        self._stamps[command.id] = stamp
        if said.terminal:
            self._stamps.pop(command.id)
        return _told(said)

    def resume(self, command: Command) -> Move | None:
        """The updater is another process: it may be done, under way, or never have got the job."""
        move = self.follow(command)
        if move is None and not (self.spool / f"{command.id}.json").exists():
            self.begin(command)
        return move or Move(command.progress.status, command.progress.text, detail=command.progress.detail)

    def cancel(self, command: Command) -> bool:
        """True when the updater has not taken the job yet; else it is asked, and its next state tells."""
        cancel(self.spool, command.id)  # first, for an updater that is just reading the job
        (self.spool / f"{command.id}.json").unlink(missing_ok=True)
        return not self._path(command).exists()

    def _path(self, command: Command) -> Path:
        return self.depot / "jobs" / f"{command.id}.json"


def operations(spool: Path, depot: Path, update_s: float) -> dict[str, Operation]:
    """The five operations on models. `update_s`: longest time of all downloads of one update, seconds."""
    times: dict[Any, float] = {"download": update_s + 3600.0}

    def made(do: Doing, args: type) -> Operation:
        # activate lowers the floor and forgets that a version went wrong here
        role: Role = "admin" if do == "activate" else "technician"
        return Operation(role, Updates(spool, depot, do), args, leads_back=do == "rollback", state_s=times)

    return {
        "update": made("update", UpdateArgs), "rollback": made("rollback", ChangeArgs), "pin": made("pin", ChangeArgs),
        "unpin": made("unpin", ChangeArgs), "activate": made("activate", ChangeArgs),
    }  # fmt: skip


def _told(said: Progress) -> Move:
    """The updater's progress as this command's next state; a job that it has only noted is `executing` here."""
    status = "executing" if said.status in ("init", "scheduled") else said.status
    return Move(status, said.text, said.reason, said.detail, said.done_bytes, said.total_bytes)
