"""How a repository stands, as rows for people and programs: roles, keys, ends, drafts, versions, channels."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from agent.package import CHANNELS, ChannelPointer, Kind
from agent.repository.modules import short
from agent.repository.publisher import Publisher
from agent.repository.roles import ROOT, SNAPSHOT, TARGETS, TIMESTAMP


def role_rows(publisher: Publisher) -> Iterator[dict[str, Any]]:
    """One row per role: what is published, how long it holds, and what waits."""
    roles = publisher.roles
    for role in (ROOT, TARGETS, *roles.delegated(), SNAPSHOT, TIMESTAMP):
        threshold, keys = roles.keys(role)
        published, draft = roles.published(role), roles.draft(role)
        at_hand = [keyid for keyid, key in keys.items() if roles.at_hand(key)]
        yield {
            "role": role,
            "version": published.signed.version if published else 0,
            "ends_in_days": (published.signed.expires - roles.now) // timedelta(days=1) if published else None,
            "threshold": threshold,
            "keys": [short(keyid) + ("*" if keyid in at_hand else "") for keyid in sorted(keys)],
            "pending": _pending(publisher, role) if draft else "",
        }


def family_rows(publisher: Publisher) -> Iterator[dict[str, Any]]:
    """One row per version of each family: its size, and where it is offered."""
    for role in publisher.roles.delegated():
        kind: Kind = "agent" if role == "agent-releases" else "model"
        name = "agent" if kind == "agent" else role.removeprefix("model-")
        pointers = [publisher.pointer(kind, name, channel) for channel in CHANNELS]
        for manifest in publisher.versions(kind, name):
            yield {
                "family": name,
                "version": manifest.version,
                "bytes": manifest.stored_bytes,
                "sealed_for": len(manifest.encryption.keys) if manifest.encryption else 0,
                "offered": [words for pointer in pointers for words in _offered(pointer, manifest.version)],
            }


def _offered(pointer: ChannelPointer, version: str) -> Iterator[str]:
    yield from (f"{pointer.channel} {r.rollout_percent}%" for r in pointer.releases if r.version == version)


def _pending(publisher: Publisher, role: str) -> str:
    """What a draft waits for, in words."""
    waiting = publisher.roles.waiting(role)
    if not waiting:
        return "signed, waits for another role"
    return "; ".join(
        f"v{w.version}: {w.signed} of {w.threshold}{f' by the {w.by} keys' if w.by else ''}, "
        f"missing {', '.join(map(short, w.missing))}"
        for w in waiting
    )
