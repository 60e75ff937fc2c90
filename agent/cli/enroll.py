"""`limpet enroll`: make this device's keys on the device and have them certified, by EST or by files.

Three keys of one purpose each: TLS (limpet.toml [identity] folder), signing and receiving encrypted models (--keys).
What is there already is kept: run it again after an interruption, and it goes on where it was. Without an EST server:
`--csr-out F`, have the request in F certified, then `--certificate F`.
"""

import argparse
import contextlib
import os
import pwd
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.cli.options import Commands, add_config
from agent.config import Config, load_config
from agent.credentials import FOLDER
from agent.envelope.keyfiles import read_public
from agent.envelope.keys import SigningKey
from agent.errors import ConfigError
from agent.identity import (
    Certified,
    Est,
    Pending,
    Proof,
    Purpose,
    SigningEnrolment,
    Slots,
    TlsEnrolment,
    Who,
    enrol,
    keys,
    load_anchors,
    pair_in_use,
    read_token,
    spend_token,
)
from agent.identity.certificate import parse


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("enroll", help="make this device's keys and have them certified", description=__doc__)
    add_config(parser)
    parser.add_argument("--keys", type=Path, metavar="DIR", help="folder of the signing and the model key (default: "
                        "/etc/credstore when run as root there, else the [identity] folder)")  # fmt: skip
    parser.add_argument("--algorithm", choices=("ed25519", "es256"), default="ed25519", help="of a new signing key")
    parser.add_argument("--user", help="who shall own the [identity] folder: the agent's user, when run as root")
    parser.add_argument("--purpose", choices=("tls", "signing"), default="tls", help="for --csr-out and --certificate")
    parser.add_argument("--csr-out", type=Path, metavar="FILE", help="write the certificate request (PKCS#10, PEM)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="take the certificate for that request")
    parser.add_argument("--authority", type=Path, metavar="FILE", help="who may issue it, instead of [identity]'s")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="claim token, instead of [identity]'s")
    parser.add_argument("--wait", type=float, default=600.0, metavar="S", help="how long to wait for a server that "
                        "answers later, seconds (default %(default)g)")  # fmt: skip
    parser.add_argument("--renew", action="store_true", help="ask the EST server for a new certificate now")


@dataclass(frozen=True, slots=True)
class _Desk:
    """What one call of the command works with."""

    config: Config
    slots: Slots
    signing_key: Path
    model_key: Path
    authority: Path | None
    token_file: Path | None
    user: pwd.struct_passwd | None

    def purpose(self, name: str) -> Purpose:
        device = self.config.device
        who = Who.of(device.site, device.name, self.config.identity.common_name)
        if name == "tls":
            return TlsEnrolment(self.slots, who)
        return SigningEnrolment(self.slots.folder, SigningKey.load(self.signing_key), who)

    @contextlib.contextmanager
    def as_owner(self) -> Iterator[None]:
        """Touch the folder as the user who owns it: root would follow what that user left there."""
        if self.user is None:
            yield
            return
        os.setgroups([self.user.pw_gid])
        os.setegid(self.user.pw_gid)
        os.seteuid(self.user.pw_uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)

    def who_may(self, path: Path) -> contextlib.AbstractContextManager[None]:
        """The owner of the folder for what lies in it, else who called."""
        return self.as_owner() if self.slots.folder in path.parents else contextlib.nullcontext()


def run(args: argparse.Namespace) -> int:
    """Make what is missing, then ask, or take. Raises ConfigError or UplinkError."""
    desk = _desk(args)
    _make_keys(desk, args.algorithm)
    if args.csr_out is not None:
        return _write_request(desk, args.purpose, args.csr_out)
    if args.certificate is not None:
        return _take(desk, args.purpose, args.certificate)
    if not desk.config.identity.est:
        print("no EST server in [identity] est: 'limpet enroll --csr-out FILE' writes a request to be certified")
        return 0
    return _enrol(desk, renew=args.renew, wait_s=args.wait)


def _desk(args: argparse.Namespace) -> _Desk:
    config = load_config(args.config)
    identity = config.identity
    folder = args.keys or _credstore() or identity.folder
    named = (config.envelope.signing_key, folder / keys.SIGNING_KEY), (
        config.updates.decryption_key, folder / keys.MODEL_KEY,
    )  # fmt: skip
    signing, model = (there if there is not None and there.exists() else fresh for there, fresh in named)
    token = args.token_file or identity.token_file
    return _Desk(config, Slots(identity.folder), signing, model, args.authority or identity.authority, token,
                 _user(args.user, identity.folder))  # fmt: skip


def _credstore() -> Path | None:
    folder = os.environ.get(FOLDER)
    return Path(folder) if folder and os.access(folder, os.W_OK) else None


def _user(name: str | None, folder: Path) -> pwd.struct_passwd | None:
    """The owner of `folder`, which is made when it is missing. Raises ConfigError."""
    if name is None or os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(name)
        for missing in [f for f in (*reversed(folder.parents), folder) if not f.exists()]:
            missing.mkdir(mode=0o700)
            os.chown(missing, user.pw_uid, user.pw_gid, follow_symlinks=False)
    except KeyError as exc:
        raise ConfigError(f"--user {name}: there is no such user: run tools/install.sh first") from exc
    except OSError as exc:
        raise ConfigError(f"{folder}: cannot be made: {exc.strerror}") from exc
    return user


def _make_keys(desk: _Desk, algorithm: keys.Algorithm) -> None:
    with desk.as_owner():
        desk.slots.prepare()
    with desk.who_may(desk.signing_key):
        signing = keys.ensure_signing_key(desk.signing_key, algorithm)
    with desk.who_may(desk.model_key):
        model = keys.ensure_model_key(desk.model_key)
    with desk.as_owner():
        signing_pub = keys.publish(desk.slots.folder / "signing.pub", signing)
        model_pub = keys.publish(desk.slots.folder / "model.pub", model)
    print(f"signing key {signing.key_id.hex()}: {desk.signing_key}; readers get {signing_pub}")
    print(f"model key   {model.key_id.hex()}: {desk.model_key}; who encrypts models gets {model_pub}")


def _write_request(desk: _Desk, name: str, path: Path) -> int:
    purpose = desk.purpose(name)
    with desk.as_owner():
        request = purpose.request()
    try:
        path.write_bytes(request)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}: name a file that can be written") from exc
    print(f"{path}: certificate request; then: limpet enroll --purpose {name} --certificate FILE")
    return 0


def _take(desk: _Desk, name: str, path: Path) -> int:
    anchors = load_anchors(desk.authority)
    if not anchors:
        raise ConfigError("who may issue the certificate? Set [identity] authority, or give --authority FILE")
    found, purpose = parse(read_public(path), str(path)), desk.purpose(name)
    with desk.as_owner():
        _say_taken(name, purpose.take(found, anchors))
    return 0


def _enrol(desk: _Desk, *, renew: bool, wait_s: float) -> int:
    until_s = time.monotonic() + wait_s
    for name in ("tls", "signing") if desk.config.identity.certify_signing else ("tls",):
        purpose = desk.purpose(name)
        with desk.as_owner():
            current = purpose.current()
        if current is not None and not renew and current.not_after_s > time.time():
            print(f"{name} certificate of {current.common_name}: valid until {current.until()}; --renew asks anew")
            continue
        if not _enrol_one(desk, name, purpose, until_s):
            return 1
    if not spend_token(desk.token_file):
        print(f"{desk.token_file}: the claim token could not be removed: it is not needed any more, remove it")
    return 0


def _enrol_one(desk: _Desk, name: str, purpose: Purpose, until_s: float) -> bool:
    """Ask until the server has answered or the time is up; False then."""
    identity, token, anchors = desk.config.identity, read_token(desk.token_file), load_anchors(desk.authority)
    est = Est(identity.est, identity.est_ca_file or Path())
    while True:
        with desk.as_owner():
            outcome = enrol(purpose, est, _proofs(desk.slots, token), anchors)
        if isinstance(outcome, Certified):
            _say_taken(name, outcome)
            return True
        if not _wait(outcome, until_s):
            return False


def _wait(pending: Pending, until_s: float) -> bool:
    left_s = until_s - time.monotonic()
    if left_s < pending.retry_after_s:
        print(f"the server has the request and answers in {pending.retry_after_s:.0f} s or later: run this again then")
        return False
    print(f"the server has the request; asking again in {pending.retry_after_s:.0f} s")
    time.sleep(pending.retry_after_s)
    return True


def _proofs(slots: Slots, token: str | None) -> Sequence[Proof]:
    pair = pair_in_use(slots)
    proofs = [Proof(pair=pair)] if pair is not None else []
    return [*proofs, Proof(token=token)] if token is not None or not proofs else proofs


def _say_taken(name: str, taken: Certified) -> None:
    print(f"{name} certificate of {taken.common_name}, issued by {taken.issuer}: valid until {taken.until()}")
