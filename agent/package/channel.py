"""A channel pointer: which versions of a family a channel offers, the newest first, and to which part of a fleet."""

from dataclasses import asdict, dataclass
from typing import Annotated, Final, get_args

from agent.package.document import read, write
from agent.package.names import Channel, Kind, ModelName, Version, included, package_path
from agent.strict import Range

CHANNELS: Final[tuple[Channel, ...]] = get_args(Channel)
POINTER_LIMIT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Release:
    """One version that a channel offers."""

    version: Version
    rollout_percent: Annotated[int, Range(0, 100)]


@dataclass(frozen=True, slots=True)
class ChannelPointer:
    """What a channel offers of one family. `name` is "agent" for the agent itself."""

    name: ModelName
    channel: Channel
    releases: Annotated[tuple[Release, ...], Range(0, 64)]

    def __post_init__(self) -> None:
        if len({release.version for release in self.releases}) != len(self.releases):
            raise ValueError("a version is released twice")

    def choose(self, site: str, device: str, kind: Kind = "model") -> str | None:
        """The version for this device: the first release whose rollout takes it in; None when none does."""
        for release in self.releases:
            if included(site, device, package_path(kind, self.name, release.version), release.rollout_percent):
                return release.version
        return None

    @classmethod
    def decode(cls, data: bytes, what: str = "channel pointer") -> "ChannelPointer":
        """Read what `encode` wrote. Raises UpdateError (VERIFY_FAILED)."""
        return read(cls, data, POINTER_LIMIT_BYTES, what)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return write(asdict(self))
