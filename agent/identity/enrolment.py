"""Enrolment: from a key to a certificate that was checked, by EST or by files; every step may be interrupted.

A request is written down before it is sent and sent again, the same, until it is answered, so that a restart goes on
where it was. A claim token is kept until the certificate lies on the disk, and then removed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509

from agent.credentials import credential
from agent.durable import sync_folder, write_durably
from agent.envelope.keyfiles import read_private, read_public
from agent.envelope.keys import SigningKey
from agent.errors import ConfigError, UplinkError
from agent.identity import keys
from agent.identity.certificate import Certified, Who, checked, describe, parse, pem
from agent.identity.est import Est, EstRefusedError, Pending, Proof
from agent.identity.slots import Pair, Slots

SIGNING_CERTIFICATE: Final = "signing.pem"
Anchors = Sequence[x509.Certificate]


class Purpose(Protocol):
    """One key whose certificate is enrolled and renewed."""

    def request(self) -> bytes: ...
    def take(self, found: Sequence[x509.Certificate], anchors: Anchors) -> Certified: ...
    def current(self) -> Certified | None: ...


@dataclass(frozen=True, slots=True)
class TlsEnrolment:
    """The TLS pair: a new key with every request, in the slot that is not in use."""

    slots: Slots
    who: Who
    now_s: Callable[[], float] = time.time

    def request(self) -> bytes:
        """The request (PEM) under way, or a new one with a new key. Raises ConfigError."""
        under_way = self.slots.request()
        if under_way is not None:
            return under_way[1]
        key = keys.new_tls_key()
        request = keys.make_request(keys.private_of(key, self.slots.folder), self.who, for_tls=True)
        self.slots.begin(key, request)
        return request

    def take(self, found: Sequence[x509.Certificate], anchors: Anchors) -> Certified:
        """Check the certificate for the request under way and put it into its slot. Raises ConfigError."""
        under_way = self.slots.request()
        if under_way is None:
            raise ConfigError(f"{self.slots.folder}: no request is under way: make one with 'limpet enroll --csr-out'")
        slot, _, public = under_way
        chain = checked(found, public, self.who, anchors, self.now_s(), for_tls=True)
        self.slots.fill(slot, pem(chain))
        return describe(chain[0])

    def current(self) -> Certified | None:
        """The certificate in use, or None before the first enrolment. Raises ConfigError."""
        active = self.slots.state().active
        return None if active is None else self.slots.certified(active)


@dataclass(frozen=True, slots=True)
class SigningEnrolment:
    """The signing key's certificate, beside the slots. The key stays: readers may have listed it."""

    folder: Path
    key: SigningKey
    who: Who
    now_s: Callable[[], float] = time.time

    @property
    def certificate(self) -> Path:
        """Where it lies."""
        return self.folder / SIGNING_CERTIFICATE

    def request(self) -> bytes:
        """A request (PEM) for the signing key. Raises ConfigError."""
        return keys.make_request(self._private(), self.who, for_tls=False)

    def take(self, found: Sequence[x509.Certificate], anchors: Anchors) -> Certified:
        """Check the certificate and put it in the place of the last one. Raises ConfigError."""
        public = keys.public_bytes(self._private())
        chain = checked(found, public, self.who, anchors, self.now_s(), for_tls=False)
        try:
            write_durably(self.certificate, pem(chain), 0o600)
        except OSError as exc:
            raise ConfigError(f"{self.certificate}: {exc.strerror}: the agent's user must own the folder") from exc
        return describe(chain[0])

    def current(self) -> Certified | None:
        """The certificate in use, or None before the first enrolment. Raises ConfigError."""
        if not _exists(self.certificate):
            return None
        return describe(parse(read_public(self.certificate), str(self.certificate))[0])

    def _private(self) -> keys.Private:
        return keys.private_of(self.key.pem(), self.folder)


@dataclass(frozen=True, slots=True)
class NamedCertificate:
    """A certificate that limpet.toml names and the operator renews: it is looked at and never asked for."""

    path: Path

    def request(self) -> bytes:
        """Raises ConfigError."""
        raise ConfigError(f"{self.path}: is renewed by hand: put a new one in its place")

    def take(self, found: Sequence[x509.Certificate], anchors: Anchors) -> Certified:
        """Raises ConfigError."""
        raise ConfigError(f"{self.path}: is renewed by hand: {len(found)} certificates are not taken")

    def current(self) -> Certified | None:
        """The certificate as it stands. Raises ConfigError."""
        return describe(parse(read_public(self.path), str(self.path))[0])


def enrol(purpose: Purpose, est: Est, proofs: Sequence[Proof], anchors: Anchors) -> Certified | Pending:
    """Have the request of `purpose` certified by EST, with the first of `proofs` that the server accepts.

    Without `anchors` the server's own authorities count, which are as good as the anchor that vouches for the server.
    Raises UplinkError or ConfigError; the request stays for the next try.
    """
    refused: UplinkError | None = None
    der, _ = keys.request_der(purpose.request(), Path("request"))
    for proof in proofs:
        try:
            issuers = anchors or est.authorities(proof)
            answer = est.enroll(der, proof, again=proof.pair is not None and purpose.current() is not None)
        except EstRefusedError as exc:
            refused = exc
            continue
        return answer if isinstance(answer, Pending) else purpose.take(answer, issuers)
    raise refused or ConfigError("EST: nothing proves this device to the server: give a claim token (--token-file)")


def load_anchors(path: Path | None) -> tuple[x509.Certificate, ...]:
    """The authorities in a file, none when no file is named. Raises ConfigError: unreadable is never taken for none."""
    return () if path is None else parse(read_public(path), f"[identity] {path}")


def read_token(path: Path | None) -> str | None:
    """The claim token, None when there is none (any more). Raises ConfigError for one open to others or not a line."""
    if path is None or not _exists(credential(path) or path):
        return None
    text = read_private(path).decode(errors="replace").strip()
    if not text or not text.isprintable():
        raise ConfigError(f"{path}: must hold the claim token in one line: 'name:secret' or a single word")
    return text


def spend_token(path: Path | None) -> bool:
    """Remove the claim token after the enrolment; False when it lies where this user may not write."""
    if path is None:
        return True
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def pair_in_use(slots: Slots) -> Pair | None:
    """The pair that proves this device now, if any. Raises ConfigError."""
    active = slots.state().active
    return None if active is None else slots.pair(active)


def _exists(path: Path) -> bool:
    """False for a file that is not there. Raises ConfigError when that cannot be seen."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be looked at: {exc.strerror}: let this user read its folder") from exc
    return True
