"""Reading and writing key files.

A private key file must be regular, at most 16 KiB, and closed to group and others. A bare name is looked up in the
service manager's credentials directory first; what lies there is guarded by systemd, which shows its access list as
group bits. Writing never overwrites: a lost key cannot be made again.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.credentials import FOLDER, credential
from agent.errors import ConfigError

MAX_KEY_BYTES: Final = 16 * 1024


def read_private(path: Path, environment: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a private key file. Raises ConfigError that says what to do."""
    guarded = credential(path, environment)
    return _read(guarded or path, private=guarded is None)


def read_public(path: Path) -> bytes:
    """The bytes of a public key file. Raises ConfigError."""
    return _read(path, private=False)


def write_private(path: Path, data: bytes) -> None:
    """Write a new file of mode 0600, synced. Raises ConfigError when it exists or cannot be written."""
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write a new file of mode 0644, synced. Raises ConfigError when it exists or cannot be written."""
    _write(path, data, 0o644)


def _read(path: Path, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            _check(path, about, private)
            return file.read(MAX_KEY_BYTES)
    except OSError as exc:
        also = _elsewhere(path) if private and isinstance(exc, FileNotFoundError) else ""
        said = f"{exc.strerror}{also}: check its path and its owner"
        raise ConfigError(f"{path}: key file cannot be read: {said}") from exc


def _elsewhere(path: Path) -> str:
    """Where a secret of this name was looked for first, in words; empty without a service manager."""
    folder = os.environ.get(FOLDER)
    return f", nor is there {Path(folder) / path.name}" if folder else ""


def _check(path: Path, about: os.stat_result, private: bool) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise ConfigError(f"{path}: key file is not a regular file")
    if about.st_size > MAX_KEY_BYTES:
        raise ConfigError(f"{path}: key file is larger than {MAX_KEY_BYTES} bytes: this is not a key")
    if private and about.st_mode & 0o077:
        mode = stat.S_IMODE(about.st_mode)
        raise ConfigError(f"{path}: private key is open to group or others (mode {mode:04o}): run 'chmod 600 {path}'")


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync(path.parent)
    except FileExistsError as exc:
        raise ConfigError(f"{path}: a key is already there and is never overwritten: move it away first") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: key file cannot be written: {exc.strerror}") from exc


def _sync(folder: Path) -> None:
    """A key that is lost in a power cut after it was given away cannot be made again."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
