"""Who may ask, who may read, and whose key is void: the three lists that travel as targets.

A list is whole: who is not in the newest one has no right any more. A public key stands as SubjectPublicKeyInfo (DER)
in base64; what kind of key it is, the code that uses it checks.
"""

import base64
import binascii
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated, Final, Literal

from agent.package.document import read, write
from agent.package.names import KeyId
from agent.settings.names import NAME
from agent.strict import Match, Range

TRUST_LIMIT_BYTES: Final = 1 << 20
Role = Literal["viewer", "technician", "admin"]
Scope = Annotated[
    tuple[Annotated[str, Match(rf"\*|{NAME}", 'a name, or "*" for all')], ...], Range(1, 4096)
]
Public = Annotated[str, Range(1, 1024)]
Title = Annotated[str, Range(0, 200)]


@dataclass(frozen=True, slots=True)
class Technician:
    """A key that may send requests, and how far."""

    public: Public
    role: Role
    name: Title
    sites: Scope
    devices: Scope
    not_after: Annotated[int, Range(0, 1 << 53)] | None = None
    """Seconds since 1970; None: no end."""

    def __post_init__(self) -> None:
        _decoded(self.public)

    @property
    def spki(self) -> bytes:
        return _decoded(self.public)

    @property
    def kid(self) -> str:
        """The key's id, 16 hex digits."""
        return _key_id(self.public)

    def covers(self, site: str, device: str) -> bool:
        """Whether this entry is about that device."""
        return _covers(self.sites, site) and _covers(self.devices, device)


@dataclass(frozen=True, slots=True)
class Reader:
    """A key that events are sealed for, and of which devices."""

    public: Public
    name: Title
    sites: Scope
    devices: Scope

    def __post_init__(self) -> None:
        _decoded(self.public)

    @property
    def spki(self) -> bytes:
        return _decoded(self.public)

    @property
    def kid(self) -> str:
        """The key's id, 16 hex digits."""
        return _key_id(self.public)

    def covers(self, site: str, device: str) -> bool:
        """Whether that device seals for this reader."""
        return _covers(self.sites, site) and _covers(self.devices, device)


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A key that is void from now on: a technician's, a reader's, or a device's."""

    kid: KeyId
    reason: Title = ""


@dataclass(frozen=True, slots=True)
class Technicians:
    """trust/technicians.json."""

    keys: Annotated[tuple[Technician, ...], Range(0, 4096)]

    def __post_init__(self) -> None:
        _refuse_doubles([key.kid for key in self.keys])

    @classmethod
    def decode(cls, data: bytes, what: str = "trust/technicians.json") -> "Technicians":
        """Raises UpdateError (VERIFY_FAILED)."""
        return read(cls, data, TRUST_LIMIT_BYTES, what)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return write(asdict(self))


@dataclass(frozen=True, slots=True)
class Readers:
    """trust/readers.json."""

    readers: Annotated[tuple[Reader, ...], Range(0, 4096)]

    def __post_init__(self) -> None:
        _refuse_doubles([reader.kid for reader in self.readers])

    @classmethod
    def decode(cls, data: bytes, what: str = "trust/readers.json") -> "Readers":
        """Raises UpdateError (VERIFY_FAILED)."""
        return read(cls, data, TRUST_LIMIT_BYTES, what)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return write(asdict(self))


@dataclass(frozen=True, slots=True)
class Revoked:
    """trust/revoked.json."""

    keys: Annotated[tuple[RevokedKey, ...], Range(0, 16384)]

    @property
    def kids(self) -> frozenset[str]:
        """The ids of all void keys."""
        return frozenset(key.kid for key in self.keys)

    @classmethod
    def decode(cls, data: bytes, what: str = "trust/revoked.json") -> "Revoked":
        """Raises UpdateError (VERIFY_FAILED)."""
        return read(cls, data, TRUST_LIMIT_BYTES, what)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return write(asdict(self))


def public_text(spki: bytes) -> str:
    """A public key (SubjectPublicKeyInfo, DER) as the lists hold it."""
    return base64.b64encode(spki).decode()


def _decoded(public: str) -> bytes:
    try:
        return base64.b64decode(public, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"public key '{public[:24]}' is not base64") from exc


def _key_id(public: str) -> str:
    return hashlib.sha256(_decoded(public)).hexdigest()[:16]


def _covers(names: tuple[str, ...], name: str) -> bool:
    return "*" in names or name in names


def _refuse_doubles(kids: list[str]) -> None:
    """One key with two roles would leave it open which counts."""
    kid, times = max(Counter(kids).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise ValueError(f"key {kid} stands twice in the list")
