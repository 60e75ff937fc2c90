"""The proof that a release is what its publisher signed, made by root from a copy that nobody else can touch.

The depot belongs to the updater's user, and root believes nothing in it. So everything is copied into a folder of
root's first (plain files only, no links followed, no more bytes than were announced), and the copy is verified: the
metadata against the trust anchor named in /etc/limpet and against what root itself has accepted before, the package
manifest against the metadata, every file against the manifest. An updater that was taken over can ask for nothing but
a signed release that the metadata still names.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.depot import AGENT, Pick, folder_of
from agent.durable import read_limited
from agent.errors import UpdateError
from agent.package import MANIFEST_LIMIT_BYTES, FileEntry, PackageManifest, package_path, role_name
from agent.release.wheels import needed
from agent.release.wish import Wish
from agent.updates.client import ROOT_LIMIT_BYTES, Repository
from agent.updates.floor import Floor
from agent.updates.local import BASE, LocalFetcher

METADATA_LIMIT_BYTES: Final = 16 << 20
ROLES: Final = ("timestamp", "snapshot", "targets", role_name("agent", "agent"))
FILES_LIMIT: Final = 1024
"""Roots since the trust anchor that are looked at."""
_CHUNK_BYTES: Final = 1 << 20


def prove(depot: Path, wish: Wish, anchor: bytes, accepted: Path, staging: Path) -> PackageManifest:
    """Bring the wished release into `staging`/release, proved; its manifest. Raises UpdateError.

    `anchor`: bytes of the trusted root.json. `accepted`: folder of root's with the metadata that it took last.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700, parents=True)
    package = folder_of(depot, AGENT, Pick(wish.version, wish.sha256))
    try:
        _copy_metadata(depot / "metadata", staging / "repository" / "metadata")
        manifest = _signed_manifest(package, wish, anchor, accepted, staging / "repository")
        for file in wanted(manifest):
            _copy_file(package / file.path, staging / "release" / file.path, file)
    except OSError as exc:
        reason = "NO_SPACE" if exc.errno in (28, 122) else "VERIFY_FAILED"
        raise UpdateError(f"release {wish.version}: {exc.filename or staging}: {exc.strerror}", reason) from exc
    return manifest


def wanted(manifest: PackageManifest) -> Iterator[FileEntry]:
    """The files of a release that this machine needs."""
    return (file for file in manifest.files if needed(file.path))


def _signed_manifest(package: Path, wish: Wish, anchor: bytes, accepted: Path, copy: Path) -> PackageManifest:
    """The manifest as the metadata signs it, if that is the one wished for."""
    data = _read_plain(package / "package.json", MANIFEST_LIMIT_BYTES)
    target = copy / "targets" / package_path("agent", "agent", wish.version)
    target.parent.mkdir(parents=True)
    (target.parent / f"{hashlib.sha256(data).hexdigest()}.{target.name}").write_bytes(data)
    accepted.mkdir(mode=0o700, parents=True, exist_ok=True)
    floor = Floor(accepted.with_name("floor.json"))
    with Repository(accepted, BASE, anchor, LocalFetcher(copy), floor) as repository:
        repository.refresh()
        signed = repository.read(package_path("agent", "agent", wish.version), MANIFEST_LIMIT_BYTES)
    if signed is None or hashlib.sha256(signed).hexdigest() != wish.sha256:
        words = f"release {wish.version} ({wish.sha256[:12]})"
        raise UpdateError(f"{words}: the signed metadata names no such package", "VERIFY_FAILED")
    manifest = PackageManifest.decode(signed, f"package of release {wish.version}")
    if (manifest.kind, manifest.version) != ("agent", wish.version):
        raise UpdateError(f"release {wish.version}: its package is {manifest.kind} {manifest}", "VERIFY_FAILED")
    return manifest


def _copy_metadata(source: Path, target: Path) -> None:
    """The updater's own copy of the metadata, under the names that a repository gives them."""
    target.mkdir(parents=True)
    roots = {int(n): path for path in (source / "root_history").glob("*.root.json")
             if (n := path.name.partition(".")[0]).isdecimal() and len(n) < 10}  # fmt: skip
    for number in sorted(roots)[-FILES_LIMIT:]:
        (target / f"{number}.root.json").write_bytes(_read_plain(roots[number], ROOT_LIMIT_BYTES))
    for role in ROLES:
        path = source / f"{role}.json"
        data = _read_plain(path, METADATA_LIMIT_BYTES)
        name = path.name if role == "timestamp" else f"{_version(data, path)}.{path.name}"
        (target / name).write_bytes(data)


def _version(data: bytes, path: Path) -> int:
    """For its file name only: what it is worth is for the client to say."""
    try:
        return int(json.loads(data)["signed"]["version"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise UpdateError(f"{path}: this is no metadata: {exc}", "VERIFY_FAILED") from exc


def _read_plain(path: Path, limit_bytes: int) -> bytes:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise UpdateError(f"{path}: this is no plain file", "VERIFY_FAILED")
    try:
        return read_limited(path, limit_bytes)
    except ValueError as exc:
        raise UpdateError(str(exc), "VERIFY_FAILED") from exc


def _copy_file(source: Path, target: Path, file: FileEntry) -> None:
    """Copy at most the announced bytes, and hash what was written."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), file.length + 1
    handle = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as reader, target.open("xb") as writer:
        while left and (chunk := reader.read(min(left, _CHUNK_BYTES))):
            writer.write(chunk)
            digest.update(chunk)
            left -= len(chunk)
    if (file.length + 1 - left, digest.hexdigest()) != (file.length, file.sha256):
        raise UpdateError(f"{source}: this is not the file that was signed: fetch the release again", "VERIFY_FAILED")
