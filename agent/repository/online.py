"""Snapshot and timestamp: what says which versions are current, signed by keys that are always at hand.

They have no drafts. Where their keys are away the repository is behind, and says so, until somebody has them.
"""

from datetime import timedelta

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp

from agent.repository.modules import sign
from agent.repository.roles import METADATA_BYTES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, AnyMetadata, Roles, verification


def refresh(roles: Roles, force: bool = False) -> bool:
    """Make snapshot and timestamp anew where they do not fit; returns whether they now do. Raises ConfigError.

    They are made anew too with less than half of their life left, the timestamp also with `force`.
    """
    root = roles.published(ROOT)
    if root is None or roles.published(TARGETS) is None:
        return False
    snapshot: Metadata[Snapshot] | None = roles.published(SNAPSHOT)
    meta = dict(snapshot.signed.meta) if snapshot else {}
    for role in (TARGETS, *roles.published_delegated()):
        meta[f"{role}.json"] = _meta(roles, role)
    if snapshot is None or snapshot.signed.meta != meta or _tired(roles, SNAPSHOT, snapshot, root):
        if not _renew(roles, SNAPSHOT, Snapshot(version=1 + roles.latest(SNAPSHOT), meta=meta), root):
            return False
        force = True
    timestamp: Metadata[Timestamp] | None = roles.published(TIMESTAMP)
    if timestamp is None or force or _tired(roles, TIMESTAMP, timestamp, root):
        version = 1 + (timestamp.signed.version if timestamp else 0)
        return _renew(roles, TIMESTAMP, Timestamp(version=version, snapshot_meta=_meta(roles, SNAPSHOT)), root)
    return True


def _renew(roles: Roles, role: str, signed: Snapshot | Timestamp, root: Metadata[Root]) -> bool:
    """Sign and publish, if the keys at hand are enough."""
    signed.expires = roles.now + timedelta(days=roles.lifetime_days(role))
    made: AnyMetadata = Metadata(signed)
    for keyid in root.signed.roles[role].keyids:
        if signer := roles.keyring.signer(root.signed.keys[keyid]):
            made.signatures[keyid] = sign(signer, made.signed_bytes)
    if not verification(root, role, made):
        return False
    name = "timestamp.json" if role == TIMESTAMP else f"{signed.version}.{role}.json"
    roles.workspace.write(roles.workspace.metadata / name, made.to_bytes(METADATA_BYTES))
    return True


def _tired(roles: Roles, role: str, made: AnyMetadata, root: Metadata[Root]) -> bool:
    """Not valid under this root, or with less than half of its life left."""
    half = timedelta(days=roles.lifetime_days(role)) / 2
    return not verification(root, role, made) or made.signed.expires - roles.now < half


def _meta(roles: Roles, role: str) -> MetaFile:
    """Version, length and hash. A version alone would let a mirror serve the metadata of one role as that of another
    where both have the same key."""
    version = roles.latest(role)
    data = roles.workspace.read(roles.workspace.metadata / f"{version}.{role}.json") or b""
    return MetaFile.from_data(version, data, ["sha256"])
