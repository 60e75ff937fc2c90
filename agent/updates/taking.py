"""What a device takes of a package, and which files it has already that others can be made from."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.depot import AGENT, present
from agent.durable import read_limited
from agent.errors import ModelError, UpdateError
from agent.manifest import MANIFEST_FILE, load_manifest
from agent.package import MANIFEST_LIMIT_BYTES, FileEntry, PackageManifest
from agent.registry import candidates
from agent.release.wheels import needed
from agent.tomlfile import parse, read_plain

Bring = Callable[[Sequence[FileEntry]], None]
"""Brings files of the package into the stage."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as it lies on the disk."""

    path: str
    length: int
    sha256: str


def stored(entries: Iterable[FileEntry]) -> tuple[Stored, ...]:
    """How `entries` lie on the disk: an encrypted one encrypted."""
    return tuple(Stored(entry.path, entry.stored.length, entry.stored.sha256) for entry in entries)


def take_model(package: PackageManifest, stage: Path, bring: Bring) -> tuple[FileEntry, ...]:
    """The files that this machine needs: all but the artifacts of others. `bring` is asked for the manifest first.

    Raises UpdateError when the package holds no model for this machine.
    """
    first = package.file(MANIFEST_FILE)
    if first is None or first.sealed:
        raise UpdateError(f"{package}: it has no plain {MANIFEST_FILE}: publish it again", "VERIFY_FAILED")
    bring([first])
    try:
        labels = parse(read_plain(stage / MANIFEST_FILE, MANIFEST_LIMIT_BYTES)).get("labels_file")
        if isinstance(labels, str) and (more := package.file(labels)):
            bring([more])
        manifest = load_manifest(stage)
        requires = {need for artifact in manifest.artifacts for need in artifact.requires}
        wanted = {artifact.file for artifact in candidates(manifest, present=requires)}
    except (ModelError, ValueError, OSError) as exc:
        raise UpdateError(f"{package}: {exc}", "VERIFY_FAILED") from exc
    if (manifest.name, manifest.version) != (package.name, package.version):
        raise UpdateError(f"{package}: its {MANIFEST_FILE} says {manifest}: publish it again", "VERIFY_FAILED")
    others = {artifact.file for artifact in manifest.artifacts} - wanted
    return tuple(entry for entry in package.files if entry.path not in others)


def take_release(package: PackageManifest) -> tuple[FileEntry, ...]:
    """The files of a release of the agent that this machine needs."""
    return tuple(entry for entry in package.files if needed(entry.path))


class Kin:
    """The plain files of other versions of a model, in the depot and in the factory's folder."""

    def __init__(self, folder: Path, name: str, factory: Path | None) -> None:
        """`factory`: the folder that holds the factory's models by name."""
        self._by_sha256: dict[str, Path] = {}
        for there, _, _ in present(folder, name):
            with suppress(OSError, ValueError, UpdateError):
                package = PackageManifest.decode(read_limited(there / "package.json", MANIFEST_LIMIT_BYTES))
                self._by_sha256 |= {entry.sha256: there / entry.path for entry in package.files if not entry.sealed}
        if factory and name != AGENT:
            for path in filter(Path.is_file, (factory / name).rglob("*")):
                with suppress(OSError), path.open("rb") as file:
                    self._by_sha256[hashlib.file_digest(file, "sha256").hexdigest()] = path

    def have(self, sha256: str) -> Path | None:
        """Where a file with this sha256 (hex) lies, if anywhere."""
        path = self._by_sha256.get(sha256)
        return path if path and path.is_file() else None

    def near(self, entry: FileEntry) -> Iterator[Path]:
        """Files that may share pieces with a new one: of the same kind, as their names say."""
        kind = Path(entry.path).suffix
        yield from (path for path in self._by_sha256.values() if path.suffix == kind and path.is_file())
