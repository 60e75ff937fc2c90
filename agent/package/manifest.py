"""A package manifest: every file of one version of a model or of the agent, and the ways to bring it.

What counts is a file's own sha256, whichever way it came. A sealed file travels and lies on disk encrypted only, so it
has no other way: chunks and deltas of the plain file would tell of it.
"""

import base64
import binascii
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from agent.package.document import read, write
from agent.package.names import KeyId, Kind, ModelName, Sha256, Version, package_path
from agent.strict import Match, Range

MANIFEST_LIMIT_BYTES: Final = 1 << 20
PACKAGE_FILE: Final = "package.json"
"""What a device calls the manifest beside the files; no file may be called so."""
SEGMENT_BYTES: Final = 65536
SEALED_HEADER_BYTES: Final = 8 + 32
TAG_BYTES: Final = 16

Length = Annotated[int, Range(0, 1 << 40)]
_PART = "[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}"
FilePath = Annotated[
    str, Match(f"(?=.{{1,255}}$){_PART}(/{_PART})*", "a relative path of letters, digits and '_.+@-', at most 255")
]

LeastVersion = Annotated[
    str, Match(r"|>=[0-9]{1,9}(\.[0-9]{1,9}){0,2}", 'a least version like ">=0.1", or empty')
]


@dataclass(frozen=True, slots=True)
class Blob:
    """A content-addressed file of the repository: blobs/<sha256>."""

    length: Length
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Delta:
    """What turns the file `base` into this one (agent/package/deltas.py); length and sha256 are the delta's own."""

    base: Sha256
    length: Length
    sha256: Sha256

    @property
    def blob(self) -> Blob:
        return Blob(self.length, self.sha256)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a package; `length` and `sha256` are of the plain file."""

    path: FilePath
    length: Length
    sha256: Sha256
    xz: Blob | None = None
    """The whole file, xz-compressed."""
    chunks: Blob | None = None
    """The list of its chunks (agent/package/chunks.py)."""
    deltas: Annotated[tuple[Delta, ...], Range(0, 16)] = ()
    sealed: Blob | None = None
    """The file encrypted (agent/package/sealed.py); then the plain blob is nowhere."""

    def __post_init__(self) -> None:
        if self.sealed and (self.xz or self.chunks or self.deltas):
            raise ValueError(f"file {self.path} is sealed and has another way too: one of them must go")
        if self.sealed and self.sealed.length != sealed_length(self.length):
            raise ValueError(f"file {self.path} has {self.length} bytes and cannot be {self.sealed.length} when sealed")

    @property
    def stored(self) -> Blob:
        """What lies on the device's disk: the sealed file if there is one, else the plain one."""
        return self.sealed or Blob(self.length, self.sha256)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """The content key for one recipient."""

    kid: KeyId
    """First 8 bytes of SHA-256 over the recipient's SubjectPublicKeyInfo."""
    wrap: Annotated[str, Range(1, 1024)]
    """Base64 of encapsulated key, ciphertext and tag (HPKE, base mode)."""

    def __post_init__(self) -> None:
        try:
            base64.b64decode(self.wrap, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ValueError(f"the wrapped key for {self.kid} is not base64") from exc

    @property
    def wrapped(self) -> bytes:
        return base64.b64decode(self.wrap, validate=True)


@dataclass(frozen=True, slots=True)
class Encryption:
    """How the sealed files of a package are encrypted, and who can open them."""

    algorithm: Literal["A256GCM"]
    chunk: Annotated[int, Range(SEGMENT_BYTES, SEGMENT_BYTES)]
    """Plain bytes per segment."""
    keys: Annotated[tuple[WrappedKey, ...], Range(1, 4096)]


@dataclass(frozen=True, slots=True)
class PackageManifest:
    """One signed version of a model or of the agent."""

    kind: Kind
    name: ModelName
    version: Version
    files: Annotated[tuple[FileEntry, ...], Range(1, 2048)]
    requires_agent: LeastVersion = ""
    encryption: Encryption | None = None

    def __post_init__(self) -> None:
        _refuse_clashes([file.path for file in self.files])
        sealed = any(file.sealed for file in self.files)
        if sealed != (self.encryption is not None):
            raise ValueError("sealed files and 'encryption' go together: one is there without the other")
        if (self.kind == "agent") != (self.name == "agent"):
            raise ValueError("a package of kind 'agent' is called 'agent', and no other is")
        if self.kind == "agent" and sealed:
            raise ValueError("a package of kind 'agent' has no sealed files")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def target(self) -> str:
        """The path under which it is signed."""
        return package_path(self.kind, self.name, self.version)

    @property
    def stored_bytes(self) -> int:
        """What all files take on the disk."""
        return sum(file.stored.length for file in self.files)

    def file(self, path: str) -> FileEntry | None:
        """The file called `path`, if there is one."""
        return next((file for file in self.files if file.path == path), None)

    @classmethod
    def decode(cls, data: bytes, what: str = "package manifest") -> "PackageManifest":
        """Read what `encode` wrote, from bytes whose signature was checked. Raises UpdateError (VERIFY_FAILED)."""
        return read(cls, data, MANIFEST_LIMIT_BYTES, what)

    def encode(self) -> bytes:
        """Canonical JSON; its sha256 names this package."""
        return write(_lean(asdict(self)) | {"requires_agent": self.requires_agent})


def sealed_length(length: int) -> int:
    """Bytes of a file of `length` plain bytes after sealing: a header, and a tag per segment (one at least)."""
    return SEALED_HEADER_BYTES + length + TAG_BYTES * max(1, -(-length // SEGMENT_BYTES))


def _refuse_clashes(paths: list[str]) -> None:
    known = set(paths)
    if len(known) != len(paths):
        raise ValueError("two files have the same path")
    if PACKAGE_FILE in known:
        raise ValueError(f"a file is called {PACKAGE_FILE}, which is the manifest's own name on a device")
    for path in paths:
        if above := known.intersection(map(str, PurePosixPath(path).parents)):
            raise ValueError(f"{above.pop()} is a file and the folder of {path} too")


def _lean(value: Any) -> Any:
    """Without what is not there."""
    if isinstance(value, dict):
        return {key: _lean(inner) for key, inner in value.items() if inner is not None and inner != ()}
    return [_lean(inner) for inner in value] if isinstance(value, list | tuple) else value
