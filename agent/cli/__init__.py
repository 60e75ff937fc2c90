"""The command `limpet`. Each command is one file, imported only when it is called.

Exit status: 0 all well, 1 something failed, 2 usage or configuration, 130 stopped by Ctrl-C.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from agent import __version__
from agent.cli import options
from agent.cli.terminal import shown
from agent.errors import ConfigError, LimpetError

COMMANDS = {
    "run": "run the agent (what limpet.service does)",
    "check": "check configuration, pipelines, models and keys without starting anything",
    "config": "show what is configured and by whom, revert remote changes, migrate files",
    "status": "ask the running agent how it is",
    "watch": "show results of devices as they arrive, decrypted, from the broker",
    "infer": "run a model on files",
    "replay": "run a recording through a pipeline, every sample in order",
    "outbox": "look into the store of events that wait for the broker",
    "audit": "the trail of commands: who asked for what, and whether it is whole",
    "bench": "what models cost in memory on this machine",
    "models": "list, verify, try and add models, or describe a new one",
    "plugin": "packages that add steps, decoders and sources: list, show, check",
    "request": "ask devices to update, roll back, ...; signed, with live progress",
    "update": "bring signed models onto this device, and prove them",
    "keys": "make keys for a device, a reader or a technician",
    "repo": "make, sign and publish a repository of updates",
    "enroll": "make this device's keys on the device and have them certified",
    "dashboard": "serve the page that shows events in a browser",
    "demo": "broker, agent and live view on this machine (what `make run` does)",
}
"""Command -> what it does, in words; `agent.cli.<command>` offers add_parser(sub) and run(args) -> exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    _open_streams()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's: starting idle threads costs a third of its import
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
        sys.stdout.flush()
    except ConfigError as exc:
        hint = _not_installed(args, exc) or _not_root(exc.__cause__, str(exc))
        print(f"limpet {args.command}: {shown(str(exc))}{hint}", file=sys.stderr)
        return 2
    except LimpetError as exc:
        print(f"limpet {args.command}: {shown(str(exc))}{_not_root(exc.__cause__, str(exc))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as exc:  # files are the commands' business; what is left is our own output
        return _output_failed(args.command, exc)
    return status


def _not_installed(args: argparse.Namespace, exc: ConfigError) -> str:
    """A hint where the file that an installation has is missing, and no other was named."""
    if isinstance(exc.__cause__, FileNotFoundError):
        for option, usual in (("config", "limpet.toml"), ("reader", "reader.toml")):
            path = getattr(args, option, None)
            if path == options.DEFAULT_CONFIG.with_name(usual) and str(exc).startswith(f"{path}: "):
                return f"\nThat is where an installation has it; name another with --{option} FILE"
    return ""


def _not_root(cause: BaseException | None, said: str) -> str:
    """A hint where an installation's own files, with which the message begins, are closed to whoever types."""
    closed = isinstance(cause, PermissionError) and said.startswith(("/etc/limpet", "/var/lib/limpet"))
    return "\nAn installation's files are for root and the group limpet: run this with sudo" if closed else ""


def _open_streams() -> None:
    """Make standard input, output and error usable whatever the caller left closed, and UTF-8 whatever the locale.

    On a closed one the next file opened would take its number, and whatever prints would print into the outbox.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _output_failed(command: str, exc: OSError) -> int:
    """1, with a word for everything but a reader that has gone; what is still buffered goes nowhere."""
    if not isinstance(exc, BrokenPipeError):
        said = f"{exc.filename or 'output'}: {exc.strerror or exc}"
        print(f"limpet {command}: {said}{_not_root(exc, said)}", file=sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
