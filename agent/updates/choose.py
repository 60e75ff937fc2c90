"""Which version this device shall have: what its channel offers, its place in the rollout, and what it had before.

Pure but for `read`, which gives the bytes of a small signed target or None. beta takes stable releases too when they
are newer. A pinned model, one that went wrong here and one below the floor are let be, and it is said why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.depot import ModelState
from agent.errors import UpdateError
from agent.package import CHANNELS, ChannelPointer, Kind, channel_path, version_order
from agent.package.channel import POINTER_LIMIT_BYTES
from agent.package.names import Channel


class Read(Protocol):
    """A small target's bytes by path and size limit, proved; None when the repository signs no such target.

    `local`: a file that may already be it, and then nothing is fetched. Raises UpdateError.
    """

    def __call__(self, path: str, limit_bytes: int, local: Path | None = None, /) -> bytes | None: ...



@dataclass(frozen=True, slots=True)
class Choice:
    """What to do about one model: fetch `version`, or nothing (empty) for the reason in `text`."""

    version: str
    text: str


def offered(read: Read, kind: Kind, name: str, channel: Channel, site: str, device: str) -> str:
    """The newest version that the channel offers to this device; empty when it offers none. Raises UpdateError."""
    versions: list[str] = []
    for one in _channels(channel):
        path = channel_path(kind, name, one)
        data = read(path, POINTER_LIMIT_BYTES)
        if data is None:
            continue
        pointer = ChannelPointer.decode(data, path)
        if (pointer.name, pointer.channel) != (name, one):
            raise UpdateError(f"{path}: it is about {pointer.name} {pointer.channel}", "VERIFY_FAILED")
        if version := pointer.choose(site, device, kind):
            versions.append(version)
    return max(versions, key=version_order, default="")


def choose(name: str, model: ModelState, offer: str, factory: str = "") -> Choice:
    """What the timer does about a model. `factory`: version of the model in the package, empty when there is none."""
    has = model.active.version if model.active else factory
    if not offer:
        return Choice("", f"{name}: the channel offers this device nothing")
    if model.pinned is not None:
        return Choice("", f"{name}: pinned to {model.pinned}, {offer} is let be")
    if model.trial:
        return Choice("", f"{name}: {model.trial.version} is on probation")
    if has and version_order(offer) <= version_order(has.partition("+")[0]):
        return Choice("", f"{name}: {has} is up to date")
    if model.floor and version_order(offer) < version_order(model.floor):
        return Choice("", f"{name}: {offer} is older than {model.floor}, which ran here")
    if bad := next((bad for bad in model.bad if bad.version == offer), None):
        return Choice("", f"{name}: {offer} went wrong here before ({bad.reason})")
    return Choice(offer, f"{name}: {offer} follows {has or 'nothing'}")


def _channels(channel: Channel) -> Sequence[Channel]:
    return CHANNELS if channel == "beta" else (channel,)
