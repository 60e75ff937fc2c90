"""What a process and all its children cost: CPU, memory, wake-ups, bytes written; read from /proc.

CPU of a child that has ended counts once its parent has waited for it. Times have the resolution of the kernel's clock
tick (10 ms), so whatever is measured must cost seconds.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process and its children, MiB."""

    pss_mib: float
    private_mib: float


def own_pid() -> int:
    """This process, by the number that /proc has for it."""
    return int(Path("/proc/self").readlink().name)


def family(pid: int) -> Iterator[int]:
    """The process and everything it started, and what those started, as far as it still runs."""
    yield pid
    for thread in _list(Path(f"/proc/{pid}/task")):
        for child in _read(Path(f"/proc/{pid}/task/{thread}/children")).split():
            yield from family(int(child))


def cpu_s(pid: int) -> float:
    """CPU of all threads of the process, of its running children and of those it waited for, seconds."""
    return sum(sum(_ticks(member)) for member in family(pid)) * _TICK_S


def own_cpu_s(pid: int) -> float:
    """CPU of the process without its children, seconds."""
    return sum(_ticks(pid)[:2]) * _TICK_S


def memory(pid: int) -> Memory:
    """What the process and its children hold: shared pages by share, and pages that are theirs alone."""
    sizes = [_rollup(member) for member in family(pid)]
    private = sum(s.get("Private_Dirty", 0) + s.get("Private_Clean", 0) for s in sizes)
    return Memory(sum(s.get("Pss", 0) for s in sizes) / 1024, private / 1024)


def wakeups(pid: int) -> int:
    """How often a thread of the process gave the CPU back because it waited, so far."""
    threads = (_read(Path(f"/proc/{pid}/task/{t}/status")) for t in _list(Path(f"/proc/{pid}/task")))
    return sum(int(_field(text, "voluntary_ctxt_switches") or 0) for text in threads)


def written_bytes(pid: int) -> int:
    """Bytes that the process caused to be written to a disk so far."""
    return int(_field(_read(Path(f"/proc/{pid}/io")), "write_bytes") or 0)


def _ticks(pid: int) -> tuple[int, int, int, int]:
    """utime, stime, cutime, cstime of proc(5)."""
    stat = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (0, 0, 0, 0) if not stat else (int(stat[11]), int(stat[12]), int(stat[13]), int(stat[14]))


def _rollup(pid: int) -> dict[str, int]:
    lines = (line.split() for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()[1:])
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


def _field(text: str, name: str) -> str:
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(name + ":")), "")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


def _list(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.iterdir()]
    except OSError:
        return []
