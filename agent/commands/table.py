"""What can be asked of this device: operation -> who may, with which arguments, and what is done then.

A handler acts in steps, so that nothing waits in it: `begin` once, after the state `executing` is durable; then
`follow` once a turn until a move is terminal. Each move becomes the row's next state. What a handler raises (a
LimpetError) ends the command as failed, with the error's reason if it has one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, get_args, get_type_hints

from agent.errors import CommandError, ConfigError
from agent.journal import Command
from agent.package.trust import Role
from agent.progress import Reason, Status
from agent.strict import build, describe

ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Each may do what those before it may."""
STATE_S: Final[Mapping[Status, float]] = {
    "init": 60.0, "scheduled": 8 * 86400.0, "executing": 900.0, "download": 8 * 86400.0, "verify": 900.0,
    "staged": 900.0, "activate": 900.0, "probation": 31 * 86400.0, "commit": 300.0, "rollback": 300.0,
}  # fmt: skip
"""Longest time in each state before the command has failed as TIMED_OUT, seconds, unless its operation says less."""


@dataclass(frozen=True, slots=True)
class Move:
    """What has become of a command."""

    status: Status
    text: str = ""
    reason: Reason | str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """JSON values; together at most 64 KiB."""
    done_bytes: int = 0
    total_bytes: int = 0


class Handler(Protocol):
    """Does what a command asks."""

    def begin(self, command: Command) -> Move | None:
        """Act. Called once; a terminal move when that is all, None when there is nothing to tell yet. Never waits."""
        ...

    def follow(self, command: Command) -> Move | None:
        """What is new since the last move, or None."""
        ...

    def resume(self, command: Command) -> Move | None:
        """The agent was restarted with this command under way. None: it cannot go on, and fails as INTERRUPTED."""
        ...

    def cancel(self, command: Command) -> bool:
        """Stop it if that is possible; True when nothing more will be done."""
        ...


@dataclass(frozen=True, slots=True)
class Once:
    """A handler that is through when it has begun."""

    act: Callable[[Command], Move | Mapping[str, Any]]
    """Returns the last move, or the detail of a successful one. Raises LimpetError."""

    def begin(self, command: Command) -> Move:
        done = self.act(command)
        return done if isinstance(done, Move) else Move("successful", detail=done)

    def follow(self, command: Command) -> Move | None:
        return None

    def resume(self, command: Command) -> Move | None:
        return None

    def cancel(self, command: Command) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class NoArgs:
    """An operation without arguments."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of the table."""

    role: Role
    """The least role that may ask."""
    handler: Handler
    args: type = NoArgs
    """A frozen dataclass: names, types and ranges of the arguments; see `agent.strict`."""
    mutating: bool = True
    """At most one mutating command is under way; others wait in the queue. The rest run beside it."""
    leads_back: bool = False
    """A changing one that need not wait for another that is past `staged`: only this one can stop that."""
    state_s: Mapping[Status, float] = field(default_factory=dict)
    """Deadlines of states that differ from `STATE_S`, seconds."""

    def allows(self, role: str) -> bool:
        """Whether that role may ask for it; a role that is not known may nothing."""
        return role in ROLES and ROLES.index(role) >= ROLES.index(self.role)

    def read(self, args: Mapping[str, Any], operation: str) -> Any:
        """The arguments, checked. Raises CommandError (REJECTED_UNSUPPORTED)."""
        try:
            return build(self.args, args, operation)
        except ConfigError as exc:
            raise CommandError(str(exc), "REJECTED_UNSUPPORTED") from exc

    def deadline_s(self, status: Status) -> float:
        """Longest time in that state, seconds."""
        return self.state_s.get(status, STATE_S.get(status, 900.0))

    def capability(self) -> dict[str, Any]:
        """What `cmd/<op>` shows: who may ask, and with which arguments."""
        hints = get_type_hints(self.args, include_extras=True)
        return {
            "schema": 1,
            "roles": [role for role in ROLES if self.allows(role)],
            "args": {name: describe(kind) for name, kind in hints.items()},
            "mutating": self.mutating,
        }


Table = Mapping[str, Operation]
"""Operation -> entry. What is not in it does not exist."""
