"""What a child that prepares a model is told: one step for one model file, as plain values, for it travels as JSON."""

from dataclasses import dataclass
from typing import Literal

Step = Literal["plain", "save", "prepared"]
"""Load the model as always, run it and keep its outputs; write the prepared files; load those, run and compare."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to do."""

    step: Step
    model: str
    """Folder of the manifest."""
    file: str
    """The artifact."""
    into: str = ""
    """Folder of the prepared files."""
    root: str = ""
    """Folder that `file` is relative to, when it is not the manifest's."""
    limit_bytes: int = 512_000_000
    """Largest model file that is taken."""
    memory_bytes: int = 0
    """Most private memory; 0: no limit."""
    run_s: float = 1.0
    """Time for the timed runs, seconds."""
