"""The metadata of a repository: drafts, signatures, thresholds, and what may be published together.

A change makes a draft of the next version, signed with the keys at hand. `settle` publishes the largest set of drafts
in which every role that would then be valid is verified by the one that delegates to it; the rest waits in pending/.
Snapshot and timestamp have none (agent/repository/online.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Signed, VerificationResult
from tuf.api.serialization import SerializationError
from tuf.api.serialization.json import JSONSerializer

from agent.errors import ConfigError
from agent.repository.keyring import Keyring
from agent.repository.modules import sign
from agent.repository.workspace import Lifetimes, Workspace

AnyMetadata = Metadata[Any]
ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
TOP: Final = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
METADATA_BYTES: Final = JSONSerializer(compact=True, validate=True)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A draft that lacks signatures of one of the groups that must sign it."""

    role: str
    version: int
    signed: int
    threshold: int
    missing: tuple[str, ...]
    """Ids of the keys that could still sign."""
    by: str = ""
    """"previous": the keys of the previous root, which must agree to the next."""


class Roles:
    """The metadata in a workspace that this process holds."""

    def __init__(self, workspace: Workspace, keyring: Keyring, days: Lifetimes, now: datetime) -> None:
        """`now`: in UTC, without microseconds."""
        self.workspace = workspace
        self.keyring = keyring
        self.now = now
        self._days = days

    def published(self, role: str, version: int | None = None) -> AnyMetadata | None:
        """What devices see, or saw as `version`. Raises ConfigError when it is damaged."""
        if role == TIMESTAMP:
            return self._load(self.workspace.metadata / "timestamp.json")
        wanted = self.latest(role) if version is None else version
        return self._load(self.workspace.metadata / f"{wanted}.{role}.json")

    def draft(self, role: str) -> AnyMetadata | None:
        """What waits for signatures."""
        return self._load(self.workspace.folder / "pending" / f"{role}.json")

    def newest(self, role: str) -> AnyMetadata:
        """The draft, or else what is published. Raises ConfigError when there is neither."""
        found = self.draft(role) or self.published(role)
        if found is None:
            raise ConfigError(f"{self.workspace.folder}: there is no role '{role}': see 'limpet repo status'")
        return found

    def delegated(self) -> tuple[str, ...]:
        """The delegated roles, in the order in which devices ask them."""
        delegations = self.newest(TARGETS).signed.delegations
        return tuple(delegations.roles or ()) if delegations else ()

    def published_delegated(self) -> tuple[str, ...]:
        """The delegated roles that devices see."""
        targets = self.published(TARGETS)
        delegations = targets.signed.delegations if targets else None
        return tuple(delegations.roles or ()) if delegations else ()

    def start(self, role: str, signed: Signed) -> None:
        """Make version 1 of a role as a draft."""
        self._draft(role, Metadata(signed), 1)

    def edit(self, role: str, change: Callable[[Any], None] = lambda _: None) -> None:
        """Make a draft of the next version; a draft that waits is changed, and must be signed anew.

        `change` gets the Signed object and may raise. Without a change: a new version, with a new end.
        """
        made = self.newest(role)
        change(made.signed)
        before = self.published(role)
        self._draft(role, made, 1 + (before.signed.version if before else 0))

    def sign(self, role: str) -> int:
        """Add signatures of keys at hand to a draft; returns how many were added. Raises ConfigError."""
        made = self.draft(role)
        if made is None:
            return 0
        added = self._sign(role, made)
        if added:
            self._write_draft(role, made)
        return added

    def settle(self) -> tuple[Waiting, ...]:
        """Publish what has its signatures; returns what has not."""
        there = self._roles_there()
        drafts = {role: made for role in there if (made := self.draft(role))}
        ready = set(drafts)
        while bad := self._unverified(self._state(there, drafts, ready)):
            drop = (bad | {self._delegator(role) for role in bad}) & ready
            if not drop:
                break
            ready -= (bad & ready) or drop
        for role in sorted(ready, key=lambda role: role == ROOT):  # the root last: a cut before it changes nothing
            self._publish(role, drafts[role])
        return tuple(w for role in sorted(set(drafts) - ready) for w in self.waiting(role))

    def waiting(self, role: str) -> tuple[Waiting, ...]:
        """Who has not signed a draft yet."""
        made = self.draft(role)
        if made is None:
            return ()
        results = {by: result for by, result in self._results(role, made).items() if not result}
        return tuple(
            Waiting(role, made.signed.version, len(r.signed), r.threshold, tuple(sorted(r.unsigned)), by)
            for by, r in results.items()
        )

    def keys(self, role: str) -> tuple[int, dict[str, Key]]:
        """Threshold and keys of a role, as the newest root or targets say."""
        above = self.newest(self._delegator(role)).signed
        try:
            held = above.get_delegated_role(role)
            return held.threshold, {keyid: above.get_key(keyid) for keyid in held.keyids}
        except ValueError as exc:
            raise ConfigError(f"there is no role '{role}': see 'limpet repo status'") from exc

    def latest(self, role: str) -> int:
        """The highest version that was published; 0 when none was."""
        names = (path.name.partition(".") for path in self.workspace.metadata.glob(f"*.{role}.json"))
        return max((int(n) for n, _, rest in names if n.isdigit() and rest == f"{role}.json"), default=0)

    def lifetime_days(self, role: str) -> int:
        """How long a signature on a role is good for."""
        days = {ROOT: self._days.root, SNAPSHOT: self._days.snapshot, TIMESTAMP: self._days.timestamp}
        return days.get(role, self._days.targets)

    def at_hand(self, key: Key) -> bool:
        """Whether this process could sign with the private half of `key`, as far as can be told without trying."""
        return self.keyring.holds(key)

    def verified(self, role: str) -> bool:
        """Whether what is newest of a role is signed as the newest root or targets ask."""
        return self._role_verified(role, self.newest(role), {ROOT: self.newest(ROOT), TARGETS: self.newest(TARGETS)})

    # -- drafts

    def _draft(self, role: str, made: AnyMetadata, version: int) -> None:
        made.signed.version = version
        made.signed.expires = self.now + timedelta(days=self.lifetime_days(role))
        made.signatures.clear()
        self._sign(role, made)
        self._write_draft(role, made)

    def _write_draft(self, role: str, made: AnyMetadata) -> None:
        self.workspace.write(self.workspace.folder / "pending" / f"{role}.json", made.to_bytes(METADATA_BYTES))

    def _sign(self, role: str, made: AnyMetadata) -> int:
        added = 0
        for key in self._signers_of(role, made).values():
            if key.keyid not in made.signatures and (signer := self.keyring.signer(key)):
                made.signatures[key.keyid] = sign(signer, made.signed_bytes)
                added += 1
        return added

    def _signers_of(self, role: str, made: AnyMetadata) -> dict[str, Key]:
        if role != ROOT:
            return self.keys(role)[1]
        roots = [made.signed] + ([before.signed] if (before := self.published(ROOT)) else [])
        return {keyid: root.keys[keyid] for root in roots for keyid in root.roles[ROOT].keyids}

    # -- what may be published together

    def _roles_there(self) -> tuple[str, ...]:
        return tuple(r for r in (ROOT, TARGETS, *self.delegated()) if self.draft(r) or self.published(r))

    def _state(
        self, roles: tuple[str, ...], drafts: Mapping[str, AnyMetadata], ready: set[str]
    ) -> dict[str, AnyMetadata]:
        found = {role: drafts[role] if role in ready else self.published(role) for role in roles}
        return {role: made for role, made in found.items() if made is not None}

    def _unverified(self, state: Mapping[str, AnyMetadata]) -> set[str]:
        """Roles that would not be valid in this state, or would be missing in it."""
        needed = {ROOT, TARGETS} & set(state)
        if TARGETS in state and (delegations := state[TARGETS].signed.delegations):
            needed |= set(delegations.roles or ())
        bad = {role for role in needed if role not in state or not self._role_verified(role, state[role], state)}
        return bad | {role for role in state if role not in needed and self.draft(role) is state[role]}

    def _role_verified(self, role: str, made: AnyMetadata, state: Mapping[str, AnyMetadata]) -> bool:
        if role == ROOT:
            return all(self._root_results(made).values())
        above = state.get(self._delegator(role))
        return above is not None and bool(verification(above, role, made))

    def _results(self, role: str, made: AnyMetadata) -> dict[str, VerificationResult]:
        if role == ROOT:
            return self._root_results(made)
        return {"": verification(self.newest(self._delegator(role)), role, made)}

    def _root_results(self, made: AnyMetadata) -> dict[str, VerificationResult]:
        """A root is signed by its own keys and by those of the root before it."""
        before = self.published(ROOT, made.signed.version - 1)
        earlier = {"previous": verification(before, ROOT, made)} if before else {}
        return earlier | {"": verification(made, ROOT, made)}

    def _publish(self, role: str, made: AnyMetadata) -> None:
        data = made.to_bytes(METADATA_BYTES)
        self.workspace.write(self.workspace.metadata / f"{made.signed.version}.{role}.json", data)
        if role == ROOT:
            self.workspace.write(self.workspace.anchor, data)
        self.workspace.remove(self.workspace.folder / "pending" / f"{role}.json")

    # -- files

    def _load(self, path: Any) -> AnyMetadata | None:
        data = self.workspace.read(path)
        if data is None:
            return None
        try:
            return Metadata.from_bytes(data)
        except (SerializationError, RepositoryError, ValueError) as exc:
            raise ConfigError(f"{path}: the metadata is damaged: {exc}: restore it from your backup") from exc

    @staticmethod
    def _delegator(role: str) -> str:
        return ROOT if role in TOP else TARGETS


def verification(above: AnyMetadata, role: str, made: AnyMetadata) -> VerificationResult:
    """How many valid signatures `made` has of those that `above` asks for; a role that nobody asks for has none."""
    try:
        result: VerificationResult = above.signed.get_verification_result(role, made.signed_bytes, made.signatures)
    except ValueError:
        return VerificationResult(1, {}, {})
    return result
