"""`limpet run`: the agent itself, until SIGTERM or Ctrl-C."""

import argparse
import gc
import os
import sys

from agent.cli.options import Commands, add_config
from agent.errors import LimpetError


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("run", help="run the agent (what limpet.service does)")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Run until told to stop. The status is 0 after a clean stop, also with a lane that hangs.

    An agent that has to start anew leaves that to the service manager (Restart=always), or else does it itself.
    """
    gc.disable()  # what starting makes stays; `App.run` turns it on when all stands
    from agent.app.app import App
    from agent.notify import Notifier

    managed = "NOTIFY_SOCKET" in os.environ
    app = App(args.config)
    try:
        stuck = app.run(Notifier.from_environment(os.environ, os.getpid()))
    except LimpetError as exc:
        if not app.reconfiguration.cannot_start(str(exc)):
            raise
        stuck = ()
    if app.again and not managed:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606, our own command line once more
    if stuck:
        os._exit(0)  # a thread that hangs in C would keep the interpreter from ending
    return 0
