"""Write tests/vectors/repository.json: worked examples of docs/repository.md for readers in other languages.

Salts and HPKE wraps are random by nature, so each run makes another file that is as good. The keys are derived from
sentences in this file: they are for tests, and protect nothing.
"""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import x25519

from agent.envelope.keys import ReaderPublic
from agent.package import Blob, FileEntry, PackageManifest, included, package_path
from agent.package.chunks import GEAR, cut, encode_chunks
from agent.package.recipients import wrap
from agent.package.sealed import seal
from agent.package.squeeze import difference, squeeze

WARNING = "TEST KEYS, published on purpose. Never use them for anything but tests."
NAME, VERSION = "example", "1.2.3"


def secret(sentence: str) -> bytes:
    """32 bytes that anybody can make again."""
    return hashlib.sha256(f"limpet test vector: {sentence}".encode()).digest()


def stream(length: int) -> bytes:
    """SHA-256("limpet stream" || i) for i = 0, 1, 2 ... in 4 bytes, big-endian, joined and cut off."""
    blocks = (hashlib.sha256(b"limpet stream" + n.to_bytes(4, "big")).digest() for n in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def vectors() -> dict[str, Any]:
    """All of them."""
    private = x25519.X25519PrivateKey.from_private_bytes(secret("recipient"))
    recipient, content_key = ReaderPublic(private.public_key()), secret("content key")
    return {
        "warning": WARNING,
        "gear": [int(value) for value in GEAR],
        "chunks": chunked(stream(300_000)),
        "delta": delta(stream(5000)),
        "places": [place("home", "door"), place("plant-7", "press.3")],
        "sealed": [sealed(stream(n), content_key) for n in (0, 100, 65536, 140_000)],
        "wrap": {
            "private_raw": secret("recipient").hex(), "content_key": content_key.hex(), "name": NAME,
            "version": VERSION, "encryption": json.loads(manifest(recipient, content_key).encode())["encryption"],
        },
    }  # fmt: skip


def chunked(data: bytes) -> dict[str, Any]:
    """The list of a stream's chunks."""
    listed = encode_chunks(cut(io.BytesIO(data)))
    return {"stream": len(data), "list": base64.b64encode(listed).decode()}


def delta(base: bytes) -> dict[str, Any]:
    """A stream, and the same with every 50th byte raised by 200."""
    new = bytes((byte + 200 * (at % 50 == 0)) % 256 for at, byte in enumerate(base))
    made = b"".join(squeeze(difference(io.BytesIO(base), io.BytesIO(new))))
    return {"stream": len(base), "xz": base64.b64encode(made).decode(), "sha256": hashlib.sha256(new).hexdigest()}


def place(site: str, device: str) -> dict[str, Any]:
    """The least percentage that takes a device in."""
    path = package_path("model", NAME, VERSION)
    percent = next(p for p in range(101) if included(site, device, path, p))
    return {"site": site, "device": device, "target": path, "in_from_percent": percent}


def sealed(data: bytes, content_key: bytes) -> dict[str, Any]:
    """A sealed stream: its salt and hash, and the bytes themselves when they are few."""
    path = f"{len(data)}.onnx"
    made = b"".join(seal(io.BytesIO(data), content_key, NAME, VERSION, path))
    bytes_too = {"sealed": base64.b64encode(made).decode()} if len(data) < 1000 else {}
    about = {"stream": len(data), "path": path, "salt": made[8:40].hex(), "length": len(made)}
    return about | {"sha256": hashlib.sha256(made).hexdigest()} | bytes_too


def manifest(recipient: ReaderPublic, content_key: bytes) -> PackageManifest:
    """A package with one sealed file of no bytes."""
    none = hashlib.sha256(b"").hexdigest()
    files = (FileEntry("w.onnx", 0, none, sealed=Blob(56, none)),)
    return PackageManifest("model", NAME, VERSION, files, "", wrap(content_key, NAME, VERSION, [recipient]))


if __name__ == "__main__":
    file = Path(__file__).resolve().parent.parent / "tests/vectors/repository.json"
    file.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
