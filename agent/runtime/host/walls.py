"""What a host may do, and when it ends: each wall is one of several, and what the kernel lacks is left out.

It ends by SIGKILL, sent by the kernel, when the last writer of the lifeline is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import struct
from pathlib import Path

SAID_BYTES = 1 << 20
"""Most that standard error and files may grow to: the agent reads the tail, nobody reads a gigabyte of complaints."""
WRITE, EVERYTHING = 0x7FF3, 0x7FFF
"""Rights to files as landlock(7) counts them: to change and to run any, and to read them too."""
_F_SETSIG = 10  # fcntl(2); Python's fcntl has no name for it
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # prctl(2)
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
"""System calls that glibc has no functions for; these numbers are the same on every architecture."""
_LANDLOCK_VERSION = 1
"""Flag of landlock_create_ruleset: tell the version of the interface, make nothing."""


def die_with(lifeline: int) -> None:
    """SIGKILL for this process group when the last writer of the pipe `lifeline` is gone; see fcntl(2), F_SETSIG.

    PR_SET_PDEATHSIG would come when the *thread* that started this process ends. This needs no look-out of our own,
    so it works in the middle of a call that hangs.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the parent has one thread
    if os.getppid() != parent:
        os._exit(1)


def restrain(keep: set[int]) -> None:
    """Give up what a model has no need of: other descriptors, rights gained by exec, core dumps, big files.

    When memory runs out, this process goes and not the agent. What the kernel or the service's filter refuses is left
    out: each of these is one wall of several.
    """
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor not in keep:
            os.closerange(descriptor, descriptor + 1)  # which ignores one that is closed already
    os.chdir("/")
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, SAID_BYTES)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def wall_off(rights: int) -> None:
    """No more of these `rights` to files, no TCP, and no signals to others, for this thread and what it forks.

    landlock(7): only what is opened from now on is meant, descriptors and mapped files stay. A kernel before 5.13 has
    no such wall, before 6.7 none for TCP, before 6.12 none for signals and abstract sockets.
    """
    libc = ctypes.CDLL(None)
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return
    known = (1 << (13 if version < 2 else 14 if version < 3 else 15)) - 1  # REFER and TRUNCATE came later
    # BIND_TCP, CONNECT_TCP; SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL
    asked = struct.pack("<QQQ", rights & known, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size_bytes = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, asked, size_bytes, 0)
    if ruleset >= 0:
        libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)


def limit_memory(size_bytes: int) -> None:
    if size_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, size_bytes))
