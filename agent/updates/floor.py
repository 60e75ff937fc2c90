"""A time that never runs backwards far enough to believe expired metadata, on machines whose clock may forget.

The floor is the latest of: the date of this release, what was kept here at an earlier run, and the clock file of
systemd-timesyncd. Expiry is judged at the later of floor and clock, so a clock in 1970 neither refuses what is fresh
nor accepts what is frozen. A clock that is ahead is believed for refusing (nothing is installed until it is right
again) but must not raise the floor for good: nothing more than a year ahead of a time that is vouched for moves it,
neither at once nor in steps. Vouched for is the release's date, and any time at which signed metadata that was fetched
had not expired. Written at most once an hour.
"""

import json
import logging
import time
from pathlib import Path
from typing import Final

from agent.clock import Clock, SystemClock
from agent.durable import read_limited, write_durably

log = logging.getLogger(__name__)

RELEASED_S: Final = 1_793_491_200.0
"""2026-11-01 UTC: no release of this code is older. Raised with every release."""
YEAR_S: Final = 365.25 * 86400
DAY_S: Final = 86400.0
HOUR_S: Final = 3600.0
TIMESYNC_CLOCK: Final = Path("/var/lib/systemd/timesync/clock")
_LIMIT_BYTES = 1024


class Floor:
    """The floor of one device, kept in one small file that only the updater writes."""

    def __init__(
        self,
        file: Path,
        clock: Clock | None = None,
        released_s: float = RELEASED_S,
        timesync: Path = TIMESYNC_CLOCK,
    ) -> None:
        """`timesync`: a file whose time of change is the last synchronised time."""
        self._file = file
        self._clock = clock or SystemClock()
        kept_s, vouched_s = _read(file)
        self._vouched_s = max(released_s, vouched_s)
        self._kept = (kept_s, vouched_s)
        self.floor_s = max(released_s, kept_s, vouched_s)
        """Seconds since 1970."""
        self._raise(_changed_s(timesync))

    def now_s(self) -> float:
        """The time at which expiry is judged, seconds since 1970."""
        return max(self.floor_s, self._clock.wall_s())

    def keep(self) -> None:
        """Let the clock raise the floor, and write it down when the last time was an hour ago. Raises OSError."""
        self._raise(self._clock.wall_s())
        if self.floor_s - self._kept[0] >= HOUR_S or self._vouched_s - self._kept[1] >= HOUR_S:
            self._kept = (self.floor_s, self._vouched_s)
            table = {"schema": 1, "floor_s": self.floor_s, "vouched_s": self._vouched_s}
            write_durably(self._file, json.dumps(table).encode() + b"\n", 0o644)

    def vouch(self, expires_s: float) -> None:
        """Metadata that was just fetched is signed to hold until `expires_s`: up to there the clock is believed."""
        if self._clock.wall_s() < expires_s:
            self._vouched_s = max(self._vouched_s, self._clock.wall_s())
        self.keep()

    def hint(self) -> str:
        """What a refusal should add when the floor, not the clock, decided; else empty."""
        wall_s = self._clock.wall_s()
        if self.floor_s - wall_s < DAY_S:
            return ""
        return (
            f" (this device has seen {_date(self.floor_s)}, but its clock says {_date(wall_s)}: set it; if it once ran"
            f" ahead, remove {self._file})"
        )

    def _raise(self, wall_s: float) -> None:
        if wall_s <= self._vouched_s + YEAR_S:
            self.floor_s = max(self.floor_s, wall_s)
        else:
            log.warning(
                "update clock_s=%.0f floor_s=%.0f state=clock not believed reason=more than a year ahead of any signed"
                " time: set the clock", wall_s, self.floor_s,
            )  # fmt: skip


def _read(file: Path) -> tuple[float, float]:
    """(floor, vouched); zeros when there is none. A damaged file counts as none, and that is said."""
    try:
        table = json.loads(read_limited(file, _LIMIT_BYTES))
        floor_s, vouched_s = float(table["floor_s"]), float(table["vouched_s"])
        if table["schema"] == 1 and 0 <= vouched_s <= floor_s < vouched_s + 2 * YEAR_S:
            return floor_s, vouched_s
    except FileNotFoundError:
        return 0.0, 0.0
    except (OSError, ValueError, KeyError, TypeError) as exc:
        log.warning("update file=%s state=unreadable reason=%s: the time starts at this release's date", file, exc)
        return 0.0, 0.0
    log.warning("update file=%s state=nonsense: the time starts at this release's date", file)
    return 0.0, 0.0


def _date(wall_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(wall_s))


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
