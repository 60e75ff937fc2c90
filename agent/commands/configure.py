"""set-config: hands the change to the reconfiguration and tells what it decided, over the agent's restart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.commands.table import Move, Operation
from agent.journal import Command
from agent.reconfigure.request import SetConfigArgs


class Ended(Protocol):
    """How a change ended."""

    @property
    def kept(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def text(self) -> str: ...


class Reconfiguring(Protocol):
    """The part of `agent.reconfigure.Reconfiguration` that is asked."""

    def set_config(self, args: Mapping[str, Any], job: str) -> str: ...
    def outcome(self, job: str) -> Ended | None: ...
    def on_trial(self, job: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class SetConfig:
    """The handler."""

    reconfiguring: Reconfiguring

    def begin(self, command: Command) -> Move:
        """Validated, written as provisional, and the agent starts anew with it. Raises CommandError."""
        said = self.reconfiguring.set_config(command.args, command.id)
        return Move("probation" if self.reconfiguring.on_trial(command.id) else "successful", said)

    def follow(self, command: Command) -> Move | None:
        ended = self.reconfiguring.outcome(command.id)
        if ended is None:
            return None
        return Move("successful" if ended.kept else "failed", ended.text, "" if ended.kept else ended.reason)

    def resume(self, command: Command) -> Move | None:
        """The restart belongs to it: judged meanwhile, still on trial, or never begun."""
        if (move := self.follow(command)) is not None:
            return move
        return Move("probation", "tried since this start") if self.reconfiguring.on_trial(command.id) else None

    def cancel(self, command: Command) -> bool:
        return False


def operation(reconfiguring: Reconfiguring) -> Operation:
    """Takes an admin: it changes what the device looks for."""
    return Operation("admin", SetConfig(reconfiguring), SetConfigArgs, state_s={"probation": 2 * 3600.0})
