"""When the timer may act: a device's place in the jitter, and the maintenance window. Pure; the clock is passed in."""

import hashlib
import time

DAY_S = 86400


def place_s(site: str, device: str, jitter_s: int) -> float:
    """How long this device waits behind the timer: always the same, spread evenly over a fleet, below `jitter_s`."""
    place = int.from_bytes(hashlib.sha256(f"{site}/{device}\0timer".encode()).digest()[:8], "big")
    return place / 2**64 * jitter_s


def in_window(window: str, now: time.struct_time) -> bool:
    """Whether the local time `now` lies in a window such as "22:30-05:00"; an empty one is always open.

    Raises ValueError for hours that no clock shows.
    """
    if not window:
        return True
    begin, end = (_seconds(text) for text in window.split("-"))
    at = now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec
    return begin <= at < end if begin <= end else at >= begin or at < end


def _seconds(text: str) -> int:
    hours, minutes = (int(part) for part in text.split(":"))
    if hours * 60 + minutes > 24 * 60 or minutes > 59:
        raise ValueError(f"{text} is no time of day")
    return hours * 3600 + minutes * 60
