"""The keys at hand: files in key folders, and addresses of keys that never leave their module.

A key file pair is <name>.key (PKCS#8 PEM, mode 0600, with or without a passphrase) and <name>.pub beside it; the public
half says whose it is, so that no passphrase is asked for a key that is not needed.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from agent.envelope.keyfiles import read_private, read_public, write_private, write_public
from agent.errors import ConfigError
from agent.repository import modules
from agent.repository.modules import Ask, no_answer, short

_PEM = serialization.Encoding.PEM
_ENCRYPTED = b"-----BEGIN ENCRYPTED"


@dataclass(frozen=True, slots=True)
class Keyring:
    """Where private keys are looked for."""

    folders: tuple[Path, ...] = ()
    uris: Mapping[str, str] = field(default_factory=dict)
    """Key id -> address of a key that is no file here."""
    ask: Ask = no_answer
    """Asks a person for a passphrase or PIN."""
    passphrase: bytes | None = field(default=None, repr=False)
    """Of key files that have one; tried before a person is asked."""
    new_passphrase: bytes | None = field(default=None, repr=False)
    """For key files that are made."""

    def signer(self, key: Key) -> Signer | None:
        """What signs with the private half of `key`; None when it is not at hand. Raises ConfigError."""
        if uri := self.uris.get(key.keyid):
            return modules.open_signer(uri, key, self.ask)
        path = self._file_of(key)
        return self._open(path, key) if path else None

    def holds(self, key: Key) -> bool:
        """Whether `signer` would try: nothing is opened, reached or asked."""
        return key.keyid in self.uris or self._file_of(key) is not None

    def make(self, folder: Path, role: str, algorithm: str = "ed25519") -> SSlibKey:
        """Make a pair of files in `folder` (`algorithm`: ed25519 or es256); the public half. Raises ConfigError."""
        new = CryptoSigner.generate_ecdsa() if algorithm == "es256" else CryptoSigner.generate_ed25519()
        private: Any = serialization.load_pem_private_key(new.private_bytes, None)
        locked = serialization.BestAvailableEncryption(self.new_passphrase) if self.new_passphrase else None
        pem = private.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, locked or serialization.NoEncryption())
        spki = private.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"{folder}: the key folder cannot be made: {exc.strerror}") from exc
        name = f"{role}-{short(new.public_key.keyid)}"
        write_private(folder / f"{name}.key", pem)
        write_public(folder / f"{name}.pub", spki)
        return new.public_key

    def _file_of(self, key: Key) -> Path | None:
        public = (path.with_suffix(".pub") for folder in self.folders for path in sorted(folder.rglob("*.key")))
        fitting = (path for path in public if path.is_file() and public_key(path).keyid == key.keyid)
        return next((path.with_suffix(".key") for path in fitting), None)

    def _open(self, path: Path, key: Key) -> Signer:
        data = read_private(path)
        try:
            return CryptoSigner(self._decrypted(path, data), key if isinstance(key, SSlibKey) else None)
        except (ValueError, TypeError, UnsupportedAlgorithm, SecureSystemsError) as exc:
            words = "the passphrase is wrong, or this is no PKCS#8 private key that belongs to the .pub beside it"
            raise ConfigError(f"{path}: it cannot be used: {words}") from exc

    def _decrypted(self, path: Path, data: bytes) -> Any:
        """The private key in a file, by a known passphrase or one that is asked for. Raises as `cryptography` does."""
        if not data.startswith(_ENCRYPTED):
            return serialization.load_pem_private_key(data, None)
        known = [words for words in (self.passphrase, self.new_passphrase) if words]
        for words in known:
            with contextlib.suppress(ValueError):
                return serialization.load_pem_private_key(data, words)
        hint = " (the one given does not open it)" if known else ""
        return serialization.load_pem_private_key(data, self.ask(f"the passphrase of {path}{hint}").encode())


def public_key(path: Path) -> SSlibKey:
    """The public key in a PEM file. Raises ConfigError."""
    try:
        public: Any = serialization.load_pem_public_key(read_public(path))
        return SSlibKey.from_crypto(public)
    except (ValueError, UnsupportedAlgorithm, SecureSystemsError) as exc:
        raise ConfigError(f"{path}: no public key in PEM (Ed25519, ECDSA or RSA) that can be used: {exc}") from exc


def import_key(address: str, ask: Ask) -> tuple[Key, str]:
    """A key, and the address of its private half ("" for a .pub file). Raises ConfigError."""
    if address.partition(":")[0] in modules.SCHEMES:
        return modules.import_key(address, ask)
    return public_key(Path(address)), ""
