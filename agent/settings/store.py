"""[store] of limpet.toml: how much the outbox may hold, how long an event may wait, what gives way when it is full."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from agent.strict import Range

WhenFull = Literal["drop-oldest", "refuse-new"]


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """[store]: the outbox on the device's disk."""

    folder: Path = Path("/var/lib/limpet/outbox")
    """Folder of the outbox: database, number marks, reserve and quarantined files. One agent at a time."""
    key_file: Path = Path("/var/lib/limpet/store.key")
    """32 random bytes under which events lie on this disk; made at the first start, mode 0600."""
    budget_mib: Annotated[int, Range(8, 1 << 20)] = 256
    """Most that database and write-ahead log may take together, MiB; less when the disk has less room at the start."""
    routine_wait_s: Annotated[float, Range(0, 3600)] = 30.0
    """Longest that a routine event may wait in memory before it is written, seconds (T in docs/delivery.md)."""
    gather_s: Annotated[float, Range(0, 10)] = 0.05
    """After a pause a critical event is written at once; what comes within this time after it shares one commit,
    seconds."""
    pending_mib: Annotated[float, Range(0.25, 1024)] = 8.0
    """Most that events not yet written may take in memory, MiB, for instance while the disk refuses to write."""
    event_kib: Annotated[int, Range(1, 1024)] = 128
    """Largest event, KiB; a larger one is refused when it is offered, and counted."""
    routine_when_full: WhenFull = "drop-oldest"
    """What gives way when the budget is used up and a routine event comes: the oldest routine event, or the new one."""
    critical_when_full: WhenFull = "drop-oldest"
    """The same for a critical event, once no routine event is left to drop."""
    reserve_kib: Annotated[int, Range(0, 65536)] = 2048
    """Space held back in a file that is given up when the disk is full, so that dropping still works, KiB."""
