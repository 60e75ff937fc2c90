"""Who may ask, who may read, and whose key is void: the three lists that travel as targets.

A list is whole: who is not in the newest one has no right any more. A public key stands as SubjectPublicKeyInfo (DER)
in base64; what kind of key it is, the code that uses it checks.
"""

import base64
import binascii
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Final, Literal, Self

from agent.package.document import read, write
from agent.package.names import READERS_PATH, REVOKED_PATH, TECHNICIANS_PATH, KeyId
from agent.settings.names import NAME
from agent.strict import Match, Range

TRUST_LIMIT_BYTES: Final = 1 << 20
Role = Literal["viewer", "technician", "admin"]
Scope = Annotated[
    tuple[Annotated[str, Match(rf"\*|{NAME}", 'a name, or "*" for all')], ...], Range(1, 4096)
]
Public = Annotated[str, Range(1, 1024)]
Title = Annotated[str, Range(0, 200)]


class _Entry:
    """A public key, and the devices that it is about."""

    __slots__ = ()
    public: Public
    sites: Scope
    devices: Scope

    def __post_init__(self) -> None:
        _decoded(self.public)

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return _decoded(self.public)

    @property
    def kid(self) -> str:
        """The key's id, 16 hex digits."""
        return hashlib.sha256(self.spki).hexdigest()[:16]

    def covers(self, site: str, device: str) -> bool:
        """Whether this entry is about that device."""
        return _covers(self.sites, site) and _covers(self.devices, device)


@dataclass(frozen=True, slots=True)
class Technician(_Entry):
    """A key that may send requests, and how far."""

    public: Public
    role: Role
    name: Title
    sites: Scope
    devices: Scope
    not_after: Annotated[int, Range(0, 1 << 53)] | None = None
    """Seconds since 1970; None: no end."""


@dataclass(frozen=True, slots=True)
class Reader(_Entry):
    """A key that events are sealed for, and of which devices."""

    public: Public
    name: Title
    sites: Scope
    devices: Scope


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A key that is void from now on: a technician's, a reader's, or a device's."""

    kid: KeyId
    reason: Title = ""


@dataclass(frozen=True, slots=True)
class _List:
    """A document of keys."""

    PATH: ClassVar[str]

    @classmethod
    def decode(cls, data: bytes, what: str = "") -> Self:
        """`what`: its name in errors, else where it lies among the targets. Raises UpdateError (VERIFY_FAILED)."""
        return read(cls, data, TRUST_LIMIT_BYTES, what or cls.PATH)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return write(asdict(self))


@dataclass(frozen=True, slots=True)
class Technicians(_List):
    """Who may ask."""

    PATH = TECHNICIANS_PATH
    keys: Annotated[tuple[Technician, ...], Range(0, 4096)]

    def __post_init__(self) -> None:
        _refuse_doubles([key.kid for key in self.keys])


@dataclass(frozen=True, slots=True)
class Readers(_List):
    """Who may read."""

    PATH = READERS_PATH
    readers: Annotated[tuple[Reader, ...], Range(0, 4096)]

    def __post_init__(self) -> None:
        _refuse_doubles([reader.kid for reader in self.readers])


@dataclass(frozen=True, slots=True)
class Revoked(_List):
    """Whose key is void."""

    PATH = REVOKED_PATH
    keys: Annotated[tuple[RevokedKey, ...], Range(0, 16384)]

    @property
    def kids(self) -> frozenset[str]:
        """The ids of all void keys."""
        return frozenset(key.kid for key in self.keys)


def public_text(spki: bytes) -> str:
    """A public key (SubjectPublicKeyInfo, DER) as the lists hold it."""
    return base64.b64encode(spki).decode()


def _decoded(public: str) -> bytes:
    try:
        return base64.b64decode(public, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"public key '{public[:24]}' is not base64") from exc


def _covers(names: tuple[str, ...], name: str) -> bool:
    return "*" in names or name in names


def _refuse_doubles(kids: list[str]) -> None:
    """One key with two roles would leave it open which counts."""
    kid, times = max(Counter(kids).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise ValueError(f"key {kid} stands twice in the list")
