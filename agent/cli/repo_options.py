"""The options of `limpet repo`, verb by verb; what the verbs do stands in agent/cli/repo.py."""

import argparse
from pathlib import Path
from typing import Final

from agent.package import CHANNELS
from agent.repository.lists import LISTS
from agent.repository.modules import SCHEMES

OFFLINE: Final = ("root", "targets")
ONLINE: Final = ("snapshot", "timestamp")
_ADDRESS: Final = f"a .pub file, or an address ({', '.join(f'{scheme}:' for scheme in SCHEMES)})"


def describe_init(parser: argparse.ArgumentParser) -> None:
    """The repository to be made."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder of the repository, made if missing")
    for role, days in zip((*OFFLINE, *ONLINE), (365, 180, 14, 14), strict=True):
        kind = "offline" if role in OFFLINE else "online"
        group = parser.add_argument_group(f"{role} ({kind})")
        group.add_argument(f"--{role}-keys", type=int, metavar="N", help="pairs to make (default 1; 0 with --key)")
        group.add_argument(f"--{role}-key", action="append", default=[], metavar="KEY", help=_ADDRESS)
        group.add_argument(f"--{role}-threshold", type=int, default=1, metavar="N", help="signatures needed")
        group.add_argument(f"--{role}-days", type=int, default=days, metavar="N", help="life (default %(default)s)")
    parser.add_argument("--algorithm", choices=("ed25519", "es256"), default="ed25519", help="of pairs that are made")


def describe_add(parser: argparse.ArgumentParser) -> None:
    """The model to be added."""
    parser.add_argument("folder", type=Path, metavar="MODELDIR", help="a folder with model.toml")
    describe_channel(parser, required=False)
    parser.add_argument("--seal-for", type=Path, action="append", default=[], metavar="KEY.pub", help="encrypt for it")
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="further files of MODELDIR")
    parser.add_argument("--no-selftest", dest="selftest", action="store_false", help="do not run the golden inputs")


def describe_add_agent(parser: argparse.ArgumentParser) -> None:
    """The release to be added."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="wheels, lock and units (tools/make_release.py)")
    parser.add_argument("version", metavar="VERSION")
    describe_channel(parser, required=False)


def describe_version(parser: argparse.ArgumentParser) -> None:
    """A version that is there."""
    parser.add_argument("name", metavar="NAME", help="a model's name, or agent")
    parser.add_argument("version", metavar="VERSION")


def describe_release(parser: argparse.ArgumentParser) -> None:
    """A version, and where it is offered."""
    describe_version(parser)
    describe_channel(parser, required=True)


def describe_channel(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Where a version is offered."""
    parser.add_argument("--channel", choices=CHANNELS, required=required, help="offer it there")
    parser.add_argument("--rollout", type=_percent, default=100, metavar="PERCENT", help="of the fleet (default 100)")


def describe_trust(parser: argparse.ArgumentParser) -> None:
    """The list and its files."""
    parser.add_argument("list", choices=LISTS)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON or TOML; together they are the list")


def describe_config(parser: argparse.ArgumentParser) -> None:
    """The layers."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="base.toml, group-G.toml, device-S-D.toml")
    parser.add_argument("--remove", action="store_true", help="sign these layers no longer")


def describe_rotate(parser: argparse.ArgumentParser) -> None:
    """The role and its new key."""
    parser.add_argument("role", metavar="ROLE", help="root, targets, snapshot, timestamp, or a family's role")
    parser.add_argument("--key", metavar="KEY", help=f"the new key: {_ADDRESS}; left out: a pair is made")
    parser.add_argument("--old", metavar="KEYID", help="the key that leaves; needed when there are several")
    parser.add_argument("--add", action="store_true", help="let no key leave")
    parser.add_argument("--threshold", type=int, default=0, metavar="N", help="signatures needed from now on")


def describe_revoke(parser: argparse.ArgumentParser) -> None:
    """The key."""
    parser.add_argument("keyid", metavar="KEYID", help="its first digits will do")


def describe_renew(parser: argparse.ArgumentParser) -> None:
    """The roles."""
    parser.add_argument("roles", nargs="*", metavar="ROLE", help="these, whenever they end")
    parser.add_argument("--within", type=int, default=30, metavar="DAYS", help="what ends so soon (default 30)")


def describe_status(parser: argparse.ArgumentParser) -> None:
    """How it is shown."""
    parser.add_argument("--json", action="store_true", help="one JSON object per role and version")


def describe_publish(parser: argparse.ArgumentParser) -> None:
    """The mirror."""
    parser.add_argument("to", metavar="DIR|s3://BUCKET/PREFIX", help="what devices fetch from")
    parser.add_argument("--endpoint-url", metavar="URL", help="of S3-compatible storage that is not AWS")


def describe_nothing(_: argparse.ArgumentParser) -> None:
    """The verb has no options of its own."""


def _percent(text: str) -> int:
    if not text.isdecimal() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text}: it must be a whole number from 0 to 100")
    return int(text)
