"""The states that a command or an update goes through, and how they are written down for others.

One initial state, two terminal ones; a reader ignores middle states that it does not know:

    init -> scheduled -> executing -> download -> verify -> staged -> activate -> probation -> commit -> successful
    any of them -> failed(reason); from activate on by way of rollback

A command that is no update goes init -> executing -> successful or failed. `Progress` is what crosses processes as a
small JSON file and the broker as a state; its `version` grows by one with every change, so old news shows as old.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Final, Literal, Self, get_args

from agent.strict import Range, build

Status = Literal[
    "init", "scheduled", "executing", "download", "verify", "staged", "activate", "probation", "commit", "rollback",
    "successful", "failed",
]  # fmt: skip
Reason = Literal[
    "REJECTED_UNAUTHORIZED", "REJECTED_BAD_SIGNATURE", "REJECTED_EXPIRED", "REJECTED_UNSUPPORTED", "REJECTED_BUSY",
    "REJECTED_ROLLBACK_ATTACK", "TIMED_OUT", "CANCELED", "SUPERSEDED", "INTERRUPTED", "NO_SPACE", "DOWNLOAD_FAILED",
    "VERIFY_FAILED", "PROBATION_FAILED", "ROLLED_BACK", "ROLLBACK_FAILED", "FAILED",
]  # fmt: skip
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
TERMINAL: Final[frozenset[Status]] = frozenset({"successful", "failed"})
CANCELLABLE: Final[frozenset[Status]] = frozenset({"init", "scheduled", "executing", "download", "verify", "staged"})
"""Up to and including `staged`: after that only a rollback leads back."""
LIMIT_BYTES: Final = 16 * 1024
"""Largest written progress, bytes."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one command or update has come."""

    id: Annotated[str, Range(1, 64)]
    operation: Annotated[str, Range(1, 64)]
    """update, rollback, pin, set-config ..."""
    status: Status = "init"
    version: Annotated[int, Range(0, 2**53)] = 0
    """One more with every change."""
    reason: Reason | Literal[""] = ""
    """Why it failed; empty unless `status` is failed or rollback."""
    text: Annotated[str, Range(0, 2000)] = ""
    """The same for people."""
    t_wall_s: float = 0.0
    """When this state began, seconds since 1970 by the device's clock."""
    done_bytes: Annotated[int, Range(0, 2**53)] = 0
    total_bytes: Annotated[int, Range(0, 2**53)] = 0
    """Bytes of the download; 0 when there is none or its size is not known yet."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What else there is to say, JSON values: model, from, to, counts of the probation, disagreements, a result."""

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    def moved(self, t_wall_s: float, **changes: Any) -> Self:
        """The next state. Raises ValueError after a terminal one: what has ended stays as it ended."""
        if self.terminal:
            raise ValueError(f"command {self.id} has ended as {self.status}")
        return replace(self, version=self.version + 1, t_wall_s=t_wall_s, **changes)

    def encode(self) -> bytes:
        """JSON, one line. A zero byte in the text, which `decode` refuses, is replaced."""
        told = {"schema": 1, **asdict(self), "text": self.text.replace("\0", "\N{REPLACEMENT CHARACTER}")}
        return json.dumps(told, separators=(",", ":"), sort_keys=True).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, where: str, limit_bytes: int = LIMIT_BYTES) -> "Progress":
        """Read what `encode` wrote. Raises ConfigError that names `where`, ValueError when it is no JSON object."""
        if len(data) > limit_bytes:
            raise ValueError(f"{where}: larger than {limit_bytes} bytes")
        table = json.loads(data)
        if not isinstance(table, Mapping) or table.get("schema") != 1:
            raise ValueError(f"{where}: no progress of schema 1")
        return build(cls, {key: value for key, value in table.items() if key != "schema"}, where)
