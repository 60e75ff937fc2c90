"""Processes under a memory limit, page cache included, as MemoryMax= of a unit sets it."""

import contextlib
import os
import subprocess
from pathlib import Path


class NoLimitError(Exception):
    """This machine lets nobody limit the memory of a group; the text says why."""


class Group:
    """A control group with a limit."""

    def __init__(self, folder, first):
        self._folder, self._first = folder, first

    def run(self, command, **options):
        """Run a command in the group; what subprocess.run returns."""
        entered = ["sh", "-c", f'echo $$ > {self._folder}/cgroup.procs; exec "$0" "$@"', *map(str, command)]
        return subprocess.run(entered, check=False, **options)

    @property
    def killed(self):
        """How many of its processes the kernel has ended for their memory."""
        text = (self._folder / ("memory.oom_control" if self._first else "memory.events")).read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    @property
    def peak_bytes(self):
        """Most memory that it ever had, page cache included."""
        return int((self._folder / ("memory.max_usage_in_bytes" if self._first else "memory.peak")).read_text())


@contextlib.contextmanager
def memory_group(limit_bytes):
    """A group below this process's own, so that every limit that holds here goes on to hold. Raises NoLimitError."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    first = next((path for _, kinds, path in lines if "memory" in kinds.split(",")), None)
    second = next((path for number, _, path in lines if number == "0"), "/")
    home = f"/sys/fs/cgroup/memory{first}" if first is not None else f"/sys/fs/cgroup{second}"
    folder = Path(home) / f"limpet-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as exc:
        raise NoLimitError(f"{home}: no group can be made here: {exc.strerror}") from exc
    try:
        try:
            (folder / ("memory.limit_in_bytes" if first is not None else "memory.max")).write_text(str(limit_bytes))
        except OSError as exc:
            raise NoLimitError(f"{folder}: its memory cannot be limited: {exc.strerror}") from exc
        yield Group(folder, first is not None)
    finally:
        folder.rmdir()
