"""The store key: what lies on the device's disk is sealed under it.

AES-256-GCM with a random 96-bit nonce before the ciphertext. One key may seal 2^32 times (NIST SP 800-38D, 8.3): at
one event a second that is 136 years. The key is 32 random bytes in a file of its own, outside the database.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.envelope.keyfiles import read_private, write_private
from agent.errors import ConfigError, EnvelopeError

KEY_BYTES = 32
NONCE_BYTES = 12


class StoreKey:
    """Seals and opens what lies on the disk; thread-safe."""

    def __init__(self, key: bytes) -> None:
        """`key` is 32 bytes. Raises ConfigError otherwise."""
        if len(key) != KEY_BYTES:
            raise ConfigError(f"store key has {len(key)} bytes, it must have {KEY_BYTES}: restore it, or move it away")
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        """Never the key."""
        return "StoreKey()"

    def seal(self, plain: bytes, aad: bytes) -> bytes:
        """Nonce, ciphertext and tag: 28 bytes longer than `plain`. `aad` is bound and not kept."""
        return self.seal_all([(plain, aad)])[0]

    def seal_all(self, items: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """`seal` for many (plain, aad), asking the kernel for all nonces at once: each call lets other threads in."""
        random = os.urandom(NONCE_BYTES * len(items))
        nonces = (random[i : i + NONCE_BYTES] for i in range(0, len(random), NONCE_BYTES))
        encrypt = self._cipher.encrypt
        return [nonce + encrypt(nonce, plain, aad) for nonce, (plain, aad) in zip(nonces, items, strict=True)]

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Undo `seal`. Raises EnvelopeError when anything differs from what was sealed."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)
        except (InvalidTag, ValueError) as exc:
            raise EnvelopeError("stored event is damaged or was sealed under another store key") from exc

    def open_all(self, items: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """`open` for many (sealed, aad); None in the place of one that differs."""
        decrypt, opened = self._cipher.decrypt, list[bytes | None]()
        for sealed, aad in items:
            try:
                opened.append(decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad))
            except (InvalidTag, ValueError):
                opened.append(None)
        return opened


def load_store_key(path: Path) -> StoreKey:
    """Read the key at `path`, or make one there; a bare name is a credential and must exist. Raises ConfigError."""
    if len(path.parts) > 1 and not path.exists():  # a bare name is a credential, which is not ours to make
        _make(path)
    return StoreKey(read_private(path))


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot make its folder: {exc.strerror}: let the agent's user own it") from exc
    write_private(path, os.urandom(KEY_BYTES))
