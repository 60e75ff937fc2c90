"""What a repository of signed updates holds, as types: strict to read, the same bytes to write.

Owns: the formats of docs/repository.md (package manifests, channel pointers, lists of technicians, readers and revoked
keys, chunk lists, deltas, sealed files), the names of targets, and the rule by which a rollout takes devices in.
Refuses: whatever is larger than its limit (before it is parsed), an unknown or doubled key, a path that leaves its
folder. Every refusal is an UpdateError with reason VERIFY_FAILED that says what is wrong. No network, no clock; what
is signed and by whom is the business of `agent.updates` and `agent.repository`.
"""

from agent.package.channel import CHANNELS, ChannelPointer, Release
from agent.package.manifest import MANIFEST_LIMIT_BYTES, Blob, Delta, Encryption, FileEntry, PackageManifest, WrappedKey
from agent.package.names import (
    READERS_PATH,
    REVOKED_PATH,
    TECHNICIANS_PATH,
    Kind,
    channel_path,
    included,
    layer_paths,
    package_path,
    path_pattern,
    role_name,
    version_order,
)
from agent.package.trust import Reader, Readers, Revoked, RevokedKey, Technician, Technicians

__all__ = [
    "CHANNELS", "MANIFEST_LIMIT_BYTES", "READERS_PATH", "REVOKED_PATH", "TECHNICIANS_PATH", "Blob", "ChannelPointer",
    "Delta", "Encryption", "FileEntry", "Kind", "PackageManifest", "Reader", "Readers", "Release", "Revoked",
    "RevokedKey", "Technician", "Technicians", "WrappedKey", "channel_path", "included", "layer_paths", "package_path",
    "path_pattern", "role_name", "version_order",
]  # fmt: skip
