"""The folder in which a repository is made, and the files in it.

    repository.json   lifetimes of roles, addresses of keys that are no files
    root.json         the newest root: what a device gets as its trust anchor
    keys/<role>/      private and public key files, if they lie here at all
    pending/          drafts that lack signatures
    public/           metadata/, targets/, blobs/: what a mirror is a copy of

Everything is written durably, and only ever by one process: see `Workspace.held`.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from agent.durable import locked, read_limited, sync_folder, write_durably
from agent.errors import ConfigError
from agent.package import Blob
from agent.strict import Range, build

METADATA_LIMIT_BYTES: Final = 8 << 20
Days = Annotated[int, Range(1, 3650)]


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a signature on each kind of metadata is good for, days."""

    root: Days = 365
    targets: Days = 180
    """Of the delegated roles too."""
    snapshot: Days = 14
    timestamp: Days = 14
    """Shorter: a device that is fed old metadata notices sooner. Longer: one that is offline for long can still
    install from a copy on a USB stick."""


@dataclass(frozen=True, slots=True)
class Settings:
    """repository.json."""

    schema: Literal[1] = 1
    days: Lifetimes = Lifetimes()
    uris: dict[str, str] = field(default_factory=dict)
    """Key id -> address of its private half, for keys that are no files here."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths, and reading and writing at them."""

    folder: Path

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def public(self) -> Path:
        return self.folder / "public"

    @property
    def metadata(self) -> Path:
        return self.public / "metadata"

    @property
    def blobs(self) -> Path:
        return self.public / "blobs"

    @property
    def anchor(self) -> Path:
        return self.folder / "root.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else changes the workspace meanwhile. Raises ConfigError when somebody does, or it is none."""
        if not (self.folder / "repository.json").is_file():
            raise ConfigError(f"{self.folder}: there is no repository here: make one with 'limpet repo init'")
        with _translated(self.folder), locked(self.folder / ".lock") as mine:
            if not mine:
                raise ConfigError(f"{self.folder}: another 'limpet repo' is at work here: wait until it has ended")
            yield

    def create(self, settings: Settings) -> None:
        """Make the folders. Raises ConfigError when a repository is here already."""
        if (self.folder / "repository.json").exists():
            raise ConfigError(f"{self.folder}: a repository is here already, and is never made anew over an old one")
        with _translated(self.folder):
            for folder in (self.folder, self.folder / "pending", self.metadata, self.public / "targets", self.blobs):
                folder.mkdir(parents=True, exist_ok=True)
            write_durably(self.folder / ".gitignore", b"*.key\n.lock\n", 0o644)  # drafts travel by git, keys never
            self.save(settings)

    def settings(self) -> Settings:
        """What repository.json says. Raises ConfigError."""
        path = self.folder / "repository.json"
        try:
            table: Any = json.loads(self.read(path) or b"")
        except ValueError as exc:
            raise ConfigError(f"{path}: this is not JSON: {exc}") from exc
        if not isinstance(table, Mapping):
            raise ConfigError(f"{path}: this is no JSON object")
        return build(Settings, table, str(path))

    def save(self, settings: Settings) -> None:
        """Replace repository.json."""
        self.write(self.folder / "repository.json", json.dumps(asdict(settings), indent=1).encode() + b"\n")

    def read(self, path: Path) -> bytes | None:
        """A file of the workspace, or None. Raises ConfigError when it is there and cannot be read."""
        try:
            return read_limited(path, METADATA_LIMIT_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{path}: it cannot be read: {exc}") from exc

    def write(self, path: Path, data: bytes) -> None:
        """Write a file that others may read. Raises ConfigError."""
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, data, 0o644)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there."""
        with _translated(path):
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def keep(self, pieces: Iterable[bytes]) -> Blob:
        """Write the pieces as a blob, under their own sha256. Raises ConfigError."""
        with _translated(self.blobs):
            handle, name = tempfile.mkstemp(prefix=".new-", dir=self.blobs)
            fresh, state, length = Path(name), hashlib.sha256(), 0
            try:
                with os.fdopen(handle, "wb") as file:
                    for piece in pieces:
                        state.update(piece)
                        length += file.write(piece)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                fresh.rename(self.blobs / state.hexdigest())
            finally:
                fresh.unlink(missing_ok=True)
            sync_folder(self.blobs)
            return Blob(length, state.hexdigest())

    def blob(self, sha256: str) -> Path:
        """Where a blob lies."""
        return self.blobs / sha256


@contextlib.contextmanager
def _translated(what: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigError(f"{exc.filename or what}: {exc.strerror}: check the folder, its owner and its space") from exc
