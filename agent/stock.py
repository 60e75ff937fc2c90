"""The depot as the agent sees it: which version of a model shall run, and its files once they are proved.

Owns the proof. A version is named by the digest of its package manifest; that names the digest of `model.toml` and of
the labels, both read here; `model.toml` names that of the model file, which `agent.registry` reads when it loads it. So
whatever rots in the depot is noticed before it runs. Sealed files are opened into memory with the device's own key.
Reads only; the one thing it writes is the burnt try of a checkout, where no unit does that (`first_token`).
"""

import hashlib
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from agent.depot import Pick, State, folder_of, present, read_state, read_token
from agent.durable import read_limited
from agent.errors import LimpetError, ModelError, UpdateError
from agent.manifest import MANIFEST_FILE, Manifest, load_manifest
from agent.package import MANIFEST_LIMIT_BYTES, PackageManifest
from agent.package.manifest import PACKAGE_FILE
from agent.registry import Origin
from agent.settings.updates import UpdatesConfig
from agent.updates.jobs import Book
from agent.updates.verdicts import burn

if TYPE_CHECKING:
    from agent.package.recipients import ModelKey

log = logging.getLogger(__name__)

DAMAGED: Final = "the file is damaged or another one; it is fetched again when the repository can be reached"
TEXT_LIMIT_BYTES: Final = 1 << 20
"""Largest model.toml or labels file, bytes."""


@dataclass(frozen=True, slots=True)
class Held:
    """One version of a model, proved up to its model file."""

    manifest: Manifest
    origin: Origin
    """How its model file is opened."""


@dataclass(frozen=True)
class Stock:
    """Reads the depot of [updates] folder."""

    config: UpdatesConfig

    def state(self) -> State:
        """The record; never raises, see `read_state`."""
        return read_state(self.config.folder)

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever the record does; one stat. Empty where there is no record."""
        try:
            status = (self.config.folder / "state.json").stat()
        except OSError:
            return ()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def folder_stamp(self, name: str, pick: Pick) -> tuple[int, ...]:
        """Changes when the files of `pick` are put in again. Empty where they are not."""
        try:
            status = folder_of(self.config.folder, name, pick).stat()
        except OSError:
            return ()
        return status.st_ino, status.st_ctime_ns

    def there(self, name: str) -> tuple[Pick, ...]:
        """Every version of the model that lies in the depot, as far as its package can be read. Nothing is proved."""
        found = []
        for folder, version, _ in present(self.config.folder, name):
            try:
                data = read_limited(folder / PACKAGE_FILE, MANIFEST_LIMIT_BYTES)
            except (OSError, ValueError):
                continue
            found.append(Pick(version, hashlib.sha256(data).hexdigest()))
        return tuple(found)

    def hold(self, name: str, pick: Pick) -> Held:
        """The model that `pick` names, once its texts are what was signed. Raises ModelError."""
        folder = folder_of(self.config.folder, name, pick)
        package = self._package(folder, name, pick)
        _prove(folder, package, MANIFEST_FILE)
        manifest = load_manifest(folder)
        if manifest.labels_file:
            _prove(folder, package, manifest.labels_file)
        if (manifest.name, manifest.version) != (name, pick.version):
            raise ModelError(f"{folder}: the record says {name} {pick.version}, model.toml says {manifest}")
        return Held(manifest, Origin(self._owner(), partial(self._unseal, package) if package.encryption else None))

    def _package(self, folder: Path, name: str, pick: Pick) -> PackageManifest:
        path = folder / PACKAGE_FILE
        data = _read(path, MANIFEST_LIMIT_BYTES)
        if hashlib.sha256(data).hexdigest() != pick.sha256:
            raise ModelError(f"{path}: this is not the package of {name} {pick}: {DAMAGED}")
        try:
            return PackageManifest.decode(data, str(path))
        except UpdateError as exc:
            raise ModelError(str(exc)) from exc

    def _owner(self) -> int | None:
        """Whoever the configured folder belongs to may give models: the updater's user."""
        try:
            return self.config.folder.stat().st_uid
        except OSError:
            return None

    def _unseal(self, package: PackageManifest, name: str, sealed: BinaryIO, memory: int) -> bool:
        entry = package.file(name)
        if entry is None or entry.sealed is None:
            return False
        from agent.package.sealed import unseal_into

        try:
            unseal_into(memory, sealed, self._key.content_key(package), package, entry)
        except LimpetError as exc:
            raise ModelError(str(exc)) from exc
        except OSError as exc:
            raise ModelError(f"{package} {name}: it cannot be opened into memory: {exc.strerror}") from exc
        return True

    @cached_property
    def _key(self) -> "ModelKey":
        from agent.package.recipients import ModelKey

        if self.config.decryption_key is None:
            raise ModelError("this model is sealed and the device has no key: set [updates] decryption_key")
        return ModelKey.load(self.config.decryption_key)


def first_token(config: UpdatesConfig) -> int | None:
    """The generation whose tries are burnt as this process starts; None: nobody burnt them, so no candidate may run.

    Where the agent may write the depot itself (a checkout, one user for all), it burns them here, and makes the depot.
    """
    if config.updater == "child":
        with suppress(OSError):  # what cannot be written is told below, or when the updater wants to
            config.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not os.access(config.folder, os.W_OK):
        return read_token(config.token)
    try:
        return burn(config.folder, Book(config.folder)).generation
    except UpdateError as exc:
        log.error("tries not burnt, so no candidate will run: %s", exc)
        return None


def _prove(folder: Path, package: PackageManifest, path: str) -> None:
    """Raises ModelError when a plain file is not what the package says."""
    entry = package.file(path)
    if entry is None or entry.sealed is not None:
        raise ModelError(f"{folder / path}: the package {package} has no such plain file")
    if hashlib.sha256(_read(folder / path, TEXT_LIMIT_BYTES)).hexdigest() != entry.sha256:
        raise ModelError(f"{folder / path}: its sha256 is not what was signed: {DAMAGED}")


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        return read_limited(path, limit_bytes)
    except OSError as exc:
        raise ModelError(f"{path}: it cannot be read: {exc.strerror}: {DAMAGED}") from exc
    except ValueError as exc:
        raise ModelError(str(exc)) from exc
