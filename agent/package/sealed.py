"""Sealed files: a model that lies encrypted on disk and is opened into memory, segment by segment.

    file     = "LIMPETS1"  salt (32 random bytes)  segment ...
    file key = HKDF-SHA256(content key, salt, "limpet-sealed-v1" NUL name NUL version NUL path), 32 bytes
    segment  = AES-256-GCM(file key, nonce, at most 65536 plain bytes), tag behind
    nonce    = segment number (11 bytes, big-endian, from 0)  1 for the last segment, else 0

That is the STREAM construction (Hoang et al., 2015): a segment that is missing, moved, doubled or cut off changes a
nonce, so its tag does not fit. A file of no bytes has one segment, and no other file ends in an empty one. The content
key is one per package version; the salt makes a key per file, so no nonce meets a key twice.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.package.document import refused
from agent.package.manifest import SEALED_HEADER_BYTES, SEGMENT_BYTES, TAG_BYTES, FileEntry, PackageManifest

CONTENT_KEY_BYTES: Final = 32
_MAGIC: Final = b"LIMPETS1"
_CONTEXT: Final = "limpet-sealed-v1"


def seal(plain: BinaryIO, content_key: bytes, name: str, version: str, path: str) -> Iterator[bytes]:
    """The sealed file, piece by piece. `content_key`: 32 random bytes made for this name and version."""
    salt = os.urandom(SEALED_HEADER_BYTES - len(_MAGIC))
    cipher = _cipher(content_key, salt, name, version, path)
    yield _MAGIC + salt
    for number, (segment, last) in enumerate(_segments(plain, SEGMENT_BYTES)):
        yield cipher.encrypt(_nonce(number, last), segment, None)


def unseal(sealed: BinaryIO, content_key: bytes, manifest: PackageManifest, entry: FileEntry) -> Iterator[bytes]:
    """The plain file, piece by piece, each proved by its tag.

    Raises UpdateError (VERIFY_FAILED) at the first segment that does not fit, and after the last one when the whole
    is not what the manifest says: use nothing of it unless the iterator has ended.
    """
    what = f"{manifest} {entry.path}"
    header = sealed.read(SEALED_HEADER_BYTES)
    if len(header) != SEALED_HEADER_BYTES or not header.startswith(_MAGIC):
        raise refused(f"{what}: this is no sealed file")
    cipher = _cipher(content_key, header[len(_MAGIC) :], manifest.name, manifest.version, entry.path)
    state, left = hashlib.sha256(), entry.length
    for number, (segment, last) in enumerate(_segments(sealed, SEGMENT_BYTES + TAG_BYTES)):
        try:
            plain = cipher.decrypt(_nonce(number, last), segment, None)
        except (InvalidTag, ValueError) as exc:
            raise refused(f"{what}: segment {number} is damaged, or the key is another one") from exc
        left -= len(plain)
        if left < 0:
            break
        state.update(plain)
        yield plain
    if left or state.hexdigest() != entry.sha256:
        raise refused(f"{what}: what was sealed is not what the manifest names")


def unseal_into(
    descriptor: int, sealed: BinaryIO, content_key: bytes, manifest: PackageManifest, entry: FileEntry
) -> None:
    """Write the plain file to `descriptor`, such as a memfd's. Raises as `unseal` does, and OSError.

    What was written before an error must not be used: close the descriptor.
    """
    for piece in unseal(sealed, content_key, manifest, entry):
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]


def _cipher(content_key: bytes, salt: bytes, name: str, version: str, path: str) -> AESGCM:
    info = "\0".join((_CONTEXT, name, version, path)).encode()
    return AESGCM(HKDF(hashes.SHA256(), 32, salt, info).derive(content_key))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _segments(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """Pieces of `size` bytes, the last one as long as it is, and whether it is the last. One at least."""
    piece = file.read(size)
    while True:
        following = file.read(size) if len(piece) == size else b""
        yield piece, not following
        if not following:
            return
        piece = following
