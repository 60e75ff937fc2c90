"""What a publisher does: make a repository, add versions, release them, change trust, keys and lifetimes.

Each operation makes drafts; `finish` publishes what has its signatures and says who is missing for the rest. Nothing is
ever changed in place: a version that was added stays as it is, and is withdrawn or followed by another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from tuf.api.metadata import DelegatedRole, Delegations, Key, Role, Root, TargetFile, Targets

from agent.envelope.keys import ReaderPublic
from agent.errors import ConfigError
from agent.package import (
    ChannelPointer,
    Kind,
    PackageManifest,
    Release,
    channel_path,
    package_path,
    path_pattern,
    role_name,
    version_order,
)
from agent.package.names import Channel
from agent.repository import custody
from agent.repository.keyring import Keyring, import_key
from agent.repository.making import Contents, make_package
from agent.repository.online import refresh
from agent.repository.proof import Proven
from agent.repository.roles import ROOT, TARGETS, TOP, Roles, Waiting
from agent.repository.workspace import Lifetimes, Settings, Workspace


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """The keys that a role starts with."""

    make: int = 1
    """Pairs to make here."""
    threshold: int = 1
    given: tuple[str, ...] = ()
    """Addresses, or .pub files of others."""
    algorithm: str = "ed25519"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a repository stands after an operation."""

    waiting: tuple[Waiting, ...]
    fresh: bool
    """Whether snapshot and timestamp say what is published; if not, their keys are not at hand."""


class Publisher:
    """One repository, for as long as `Workspace.held` lasts."""

    def __init__(self, workspace: Workspace, keyring: Keyring, now: datetime) -> None:
        """`now`: UTC. Keys are looked for in the workspace and where `keyring` says. Raises ConfigError."""
        self.workspace = workspace
        self._settings = workspace.settings()
        self._keyring = replace(keyring, folders=(workspace.keys, *keyring.folders))
        self.roles = self._roles(now)

    @classmethod
    def create(
        cls, workspace: Workspace, keyring: Keyring, plans: dict[str, KeyPlan], days: Lifetimes, now: datetime
    ) -> "Publisher":
        """Make a repository: keys, root and empty targets as drafts. `plans`: by role. Raises ConfigError."""
        given = {role: [import_key(one, keyring.ask) for one in plan.given] for role, plan in plans.items()}
        for role, plan in plans.items():
            custody.require_threshold(role, plan.threshold, plan.make + len({key.keyid for key, _ in given[role]}))
        uris = {key.keyid: uri for keys in given.values() for key, uri in keys if uri}
        workspace.create(Settings(days=days, uris=uris))
        publisher = cls(workspace, keyring, now)
        root = Root(expires=now, roles={role: Role([], plans[role].threshold) for role in TOP})
        for role, plan in plans.items():
            made = (keyring.make(workspace.keys / role, role, plan.algorithm) for _ in range(plan.make))
            for key in (*made, *(key for key, _ in given[role])):
                root.add_key(key, role)
        publisher.roles.start(ROOT, root)
        publisher.roles.start(TARGETS, Targets(expires=now))
        return publisher

    def finish(self) -> Outcome:
        """Publish what has its signatures, and renew snapshot and timestamp if their keys are at hand."""
        return Outcome(self.roles.settle(), refresh(self.roles))

    def refresh(self) -> bool:
        """Make a new timestamp, and a snapshot if it is due; False when their keys are away. Raises ConfigError."""
        return refresh(self.roles, force=True)

    # -- versions and channels

    def add_model(self, proven: Proven, recipients: Sequence[ReaderPublic] = ()) -> PackageManifest:
        """Add a model folder that `prove` found good; its artifacts are sealed when there are recipients."""
        manifest = proven.manifest
        contents = Contents(
            "model", manifest.name, manifest.version, proven.files, proven.requires_agent, proven.artifacts, recipients
        )
        return self._add(contents)

    def add_agent(self, folder: Path, version: str) -> PackageManifest:
        """Add a release of the agent: every file of a folder. Raises ConfigError."""
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        if not files:
            raise ConfigError(f"{folder}: there is no file in it")
        return self._add(Contents("agent", "agent", version, files))

    def release(self, kind: Kind, name: str, version: str, channel: Channel, percent: int) -> ChannelPointer:
        """Offer a version in a channel to so many percent of the fleet. Raises ConfigError."""
        if not 0 <= percent <= 100:
            raise ConfigError(f"--rollout {percent}: it must be 0 to 100 percent")
        self._require_version(kind, name, version)
        others = [one for one in self.pointer(kind, name, channel).releases if one.version != version]
        return self._point(kind, name, channel, [*others, Release(version, percent)])

    def withdraw(self, kind: Kind, name: str, version: str) -> None:
        """Offer a version nowhere any more, and sign it no longer. Devices that run it go on. Raises ConfigError."""
        self._require_version(kind, name, version)
        for channel in ("stable", "beta"):
            pointer = self.pointer(kind, name, channel)
            if any(one.version == version for one in pointer.releases):
                self._point(kind, name, channel, [one for one in pointer.releases if one.version != version])
        self._drop(role_name(kind, name), package_path(kind, name, version))

    def pointer(self, kind: Kind, name: str, channel: Channel) -> ChannelPointer:
        """What a channel offers now; nothing when it was never used."""
        data = self.target(role_name(kind, name), channel_path(kind, name, channel))
        return ChannelPointer(name, channel, ()) if data is None else ChannelPointer.decode(data)

    def versions(self, kind: Kind, name: str) -> tuple[PackageManifest, ...]:
        """Every version that is signed, the newest first."""
        role = role_name(kind, name)
        if role not in self.roles.delegated():
            return ()
        channels = {channel_path(kind, name, channel) for channel in ("stable", "beta")}
        paths = set(self.roles.newest(role).signed.targets) - channels
        found = (PackageManifest.decode(self.target(role, path) or b"", path) for path in paths)
        return tuple(sorted(found, key=lambda manifest: version_order(manifest.version), reverse=True))

    # -- other targets

    def put(self, path: str, data: bytes, role: str = TARGETS) -> None:
        """Sign `data` as the target `path`."""
        target = TargetFile.from_data(path, data, ["sha256"])
        for name in target.get_prefixed_paths():
            self.workspace.write(self.workspace.public / "targets" / name, data)
        self.roles.edit(role, lambda signed: signed.targets.update({path: target}))

    def drop(self, path: str) -> None:
        """Sign a target of the top role no longer. Raises ConfigError when there is none."""
        if path not in self.roles.newest(TARGETS).signed.targets:
            raise ConfigError(f"{path}: there is no such target")
        self._drop(TARGETS, path)

    def target(self, role: str, path: str) -> bytes | None:
        """What is signed as `path` by `role`, or None."""
        if role != TARGETS and role not in self.roles.delegated():
            return None
        target = self.roles.newest(role).signed.targets.get(path)
        if target is None:
            return None
        return self.workspace.read(self.workspace.public / "targets" / target.get_prefixed_paths()[0])

    # -- keys

    def rotate(self, role: str, address: str = "", old: str = "", *, add: bool = False, threshold: int = 0) -> Key:
        """Give a role a new key, in the place of `old` (by default its only one), or beside the others.

        `address`: a .pub file or an address; without it a pair is made in the workspace. `add`: keep all old keys.
        `threshold`: the new one; 0 leaves it. Raises ConfigError.
        """
        leaving = custody.leaving(self.roles, role, old, add=add, threshold=threshold)
        key = self._new_key(role, address)
        custody.exchange(self.roles, role, key, leaving, threshold)
        return key

    def revoke(self, keyid: str) -> tuple[str, ...]:
        """Take a key out of every role; returns which. Raises ConfigError when a role could then not be signed."""
        return custody.revoke(self.roles, keyid)

    def renew(self, roles: Sequence[str], within_days: int) -> tuple[str, ...]:
        """Draft anew the roles that end within so many days, or those that are named; returns which."""
        end = self.roles.now + timedelta(days=within_days)
        offline = (ROOT, TARGETS, *self.roles.delegated())
        if unknown := set(roles) - set(offline):
            raise ConfigError(f"{unknown.pop()}: renew takes {', '.join(offline)}; 'limpet repo refresh' does the rest")
        due = tuple(roles) or tuple(role for role in offline if self.roles.newest(role).signed.expires < end)
        for role in due:
            self.roles.edit(role)
        return due

    def sign(self) -> dict[str, int]:
        """Add the signatures of keys at hand to every draft; how many, by role."""
        drafts = (role for role in (ROOT, TARGETS, *self.roles.delegated()) if self.roles.draft(role))
        return {role: self.roles.sign(role) for role in drafts}

    # -- inside

    def _add(self, contents: Contents) -> PackageManifest:
        earlier = self.versions(contents.kind, contents.name)
        if any(manifest.version == contents.version for manifest in earlier):
            words = f"{contents.name} {contents.version} is signed already, and a version never changes"
            raise ConfigError(f"{words}: give the new one another version")
        made = make_package(self.workspace, contents, earlier)
        role = role_name(contents.kind, contents.name)
        self._found_family(contents.kind, contents.name)
        self.put(made.target, made.encode(), role)
        return made

    def _found_family(self, kind: Kind, name: str) -> None:
        """Delegate to a family's own role, once: with the keys of the top role, until they are rotated."""
        role = role_name(kind, name)
        if role in self.roles.delegated():
            return
        threshold, keys = self.roles.keys(TARGETS)

        def delegate(targets: Targets) -> None:
            targets.delegations = targets.delegations or Delegations({}, {})
            assert targets.delegations.roles is not None
            targets.delegations.roles[role] = DelegatedRole(role, [], threshold, True, [path_pattern(kind, name)])
            for key in keys.values():
                targets.add_key(key, role)

        self.roles.edit(TARGETS, delegate)
        self.roles.start(role, Targets(expires=self.roles.now))

    def _point(self, kind: Kind, name: str, channel: Channel, releases: Sequence[Release]) -> ChannelPointer:
        ordered = sorted(releases, key=lambda one: version_order(one.version), reverse=True)
        made = ChannelPointer(name, channel, tuple(_reachable(ordered)))
        self.put(channel_path(kind, name, channel), made.encode(), role_name(kind, name))
        return made

    def _require_version(self, kind: Kind, name: str, version: str) -> None:
        there = [manifest.version for manifest in self.versions(kind, name)]
        if version not in there:
            raise ConfigError(f"{name} {version} was never added: there are {', '.join(there) or 'none'}")

    def _drop(self, role: str, path: str) -> None:
        self.roles.edit(role, lambda signed: signed.targets.pop(path))

    def _roles(self, now: datetime) -> Roles:
        keyring = replace(self._keyring, uris={**self._settings.uris, **self._keyring.uris})
        return Roles(self.workspace, keyring, self._settings.days, now.replace(microsecond=0))

    def _new_key(self, role: str, address: str) -> Key:
        if not address:
            return self._keyring.make(self.workspace.keys / role, role)
        key, uri = import_key(address, self._keyring.ask)
        if uri:
            self._settings = replace(self._settings, uris={**self._settings.uris, key.keyid: uri})
            self.workspace.save(self._settings)
            self.roles = self._roles(self.roles.now)
        return key


def _reachable(releases: Sequence[Release]) -> Iterator[Release]:
    """Releases up to the first that takes every device: what stands behind it is for nobody."""
    for release in releases:
        yield release
        if release.rollout_percent == 100:
            return
