"""Runs a command that must not outlive the agent: `guard.py PARENT_PID PROGRAM ARGUMENTS...`, a file of its own.

Asks the kernel for SIGKILL when the parent goes (PR_SET_PDEATHSIG survives exec), then becomes the command. To the
kernel the parent is the thread that started it: a source is opened and read in one lane, and ends with it. This cannot
happen between fork and exec inside the agent: code there may deadlock in a process that has threads. What the
command itself starts is not covered: it dies of a broken pipe when it writes, or with the unit's control group.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns: the command, or exit status 127 when it cannot be run."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent went before the kernel knew
        sys.exit(1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec hands that on
    try:
        os.execvp(argv[0], argv)  # noqa: S606  no shell is the point
    except OSError as exc:
        sys.stderr.write(f"{argv[0]}: {exc.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
