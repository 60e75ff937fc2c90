"""`limpet keys`: make the keys of a device, a reader or a technician, and show the id of one.

The private half is written once, mode 0600, and never shown or overwritten; the public half lies beside it, to be
given to the other side: a device's .pub to its readers, a reader's .pub to its devices.
"""

import argparse
from pathlib import Path

from agent.cli.options import Commands
from agent.envelope.keyfiles import read_public, write_private, write_public
from agent.envelope.keys import EDDSA, ES256, ReaderKey, ReaderPublic, SigningKey, VerifyKey, spki
from agent.errors import ConfigError

_ALGORITHMS = {"ed25519": EDDSA, "es256": ES256}
_OTHER_SIDE = {
    "device": "the readers of this device",
    "reader": "the devices that shall seal for it",
    "technician": "whoever lists the technicians of your devices",
}


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("keys", help="make keys for a device, a reader or a technician", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make a key pair", description="Make <name>.key (private) and <name>.pub.")
    new.add_argument("role", choices=tuple(_OTHER_SIDE), help="device and technician sign, a reader opens")
    new.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder, made if missing (default: this)")
    new.add_argument("--name", help="name of the files (default: the role)")
    new.add_argument("--algorithm", choices=tuple(_ALGORITHMS), default="ed25519", help="of a signing key")
    show = actions.add_parser("id", help="show the id of a public key", description="Print role, id and file.")
    show.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a .pub file")


def run(args: argparse.Namespace) -> int:
    """Make a pair, or show ids. Raises ConfigError."""
    if args.action == "new":
        return _new(args.role, args.out, args.name or args.role, _ALGORITHMS[args.algorithm])
    for path in args.files:
        role, key_id = _identify(path)
        print(f"{role} {key_id.hex()} {path}")
    return 0


def _new(role: str, folder: Path, name: str, algorithm: int) -> int:
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"--name {name}: it must be a plain file name, without a folder")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{folder}: cannot be made: {exc.strerror}") from exc
    key = SigningKey.generate(algorithm) if role != "reader" else ReaderKey.generate()
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    write_private(private, key.pem())
    write_public(public, spki(key.public.public, pem=True))
    print(f"{private}: private key of the {role}, keep it here")
    print(f"{public}: public key, id {key.public.key_id.hex()}, give it to {_OTHER_SIDE[role]}")
    return 0


def _identify(path: Path) -> tuple[str, bytes]:
    data = read_public(path)
    try:
        return "signing", VerifyKey.from_bytes(data, str(path)).key_id
    except ConfigError:
        return "reader", ReaderPublic.from_bytes(data, str(path)).key_id
