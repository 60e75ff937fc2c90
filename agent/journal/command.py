"""One command as the device knows it: what was asked, by whom, and how far it has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from agent.progress import Progress


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the journal."""

    progress: Progress
    digest: str
    """sha256 of the request's bytes, hex."""
    key_id: bytes
    by: str
    """Name of the key's entry."""
    role: str
    counter: int
    issued_s: int
    expires_s: int
    args: Mapping[str, Any] = field(default_factory=dict)
    created_s: float = 0.0
    """When it was admitted, seconds since 1970 by the device's clock."""
    boot: str = ""
    """The start of the agent in which it last moved."""

    @property
    def id(self) -> str:
        return self.progress.id

    @property
    def operation(self) -> str:
        return self.progress.operation

    @property
    def name(self) -> str:
        """As in the topic: "<op>/<id>"."""
        return f"{self.operation}/{self.id}"

    def moved(self, t_wall_s: float, boot: str, **changes: Any) -> Self:
        """The next state. Raises ValueError after a terminal one."""
        return replace(self, progress=self.progress.moved(t_wall_s, **changes), boot=boot)
