"""Operations that are through at once: is it there, call that off, start again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from agent.commands.table import Move, Once, Operation
from agent.errors import CommandError
from agent.journal import Command
from agent.settings.names import AnyName
from agent.strict import Range

CancelOther = Callable[[Command, str, int | None], str]


@dataclass(frozen=True, slots=True)
class PingArgs:
    """ping: is anybody there?"""

    echo: Annotated[str, Range(0, 64)] = ""
    """Comes back in the detail."""


@dataclass(frozen=True, slots=True)
class CancelArgs:
    """cancel: call another command off, up to the state `staged`."""

    id: AnyName
    """The id of the request that asked for it."""
    expected_version: Annotated[int, Range(0, 2**53)] | None = None
    """Only if its state has this version; else its state is told again and nothing happens."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Ends the process in good order, once; the state says `successful` when the next one has started."""

    leave: Callable[[], None]
    boot: str
    """Names this start of the process."""
    stays: str
    """Why this agent would not be started again; "" when it will be."""

    def begin(self, command: Command) -> Move | None:
        if self.stays:
            raise CommandError(f"it would not come back: {self.stays}", "REJECTED_UNSUPPORTED")
        self.leave()
        return None

    def follow(self, command: Command) -> Move | None:
        return None

    def resume(self, command: Command) -> Move | None:
        """Called in the next process: a row is never begun twice, so that this cannot become a loop."""
        return Move("successful", "the agent was restarted", detail={"boot": self.boot})

    def cancel(self, command: Command) -> bool:
        return False


def ping(about: Callable[[], dict[str, Any]]) -> Operation:
    """`about`: version, health and the like, JSON values."""

    def act(command: Command) -> dict[str, Any]:
        echo = command.args.get("echo", "")
        return about() | ({"echo": echo} if echo else {})

    return Operation("viewer", Once(act), PingArgs, mutating=False)


def cancelling(other: CancelOther) -> Operation:
    """`other(command, id, expected version)` calls the command of that id off; says why not, or ""."""

    def act(command: Command) -> Move:
        id_ = str(command.args["id"])
        refused = other(command, id_, command.args.get("expected_version"))
        if refused:
            return Move("failed", refused, "FAILED")
        return Move("successful", f"{id_} is called off, or asked to end before it is activated")

    return Operation("technician", Once(act), CancelArgs, mutating=False)


def restart(leave: Callable[[], None], boot: str, stays: str) -> Operation:
    """See `Restart`."""
    return Operation("technician", Restart(leave, boot, stays))
