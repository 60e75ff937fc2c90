"""The command `limpet`. Each command is one file, imported only when it is called.

Exit status: 0 all well, 1 something failed, 2 usage or configuration, 130 stopped by Ctrl-C.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from agent import __version__
from agent.errors import ConfigError, LimpetError

COMMANDS = {
    "run": "run the agent (what limpet.service does)",
    "check": "check configuration, pipelines, models and keys without starting anything",
    "status": "ask the running agent how it is",
    "watch": "show results of devices as they arrive, decrypted, from the broker",
    "infer": "run a model on files",
    "replay": "run a recording through a pipeline, every sample in order",
    "outbox": "look into the store of events that wait for the broker",
    "models": "list and verify models, or describe a new one",
    "keys": "make keys for a device or a reader",
    "dashboard": "serve the page that shows events in a browser",
    "demo": "broker, agent and live view on this machine (what `make run` does)",
}
"""Command -> what it does, in words; `agent.cli.<command>` offers add_parser(sub) and run(args) -> exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((w for w in words if not w.startswith("-")), "")
    parser = argparse.ArgumentParser(prog="limpet", description="On-device inference agent.")
    parser.add_argument("--version", action="version", version=f"limpet {__version__}")
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, words_for_people in COMMANDS.items():
        if name == chosen:
            module = importlib.import_module(f"agent.cli.{name}")
            module.add_parser(sub)
        else:
            sub.add_parser(name, help=words_for_people)
    args = parser.parse_args(words)
    try:
        status: int = module.run(args)
    except ConfigError as exc:
        print(f"limpet {args.command}: {exc}", file=sys.stderr)
        return 2
    except LimpetError as exc:
        print(f"limpet {args.command}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing left to tell
        sys.stderr.close()
        return 1
    return status
