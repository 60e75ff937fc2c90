"""set-config as a command: on trial across a restart, and the row ends when the change was judged."""

from dataclasses import dataclass

from agent.commands.table import Move, Operation
from agent.journal import Command
from agent.reconfigure.change import RESTARTS, Reconfiguration
from agent.reconfigure.request import SetConfigArgs


@dataclass(frozen=True, slots=True)
class SetConfig:
    """See `agent.commands.table.Handler`. The record is the truth: a row asks it, before and after the restart."""

    reconfiguration: Reconfiguration

    def begin(self, command: Command) -> Move | None:
        said = self.reconfiguration.set_config(command.args, command.id)
        return Move("probation" if said == RESTARTS else "successful", said)

    def follow(self, command: Command) -> Move | None:
        end = self.reconfiguration.outcome(command.id)
        if end is None:
            return None
        if end.kept:
            return Move("successful", "the agent is healthy with it: kept", detail={"remote": end.digest})
        return Move("failed", end.text, end.reason)

    def resume(self, command: Command) -> Move | None:
        waits = Move("probation", "the agent runs with it and is watched")
        return waits if self.reconfiguration.on_trial(command.id) else self.follow(command)

    def cancel(self, command: Command) -> bool:
        return False


def set_config(reconfiguration: Reconfiguration) -> Operation:
    """The entry of the table: whoever changes settings is an admin."""
    return Operation("admin", SetConfig(reconfiguration), SetConfigArgs)
