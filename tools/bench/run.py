"""What every section gets: where it may write, how long it may take, and where real recordings lie."""

from dataclasses import dataclass
from pathlib import Path

from tests.realdata import ROOT as REALDATA

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a section."""

    folder: Path
    """Empty at the start, gone afterwards; lies on the disk that is measured."""
    quick: bool = False
    """True: show that it works in a few seconds; the figures mean nothing."""

    def many(self, full: int, quick: int) -> int:
        """How many rounds, frames or events."""
        return quick if self.quick else full

    def real(self, name: str) -> Path | None:
        """A file of the real data, when it is there."""
        path = REALDATA / name
        return path if path.exists() else None
