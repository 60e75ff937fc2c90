"""`limpet run`: the agent itself, until SIGTERM or Ctrl-C."""

import argparse
import os

from agent.cli.options import Commands, add_config


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("run", help="run the agent (what limpet.service does)")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Run until told to stop. The status is 0 after a clean stop, also with a lane that hangs."""
    from agent.app import App
    from agent.notify import Notifier

    app = App(args.config)
    stuck = app.run(Notifier.from_environment(os.environ, os.getpid()))
    if stuck:
        os._exit(0)  # a thread that hangs in C would keep the interpreter from ending
    return 0
