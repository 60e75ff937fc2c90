"""What this process costs: CPU, memory and bytes written to disk, from /proc/self (proc(5))."""

import os
import resource
from pathlib import Path

_PROC = Path("/proc/self")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def costs() -> dict[str, float]:
    """cpu_seconds, written_bytes (what reached the disk's queue) and major_faults (pages that had to be read from the
    disk, such as those of a mapped model that memory pressure took away) since the start; resident_bytes, and of them
    private_bytes (nobody else's and no file's) now. 0 where hidden."""
    times = os.times()
    return {
        "cpu_seconds": times.user + times.system,
        "resident_bytes": _resident_pages() * _PAGE,
        "private_bytes": private_bytes(),
        "major_faults": float(resource.getrusage(resource.RUSAGE_SELF).ru_majflt),
        "written_bytes": _written_bytes(),
    }


def private_bytes() -> int:
    """Memory of this process that is nobody else's and no file's; 0 where hidden."""
    try:
        lines = (_PROC / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


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
