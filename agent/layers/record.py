"""What the device remembers of its remote configuration: one record, and the steps from one to the next.

committed is what proved itself. provisional is a change on trial: it is used only after one of its tries was burnt on
the disk, and it either becomes committed or is gone. The way back is always `committed`, which a change on trial never
touches. Pure: `agent.layerfiles` keeps the record.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from agent.errors import ConfigError
from agent.health import Health
from agent.layers.allowed import SETTINGS, Layer
from agent.migrations import Ladder
from agent.progress import Reason
from agent.strict import Range, build

REFUSED_LIMIT: Final = 16
ENDED_LIMIT: Final = 32
Origin: TypeAlias = Literal["set-config", "fleet", "revert"]
RECORDS: Final[Ladder[dict[str, Any]]] = Ladder("remote configuration record", 1, {})
"""Steps from older records to this one's format; none so far."""
_RANK: Final = {"ok": 0, "degraded": 1, "unhealthy": 2}


@dataclass(frozen=True, slots=True)
class Remote:
    """All that came from afar: the fleet's layers, lowest first, and what set-config changed."""

    fleet: tuple[Layer, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Lowest first."""
        return (*self.fleet, *([Layer(SETTINGS, self.settings)] if self.settings else []))

    @property
    def digest(self) -> str:
        """16 hex digits that name this content."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Baseline:
    """How the agent was before a change: a change may not leave it worse."""

    status: Literal["ok", "degraded", "unhealthy"]
    running: tuple[str, ...]
    """Pipelines that ran and that the change means to keep."""
    connected: bool

    def lacks(self, health: Health, running: Sequence[str], *, connected: bool) -> str:
        """What is worse now, in words; empty when nothing is."""
        if _RANK[health.status] > _RANK[self.status]:
            return f"the agent is {health.status}, it was {self.status}: {'; '.join(health.reasons)}"
        if gone := sorted(set(self.running) - set(running)):
            return f"pipelines that ran before do not: {', '.join(gone)}" + "".join(f"; {r}" for r in health.reasons)
        return "the uplink does not reach its broker any more" if self.connected and not connected else ""


@dataclass(frozen=True, slots=True)
class Provisional:
    """A change on trial."""

    remote: Remote
    origin: Origin
    job: Annotated[str, Range(0, 64)]
    """Id of the command that asked for it; empty when the fleet's layers changed."""
    tries_left: Annotated[int, Range(0, 10)]
    deadline_s: float
    """Time to show itself healthy, from the start with it, seconds."""
    baseline: Baseline
    since_wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    """A content that did not prove itself, so that the same fleet layers are not tried for ever."""

    digest: str
    local: str
    """Digest of limpet.toml then: with another one it may be tried again."""
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a change ended, for who asked."""

    job: str
    origin: Origin
    digest: str
    kept: bool
    reason: Reason | Literal[""]
    text: str
    t_wall_s: float


@dataclass(frozen=True, slots=True)
class Record:
    """See the module's docstring."""

    generation: int = 0
    committed: Remote = Remote()
    before: dict[str, Any] | None = None
    """What set-config had committed before its last change; None when there is nothing to go back to."""
    provisional: Provisional | None = None
    refused: tuple[Refused, ...] = ()
    ended: tuple[Ended, ...] = ()

    @property
    def chosen(self) -> Remote:
        """What the agent that burnt a try should run with."""
        return self.provisional.remote if self.provisional else self.committed

    def propose(self, change: Provisional) -> Self:
        """Put `change` on trial. Raises ValueError while another one is."""
        if self.provisional is not None:
            raise ValueError(f"a change of {self.provisional.origin} is on trial: wait until it is kept or taken back")
        return self._next(provisional=change)

    def burn(self) -> Self:
        """Take one try of the change on trial, before it is used. Raises ValueError when none is left."""
        change = self.provisional
        if change is None or change.tries_left < 1:
            raise ValueError("no try is left")
        return self._next(provisional=replace(change, tries_left=change.tries_left - 1))

    def commit(self, now_wall_s: float) -> Self:
        """Keep the change on trial."""
        change = self._on_trial()
        anew = change.remote.settings != self.committed.settings
        return self._next(
            committed=change.remote, provisional=None, before=self.committed.settings if anew else self.before,
            ended=self._end(change, now_wall_s),
        )  # fmt: skip

    def give_up(self, reason: Reason, text: str, local: str, now_wall_s: float) -> Self:
        """Take the change on trial back, and remember it. `local`: digest of limpet.toml."""
        change = self._on_trial()
        refused = (*self.refused, Refused(change.remote.digest, local, text))[-REFUSED_LIMIT:]
        ended = self._end(change, now_wall_s, reason, text)
        return self._next(provisional=None, refused=refused, ended=ended)

    def refuses(self, remote: Remote, local: str) -> str:
        """Why this very content is not tried again with this limpet.toml; empty when it may be."""
        return next((r.text for r in self.refused if (r.digest, r.local) == (remote.digest, local)), "")

    def outcome(self, job: str) -> Ended | None:
        """How the change that `job` asked for ended; None while it has not, or was forgotten."""
        return next((one for one in reversed(self.ended) if one.job == job), None)

    def _on_trial(self) -> Provisional:
        if self.provisional is None:
            raise ValueError("no change is on trial")
        return self.provisional

    def _end(
        self, change: Provisional, now_wall_s: float, reason: Reason | Literal[""] = "", text: str = ""
    ) -> tuple[Ended, ...]:
        end = Ended(change.job, change.origin, change.remote.digest, not reason, reason, text, now_wall_s)
        return (*self.ended, end)[-ENDED_LIMIT:]

    def _next(self, **changes: Any) -> Self:
        return replace(self, generation=self.generation + 1, **changes)


def encode(record: Record) -> bytes:
    """JSON with its own sha256, so that half a file is seen to be half."""
    parts = {name: part for name, part in asdict(record).items() if part is not None}
    body = {"schema": RECORDS.current, **parts}
    return json.dumps({**body, "sum": checksum(body)}, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def decode(data: bytes, where: str) -> Record:
    """Read what `encode` wrote. Raises ConfigError that names `where`."""
    try:
        table = json.loads(data)
    except ValueError as exc:  # UnicodeDecodeError is one too
        raise ConfigError(f"{where}: is damaged: it is no JSON") from exc
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: is damaged: it is no object")
    body = {key: value for key, value in table.items() if key != "sum"}
    if table.get("sum") != checksum(body):
        raise ConfigError(f"{where}: is damaged: its sum is wrong")
    body = RECORDS.climb(body, body.pop("schema", None), where)
    return build(Record, body, where)


def checksum(body: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON body, 64 hex digits: tells a damaged file, not a forged one."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
