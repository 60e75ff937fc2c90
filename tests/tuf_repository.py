"""A TUF repository in memory, made with tuf.api: every role can be signed well, badly, late or twice."""

import datetime
import functools
import hashlib
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

TOP = ("targets", "snapshot", "timestamp")


def days(count):
    """So many days from now."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=count)


@functools.cache
def signer(number):
    """Key number `number`, the same in all tests of one run."""
    return CryptoSigner.generate_ed25519()


class TufRepository:
    """Publishes into `files` (path -> bytes), under metadata/ and targets/ below `base`."""

    def __init__(self, files, base="", consistent=True):
        self.files = files
        self.base = base
        self.keys = {"root": [0], "timestamp": [1], "snapshot": [2], "targets": [3]}
        self.roles = {
            "root": Metadata(Root(expires=days(365), consistent_snapshot=consistent)),
            "timestamp": Metadata(Timestamp(expires=days(7))),
            "snapshot": Metadata(Snapshot(expires=days(30))),
            "targets": Metadata(Targets(expires=days(90))),
        }
        for role, numbers in self.keys.items():
            for number in numbers:
                self.root.add_key(signer(number).public_key, role)
        self.snapshot.meta.clear()
        self.publish_root(bump=False)
        self.publish(bump=False)
        self.anchor = self.served("1.root.json")

    @property
    def root(self):
        return self.roles["root"].signed

    @property
    def timestamp(self):
        return self.roles["timestamp"].signed

    @property
    def snapshot(self):
        return self.roles["snapshot"].signed

    @property
    def targets(self):
        return self.roles["targets"].signed

    def served(self, name):
        """Bytes of a published metadata file."""
        return self.files[f"{self.base}metadata/{name}"]

    def rekey(self, role, numbers, threshold=1, delegator="root"):
        """Give a role other keys; the root is not published by this."""
        signed = self.roles[delegator].signed
        for keyid in list(self._delegated(signed, role).keyids):
            signed.revoke_key(keyid, role)
        for number in numbers:
            signed.add_key(signer(number).public_key, role)
        self._delegated(signed, role).threshold = threshold
        self.keys[role] = list(numbers)

    def publish_root(self, signers=None, bump=True):
        """The next root, signed by `signers` (numbers) or by its own keys."""
        self.root.version += bump
        data = self.sign("root", signers)
        self.files[f"{self.base}metadata/{self.root.version}.root.json"] = data

    def publish(self, *roles, bump=True):
        """The next versions of these targets roles (the top one when none is named), of snapshot and of timestamp."""
        for role in roles or ("targets",):
            signed = self.roles[role].signed
            signed.version += bump and f"{role}.json" in self.snapshot.meta
            data = self.sign(role)
            self.snapshot.meta[f"{role}.json"] = MetaFile(signed.version, len(data), {"sha256": _sha256(data)})
            self._serve(role, data)
        self.publish_online(bump)

    def publish_online(self, bump=True):
        """Snapshot and timestamp."""
        self.snapshot.version += bump
        data = self.sign("snapshot")
        self._serve("snapshot", data)
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version, len(data), {"sha256": _sha256(data)})
        self.publish_timestamp(bump)

    def publish_timestamp(self, bump=True):
        self.timestamp.version += bump
        self.files[f"{self.base}metadata/timestamp.json"] = self.sign("timestamp")

    def sign(self, role, signers=None):
        """The role's bytes, signed by `signers` (numbers) or by its own keys."""
        metadata = self.roles[role]
        metadata.signatures.clear()
        for number in self.keys[role] if signers is None else signers:
            metadata.sign(signer(number), append=True)
        return metadata.to_bytes()

    def add(self, path, data, role="targets"):
        """A target, signed when `role` is published next."""
        info = TargetFile.from_data(path, data, ["sha256"])
        self.roles[role].signed.targets[path] = info
        folder, slash, name = path.rpartition("/")
        prefix = f"{info.hashes['sha256']}." if self.root.consistent_snapshot else ""
        self.files[f"{self.base}targets/{folder}{slash}{prefix}{name}"] = data
        return info

    def delegate(self, role, paths, numbers, delegator="targets", terminating=False, threshold=1):
        """A new targets role."""
        signed = self.roles[delegator].signed
        if signed.delegations is None:
            signed.delegations = Delegations({}, {})
        signed.delegations.roles[role] = DelegatedRole(role, [], threshold, terminating, paths)
        for number in numbers:
            signed.add_key(signer(number).public_key, role)
        if role not in self.roles:
            self.roles[role] = Metadata(Targets(expires=days(90)))
            self.keys[role] = list(numbers)

    def _delegated(self, signed, role):
        return signed.roles[role] if isinstance(signed, Root) else signed.delegations.roles[role]

    def _serve(self, role, data):
        version = f"{self.roles[role].signed.version}." if self.root.consistent_snapshot else ""
        self.files[f"{self.base}metadata/{version}{quote(role, '')}.json"] = data


def _sha256(data):
    return hashlib.sha256(data).hexdigest()
