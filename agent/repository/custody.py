"""Who signs for a role: giving it keys, taking keys away, and keeping what was signed valid.

A role's keys stand in what delegates to it, root or targets, so each change drafts that anew; and the role itself, when
the signatures that it has are not enough any more. Refused: a threshold that the keys cannot reach, or below one.
"""

from tuf.api.metadata import Key, Root, Targets

from agent.errors import ConfigError
from agent.repository.modules import short
from agent.repository.roles import ROOT, TARGETS, TOP, Roles


def leaving(roles: Roles, role: str, old: str = "", *, add: bool = False, threshold: int = 0) -> str:
    """The id of the key that a new one replaces, "" with `add`; `old`: its first digits, needed among several.

    Raises ConfigError when that is not clear, or when the threshold would not fit.
    """
    now, keys = roles.keys(role)
    gone = "" if add else _chosen(role, tuple(keys), old)
    require_threshold(role, threshold or now, len(keys) + (1 if add else 0))
    return gone


def exchange(roles: Roles, role: str, key: Key, gone: str, threshold: int = 0) -> None:
    """Give `role` a key and take `gone` away. Where targets changes a key, the families that had it follow."""
    if key.keyid in roles.keys(role)[1]:
        raise ConfigError(f"{role} has key {short(key.keyid)} already")
    families = roles.delegated() if role == TARGETS and gone else ()
    following = [family for family in families if gone in roles.keys(family)[1]]
    for one in (*following, role):  # the role last: cut short and done again, no family is left with the old key
        _change(roles, one, add=key, remove=gone, threshold=threshold if one == role else 0)


def revoke(roles: Roles, keyid: str) -> tuple[str, ...]:
    """Take a key out of every role; returns which. Raises ConfigError when a role could then not be signed."""
    held = {role: roles.keys(role) for role in (*TOP, *roles.delegated())}
    found = {one for _, keys in held.values() for one in keys if keyid and one.startswith(keyid)}
    if len(found) != 1:
        raise ConfigError(f"key '{keyid}': {len(found)} keys begin so: 'limpet repo status' shows them all")
    full = found.pop()
    having = tuple(role for role, (_, keys) in held.items() if full in keys)
    for role in having:
        threshold, keys = held[role]
        if len(keys) - 1 < threshold:
            words = f"{role} would have {len(keys) - 1} keys for a threshold of {threshold}"
            raise ConfigError(f"{words}: give it another key first: limpet repo rotate {role} --old {short(full)}")
    for role in having:
        _change(roles, role, remove=full)
    return having


def require_threshold(role: str, threshold: int, keys: int) -> None:
    """Raises ConfigError unless 1 <= threshold <= keys."""
    if not 1 <= threshold <= keys:
        raise ConfigError(f"{role}: a threshold of {threshold} with {keys} keys: it must be 1 to the number of keys")


def _change(roles: Roles, role: str, *, add: Key | None = None, remove: str = "", threshold: int = 0) -> None:
    """Change who signs a role, and draft the role anew if it is not valid any more."""

    def change(above: Root | Targets) -> None:
        if add is not None:
            above.add_key(add, role)
        if remove:
            above.revoke_key(remove, role)
        if threshold:
            above.get_delegated_role(role).threshold = threshold

    roles.edit(ROOT if role in TOP else TARGETS, change)
    if role in (TARGETS, *roles.delegated()) and not roles.verified(role):
        roles.edit(role)


def _chosen(role: str, keys: tuple[str, ...], old: str) -> str:
    """The id of the key that leaves."""
    fitting = [keyid for keyid in keys if keyid.startswith(old)]
    if len(fitting) != 1:
        there = ", ".join(sorted(map(short, keys)))
        raise ConfigError(f"{role} has the keys {there}: say with --old which one leaves, or --add to keep them all")
    return fitting[0]
