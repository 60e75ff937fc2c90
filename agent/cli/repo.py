"""`limpet repo`: make and keep a repository of signed updates, and publish it.

Every verb changes drafts, publishes inside the repository what has its signatures, and says who is missing for the
rest. Nothing leaves this machine before `limpet repo publish`. docs/repository.md walks through all of it.
"""

import argparse
import datetime as dt
import getpass
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from agent.cli import repo_options as options
from agent.cli.options import Commands
from agent.cli.terminal import aligned, counted, fleeting
from agent.envelope.keys import ReaderPublic
from agent.errors import ConfigError
from agent.package import Kind
from agent.repository.keyring import Keyring
from agent.repository.lists import layer, trust_list
from agent.repository.mirror import FolderMirror, Mirror, publish
from agent.repository.modules import short
from agent.repository.proof import prove
from agent.repository.publisher import KeyPlan, Outcome, Publisher
from agent.repository.s3 import S3Mirror
from agent.repository.standing import family_rows, role_rows
from agent.repository.workspace import Lifetimes, Workspace


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("repo", help="make, sign and publish a repository of updates", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (_, words, describe) in _VERBS.items():
        one = verbs.add_parser(verb, help=words, description=words[0].upper() + words[1:] + ".")
        if verb != "init":
            one.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="the repository (default: here)")
        one.add_argument("--keys", type=Path, action="append", default=[], metavar="DIR", help="look for keys here too")
        one.add_argument("--passphrase-file", type=Path, metavar="FILE", help="passphrase of key files, first line")
        if verb in {"init", "rotate"}:
            one.add_argument("--ask-passphrase", action="store_true", help="ask for one for the key files to be made")
        describe(one)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when something waits for signatures."""
    now = dt.datetime.now(dt.UTC)
    given = _first_line(args.passphrase_file) if args.passphrase_file else None
    keyring = Keyring(tuple(args.keys), ask=_ask, passphrase=given, new_passphrase=_new_passphrase(args) or given)
    if args.verb == "init":
        publisher = _init(args, keyring, now)
        with publisher.workspace.held():
            return _told(publisher.finish())
    workspace = Workspace(args.repo)
    with workspace.held():
        publisher = Publisher(workspace, keyring, now)
        status = _VERBS[args.verb][0](publisher, args)
        return status if status is not None else _told(publisher.finish())


# -- the verbs: each drafts something, or returns an exit status


def _init(args: argparse.Namespace, keyring: Keyring, now: dt.datetime) -> Publisher:
    plans = {}
    for role in (*options.OFFLINE, *options.ONLINE):
        given = tuple(getattr(args, f"{role}_key"))
        make = getattr(args, f"{role}_keys")
        count = make if make is not None else 0 if given else 1
        plans[role] = KeyPlan(count, getattr(args, f"{role}_threshold"), given, args.algorithm)
    days = Lifetimes(args.root_days, args.targets_days, args.snapshot_days, args.timestamp_days)
    publisher = Publisher.create(Workspace(args.directory), keyring, plans, days, now)
    print(f"{args.directory}: a repository, its keys in {publisher.workspace.keys}")
    print(f"give devices {publisher.workspace.anchor} as their trust anchor ([updates] root)")
    return publisher


def _add(publisher: Publisher, args: argparse.Namespace) -> None:
    recipients = [ReaderPublic.load(path) for path in args.seal_for]
    proven = prove(args.folder, tuple(args.include), goldens=args.selftest)
    for words in proven.unproven:
        print(f"golden inputs not run: {words}")
    made = publisher.add_model(proven, recipients)
    sealed = f", sealed for {counted(len(recipients), 'key')}" if recipients else ""
    print(f"added {made}: {counted(len(made.files), 'file')}, {made.stored_bytes} bytes{sealed}")
    for entry in made.files:
        if entry.sealed is not None and (publisher.workspace.blobs / entry.sha256).exists():
            print(f"{entry.path} is no secret: the same file lies here unencrypted, from a version that was not sealed")
    _maybe_release(publisher, "model", made.name, made.version, args)


def _add_agent(publisher: Publisher, args: argparse.Namespace) -> None:
    made = publisher.add_agent(args.folder, args.version)
    print(f"added {made}: {counted(len(made.files), 'file')}, {made.stored_bytes} bytes")
    _maybe_release(publisher, "agent", made.name, made.version, args)


def _maybe_release(publisher: Publisher, kind: Kind, name: str, version: str, args: argparse.Namespace) -> None:
    if args.channel:
        publisher.release(kind, name, version, args.channel, args.rollout)
        print(f"released {name} {version} in {args.channel} to {args.rollout} %")
    else:
        print(f"offered nowhere yet: limpet repo release {name} {version} --channel stable")


def _release(publisher: Publisher, args: argparse.Namespace) -> None:
    pointer = publisher.release(_kind(args.name), args.name, args.version, args.channel, args.rollout)
    offers = ", ".join(f"{one.version} to {one.rollout_percent} %" for one in pointer.releases)
    print(f"{args.name} {args.channel}: {offers}")
    if args.version not in (one.version for one in pointer.releases):
        print(f"{args.version} is offered to nobody: a newer version goes to all; limpet repo withdraw takes it away")


def _withdraw(publisher: Publisher, args: argparse.Namespace) -> None:
    publisher.withdraw(_kind(args.name), args.name, args.version)
    print(f"withdrew {args.name} {args.version}; devices that run it go on")


def _trust(publisher: Publisher, args: argparse.Namespace) -> None:
    path, data = trust_list(args.list, tuple(args.files))
    publisher.put(path, data)
    print(f"{path}: {len(data)} bytes; this list replaces the one before")


def _config(publisher: Publisher, args: argparse.Namespace) -> None:
    for file in args.files:
        if args.remove:
            publisher.drop(f"config/{file.name}")
        else:
            publisher.put(*layer(file))
        print(f"config/{file.name}: {'removed' if args.remove else 'signed'}")


def _sign(publisher: Publisher, _: argparse.Namespace) -> None:
    added = publisher.sign()
    for role, count in added.items():
        print(f"{role}: {count} signatures added")
    if added and not any(added.values()):
        print("none of the missing keys is at hand: a key is NAME.key with its NAME.pub beside it, in --keys DIR")
    if not added:
        print("nothing waits for signatures")


def _rotate(publisher: Publisher, args: argparse.Namespace) -> None:
    key = publisher.rotate(args.role, args.key or "", args.old or "", add=args.add, threshold=args.threshold)
    print(f"{args.role}: new key {short(key.keyid)}")


def _revoke(publisher: Publisher, args: argparse.Namespace) -> None:
    roles = publisher.revoke(args.keyid)
    print(f"key {args.keyid} signs no more for {', '.join(roles)}")


def _renew(publisher: Publisher, args: argparse.Namespace) -> None:
    due = publisher.renew(args.roles, args.within)
    print(f"renewed: {', '.join(due)}" if due else f"nothing ends within {args.within} days")


def _refresh(publisher: Publisher, _: argparse.Namespace) -> int:
    waiting = publisher.finish().waiting
    return _told(Outcome(waiting, publisher.refresh()))


def _status(publisher: Publisher, args: argparse.Namespace) -> int:
    roles, families = list(role_rows(publisher)), list(family_rows(publisher))
    if args.json:
        for row in (*roles, *families):
            print(json.dumps(row))
    else:
        _table(roles, ("role", "version", "ends_in_days", "threshold", "keys", "pending"))
        print("* the private half is at hand\n")
        _table(families, ("family", "version", "bytes", "sealed_for", "offered"))
    return 0


def _publish(publisher: Publisher, args: argparse.Namespace) -> int:
    waiting = publisher.finish().waiting
    mirror: Mirror = FolderMirror(Path(args.to))
    if args.to.startswith("s3://"):
        mirror = S3Mirror(args.to, args.endpoint_url)
    done = publish(publisher.roles, mirror, _progress)
    fleeting()
    print(f"wrote {counted(done.written, 'file')}, {done.written_bytes} bytes, to {args.to}")
    print(f"read back {done.targets} targets as a device does; all {done.blobs} blobs are there")
    return _told(Outcome(waiting, fresh=True))


_Verb = tuple[Callable[..., int | None], str, Callable[[argparse.ArgumentParser], None]]
_VERBS: Mapping[str, _Verb] = {
    "init": (lambda *_: None, "make a repository, its keys and its trust anchor", options.describe_init),
    "add": (_add, "add a model folder as a version", options.describe_add),
    "add-agent": (_add_agent, "add a release of the agent itself", options.describe_add_agent),
    "release": (_release, "offer a version in a channel, to a share of the fleet", options.describe_release),
    "withdraw": (_withdraw, "offer a version nowhere any more", options.describe_version),
    "trust": (_trust, "sign the list of technicians, readers or revoked keys", options.describe_trust),
    "config": (_config, "sign configuration layers", options.describe_config),
    "sign": (_sign, "add the signatures of the keys at hand to what waits", options.describe_nothing),
    "rotate": (_rotate, "give a role a new key", options.describe_rotate),
    "revoke": (_revoke, "take a key out of every role", options.describe_revoke),
    "renew": (_renew, "sign roles anew that end soon", options.describe_renew),
    "refresh": (_refresh, "make a new snapshot and timestamp with the online keys", options.describe_nothing),
    "status": (_status, "show roles, keys, ends, versions and channels", options.describe_status),
    "publish": (_publish, "bring a mirror up to date, and check it", options.describe_publish),
}


# -- talking


def _told(outcome: Outcome) -> int:
    """Say what is missing; 1 when anything is."""
    for w in outcome.waiting:
        by = f" by the keys of the {w.by} root" if w.by else ""
        missing = ", ".join(map(short, w.missing))
        print(f"{w.role} {w.version} waits: {w.signed} of {w.threshold} signatures{by}; missing {missing}")
    if outcome.waiting:
        print("to sign it, where those keys are: limpet repo sign --keys DIR")
    if not outcome.fresh:
        print("snapshot and timestamp are behind: run 'limpet repo refresh' where their keys are")
    return 1 if outcome.waiting or not outcome.fresh else 0


def _kind(name: str) -> Kind:
    return "agent" if name == "agent" else "model"


def _ask(what: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"{what} is needed and there is no terminal to ask at: give --passphrase-file")
    return getpass.getpass(f"{what}: ")


def _new_passphrase(args: argparse.Namespace) -> bytes | None:
    """One that was typed twice, if that was asked for."""
    if not getattr(args, "ask_passphrase", False):
        return None
    words = _ask("the new passphrase")
    if not words or words != _ask("the same again"):
        raise ConfigError("the passphrase is empty, or was not the same twice: no key was made")
    return words.encode()


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            words = file.readline(4096).rstrip(b"\r\n")
    except OSError as exc:
        raise ConfigError(f"{path}: the passphrase cannot be read: {exc.strerror}") from exc
    if not words:
        raise ConfigError(f"{path}: the passphrase is empty")
    return words


def _progress(path: str, size_bytes: int) -> None:
    fleeting(f"{path} {size_bytes} bytes")


def _table(rows: Iterable[Mapping[str, object]], columns: tuple[str, ...]) -> None:
    texts = [[_cell(row[column]) for column in columns] for row in rows]
    for line in aligned([columns, *texts]) if texts else ():
        print(line)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value is None or value in ("", 0) else str(value)
