"""How targets and roles are called, how versions are ordered, and which devices a rollout takes in. Pure."""

import hashlib
from typing import Annotated, Final, Literal

from agent.strict import Match

Kind = Literal["model", "agent"]
Channel = Literal["stable", "beta"]

ModelName = Annotated[
    str, Match("[a-z0-9][a-z0-9._-]{0,63}", "lower-case letters, digits, '.', '_', '-', at most 64")
]
Version = Annotated[
    str, Match(r"[0-9]{1,9}(\.[0-9]{1,9}){2}(-[0-9A-Za-z.-]{1,32})?", 'a version like "1.0.0" or "1.1.0-rc.1"')
]
"""Without the "+..." that a model.toml may carry: servers do not agree on what a plus in an address means."""
Sha256 = Annotated[str, Match("[0-9a-f]{64}", "64 lower-case hex digits")]
KeyId = Annotated[str, Match("[0-9a-f]{16}", "16 lower-case hex digits")]

TECHNICIANS_PATH: Final = "trust/technicians.json"
READERS_PATH: Final = "trust/readers.json"
REVOKED_PATH: Final = "trust/revoked.json"


def package_path(kind: Kind, name: str, version: str) -> str:
    """The target that is the package manifest of this version."""
    return f"{_folder(kind, name)}/{version}.json"


def channel_path(kind: Kind, name: str, channel: Channel) -> str:
    """The target that says which versions a channel offers."""
    return f"{_folder(kind, name)}/{channel}.json"


def role_name(kind: Kind, name: str) -> str:
    """The delegated role that signs a family: unique, so that no two delegations ever meet in one role."""
    return "agent-releases" if kind == "agent" else f"model-{name}"


def path_pattern(kind: Kind, name: str) -> str:
    """The paths that this role may sign."""
    return f"{_folder(kind, name)}/*"


def layer_paths(site: str, device: str, group: str = "") -> tuple[str, ...]:
    """The configuration layers of a device, the most general first."""
    groups = (f"config/group-{group}.toml",) if group else ()
    return ("config/base.toml", *groups, f"config/device-{site}-{device}.toml")


def included(site: str, device: str, path: str, percent: int) -> bool:
    """Whether a rollout to `percent` of the fleet takes this device in. `path`: of the package manifest.

    The first 4 bytes of sha256("<site>/<device>" NUL path) are the device's place, 0 to 2^32 - 1: the same at every
    call, another one for every version, and who is in at 10 % is in at 20 % too.
    """
    place = int.from_bytes(hashlib.sha256(f"{site}/{device}\0{path}".encode()).digest()[:4], "big")
    return place * 100 < percent << 32


def version_order(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """Sorts versions as Semantic Versioning 2.0.0 section 11 does: 1.0.0-rc.1 < 1.0.0-rc.2 < 1.0.0 < 1.0.1."""
    release, _, early = version.partition("-")
    parts = early.split(".") if early else []
    number = [part.isdigit() for part in parts]
    order = tuple((not n, int(p) if n else 0, p) for n, p in zip(number, parts, strict=True))
    return tuple(int(part) for part in release.split(".")), not early, order


def _folder(kind: Kind, name: str) -> str:
    return "releases/agent" if kind == "agent" else f"models/{name}"
