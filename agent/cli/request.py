"""`limpet request`: ask devices for something, signed, and show how far each has come until it is done.

A device that is away takes the request when it comes back, as long as it has not expired; who leaves can look again
with `limpet request follow`. Exit status: 0 every device did it, 1 one did not, or did not answer in time.
"""

import argparse
import json
import os
import secrets
import signal
import sys
import threading
import time
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.broker import Message
from agent.cli.options import Commands
from agent.cli.requestview import Lines, Page
from agent.cli.terminal import counted
from agent.cli.watch import DEFAULT_READER, NAMELESS_SESSION_S
from agent.clock import SystemClock
from agent.config import load_reader
from agent.durable import read_limited
from agent.envelope.setup import make_opener
from agent.envelope.topics import Topics
from agent.errors import ConfigError
from agent.reading import Connection, listen
from agent.request import Target, new_id
from agent.settings.reader import ReaderFile
from agent.settings.uplink import UplinkConfig
from agent.technician.asking import Asked, Round
from agent.technician.signing import Technician

SETTLE_S = 1.0
"""How long to wait after connecting for what devices retain (their nonces and keys), seconds."""
DEVICES_LIMIT_BYTES = 1 << 20


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("request", help="ask devices to update, roll back, ...; signed", description=__doc__)
    verbs = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    for name, words, options in _OPERATIONS:
        verb = verbs.add_parser(name, help=words, description=words)
        for flags, settings in options:
            verb.add_argument(*flags, **settings)
        _add_common(verb)


_MODEL = (("--model",), {"required": True, "metavar": "M", "help": "name of the model"})
_VERSION = (("--version",), {"metavar": "V", "help": "this version (default: what the device's channel offers)"})
_OPERATIONS: tuple[tuple[str, str, tuple[tuple[tuple[str, ...], dict[str, Any]], ...]], ...] = (
    ("update", "take a signed version of a model, prove it, keep it or go back", (_MODEL, _VERSION)),
    ("rollback", "go back to the version before", (_MODEL,)),
    ("pin", "keep the version that runs until it is unpinned", (_MODEL,)),
    ("unpin", "take updates again", (_MODEL,)),
    ("set-config", "change settings; the device goes back by itself when it is not well with them",
     ((("file",), {"type": Path, "nargs": "?", "metavar": "FILE", "help": "TOML with the settings to change"}),
      (("--unset",), {"action": "append", "metavar": "KEY", "help": "no longer change this key or table; '*': none"}),
      (("--deadline",), {"type": float, "metavar": "S", "help": "time to show itself well, seconds"}))),
    ("snapshot", "one picture, clip or window of a source, now", (
        (("--source",), {"required": True, "metavar": "S", "help": "name of the source"}),
        (("--seconds",), {"type": float, "metavar": "N", "help": "length of a clip or window"}),
        (("--save",), {"type": Path, "metavar": "FILE", "help": "write the picture or clip here"}),
    )),
    ("restart", "end the agent cleanly; systemd starts it again", ()),
    ("collect-diagnostics", "status, versions and the newest log lines", ()),
    ("ping", "whether requests arrive and are believed", ()),
    ("cancel", "stop a command that has not been activated yet",
     ((("--id",), {"required": True, "dest": "request_id", "metavar": "ID", "help": "id of the command to stop"}),)),
    ("follow", "ask nothing: show what becomes of an earlier request", (
        (("--id",), {"required": True, "dest": "request_id", "metavar": "ID", "help": "its id"}),
        (("--of",), {"required": True, "metavar": "OPERATION", "help": "what it asked for"}),
    )),
)  # fmt: skip


def _add_common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", action="append", default=[], metavar="[SITE/]D", help="a device; may be repeated")
    verb.add_argument("--devices", type=Path, metavar="FILE", help="a list of devices, one a line")
    verb.add_argument("--reader", type=Path, default=DEFAULT_READER, help="reader.toml (default %(default)s)")
    verb.add_argument("--expires", type=int, metavar="SECONDS", help="how long an absent device may still take it")
    verb.add_argument("--parallel", type=int, default=10, metavar="N", help="devices at a time (default %(default)s)")
    verb.add_argument("--abort-after", type=int, default=1, metavar="N", help="failures that stop the rest (default 1)")
    verb.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="stop watching after this")
    verb.add_argument("--no-wait", action="store_true", help="leave when the broker has every request")
    verb.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    verb.add_argument("--json", action="store_true", help="one JSON line per change")


def run(args: argparse.Namespace) -> int:
    """Ask, and show what becomes of it. Raises ConfigError."""
    file = load_reader(args.reader)
    targets = _targets(args, file)
    if args.dry_run:
        return _dry(args, file, targets)
    following = args.operation == "follow"
    sign = _mute if following else Technician(file.technician, _arguments(args), args.expires)
    round_ = Round(targets, sign, parallel=max(1, args.parallel), abort_after=max(1, args.abort_after))
    if following:
        round_.follow()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    view = Page(round_) if sys.stdout.isatty() and not args.json else Lines(round_, as_json=args.json)
    with view:
        for changed in _converse(round_, file, args, stop):
            view.tell(changed)
    return _outcome(round_, args)


def _mute(_target: Target, _nonce: bytes) -> Message:
    raise AssertionError("who only follows asks nothing")


def _converse(
    round_: Round, file: ReaderFile, args: argparse.Namespace, stop: threading.Event
) -> Iterator[Asked | None]:
    """Talk to the broker until everything is said; yields what has changed, None now and then."""
    clock, outgoing = SystemClock(), deque[Message]()
    sites = {(one.target.site, one.target.device) for one in round_.asked}
    tails = ("keys/+", "cmd/+/+", "twin/commands")
    topics = tuple(f"{Topics(*who).prefix}/{tail}" for who in sorted(sites) for tail in tails)
    client_id = f"limpet-request-{secrets.token_hex(4)}"
    until_s, ready_s = clock.mono_s() + args.timeout, None
    for said in listen(_brief(file), client_id, make_opener(file.reader), topics, stop, clock, outgoing):
        if isinstance(said, Connection):
            ready_s = clock.mono_s() + SETTLE_S if said.up else None
            if not said.up:
                print(f"limpet request: not connected: {said.reason}", file=sys.stderr)
        yield round_.take(said) if said is not None else None
        now_s = clock.mono_s()
        if ready_s is not None and now_s >= ready_s:
            outgoing.extend(round_.due())
            if round_.over or (args.no_wait and round_.delivered and not outgoing):
                return
        if now_s >= until_s:
            return


def _brief(file: ReaderFile) -> UplinkConfig:
    """The broker's settings with a session that is gone soon after we are."""
    return replace(file.broker, session_expiry_s=min(file.broker.session_expiry_s, NAMELESS_SESSION_S))


def _targets(args: argparse.Namespace, file: ReaderFile) -> tuple[Target, ...]:
    """One target per device, each with an id of its own. Raises ConfigError."""
    words = [*args.device, *(_listed(args.devices) if args.devices else ())]
    if not words:
        raise ConfigError("no device is named: give --device [SITE/]NAME, or --devices FILE")
    operation = args.of if args.operation == "follow" else args.operation
    made = []
    for word in dict.fromkeys(words):
        site, device = _device(word, file)
        fixed = args.request_id if args.operation == "follow" else ""
        made.append(Target(site, device, operation, fixed or new_id(time.time(), os.urandom(5))))
    return tuple(made)


def _listed(path: Path) -> list[str]:
    try:
        lines = read_limited(path, DEVICES_LIMIT_BYTES).decode().splitlines()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: the list of devices cannot be read: {exc}") from exc
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


def _device(word: str, file: ReaderFile) -> tuple[str, str]:
    """Site and device; the site may be left out when reader.toml knows only one device of that name."""
    site, _, device = word.rpartition("/")
    if site:
        return site, device
    sites = sorted({known.site for known in file.reader.device if known.device == device})
    sites = sites or ([file.reader.authority_site] if file.reader.authority_site else [])
    if len(sites) != 1:
        said = f"on the sites {', '.join(sites)}" if sites else "in no [[reader.device]] of reader.toml"
        raise ConfigError(f"device {device} is {said}: write SITE/{device}")
    return sites[0], device


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The operation's arguments as the device reads them. Raises ConfigError."""
    match args.operation:
        case "set-config":
            asked = {"set": args.file and _toml(args.file), "unset": args.unset, "deadline_s": args.deadline}
            return {key: value for key, value in asked.items() if value is not None}
        case "cancel":
            return {"id": args.request_id}
        case "snapshot":
            return {"source": args.source} | ({"seconds": args.seconds} if args.seconds else {})
        case "update":
            return {"model": args.model} | ({"version": args.version} if args.version else {})
        case "rollback" | "pin" | "unpin":
            return {"model": args.model}
    return {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_limited(path, 8192).decode())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: these settings cannot be read: {exc}") from exc


def _dry(args: argparse.Namespace, file: ReaderFile, targets: Sequence[Target]) -> int:
    """Say what would be sent; the counter is not used up."""
    arguments = _arguments(args)
    speaker = Technician(file.technician, arguments, args.expires)
    for target in targets:
        size = len(speaker.signed(target, b"", int(time.time() * 1000)))
        print(f"would send {size} bytes to {Asked(target).topic} {json.dumps(arguments)}")
    how = f"{args.parallel} at a time, until {args.abort_after} failed"
    print(f"{counted(len(targets), 'device')}, {how}; nothing was sent")
    return 0


def _outcome(round_: Round, args: argparse.Namespace) -> int:
    """The last word, and the exit status."""
    if args.operation == "snapshot" and args.save:
        _save(round_, args.save)
    open_ones = [one for one in round_.asked if one.phase in ("sent", "taken")]
    never = [one for one in round_.asked if one.phase == "waiting"]
    done = sum(one.ok for one in round_.asked)
    words = [f"{done} done", f"{round_.failures} failed"]
    words += [f"{len(open_ones)} still under way"] if open_ones else []
    words += [f"{len(never)} not asked"] if never else []
    print(f"limpet request: {', '.join(words)}", file=sys.stderr)
    for one in open_ones[:5]:
        target = one.target
        again = f"limpet request follow --of {target.operation} --id {target.id} --device {target.site}/{target.device}"
        print(f"look again with: {again}", file=sys.stderr)
    if args.no_wait:
        return 1 if round_.failures or never or not round_.delivered else 0
    return 0 if done == len(round_.asked) else 1


def _save(round_: Round, path: Path) -> None:
    """Write what a snapshot brought; one file per device when there are several."""
    for one in round_.asked:
        media = one.seen.detail.get("media") if one.ok and one.seen else None
        if isinstance(media, Mapping) and isinstance(media.get("data"), bytes):
            whose = path if len(round_.asked) == 1 else path.with_stem(f"{path.stem}-{one.target.device}")
            whose.write_bytes(media["data"])
            print(f"wrote {whose}", file=sys.stderr)
