"""What this process costs: CPU, memory and bytes written to disk, from /proc/self (proc(5))."""

import os
from pathlib import Path

_PROC = Path("/proc/self")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def costs() -> dict[str, float]:
    """cpu_seconds, resident_bytes and written_bytes (what reached the disk's queue) since the start; 0 where hidden."""
    times = os.times()
    return {
        "cpu_seconds": times.user + times.system,
        "resident_bytes": _resident_pages() * _PAGE,
        "written_bytes": _written_bytes(),
    }


def _resident_pages() -> float:
    try:
        return float((_PROC / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0


def _written_bytes() -> float:
    try:
        lines = (_PROC / "io").read_text().splitlines()
    except OSError:  # a hardened kernel may hide it
        return 0.0
    return float(next((line.split()[1] for line in lines if line.startswith("write_bytes:")), 0))
