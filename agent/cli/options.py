"""Options that several commands have, so that they are spelt and explained alike."""

import argparse
import shlex
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a command adds its parser; argparse gives this type no public name."""

DEFAULT_CONFIG = Path("/etc/limpet/limpet.toml")


def add_config(parser: argparse.ArgumentParser) -> None:
    """--config: the agent's own file, unless another is named."""
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="limpet.toml (default %(default)s)")


def add_config_again(verb: argparse.ArgumentParser) -> None:
    """The same behind a verb, for people who write it there; what stood before the verb counts otherwise."""
    verb.add_argument("--config", type=Path, default=argparse.SUPPRESS, help=f"limpet.toml (default {DEFAULT_CONFIG})")


def again(config: Path) -> str:
    """` --config FILE` for a command that a message tells to run next, when it was named for this one."""
    return "" if config == DEFAULT_CONFIG else f" --config {shlex.quote(str(config))}"
