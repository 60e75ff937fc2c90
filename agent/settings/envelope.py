"""How payloads are sealed on a device, and what a reader believes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from agent.settings.names import AnyName
from agent.strict import Range


@dataclass(frozen=True, slots=True)
class EnvelopeConfig:
    """[envelope]: the device's side."""

    mode: Literal["sealed", "plain"] = "sealed"
    """plain sends JSON that the broker can read; readers must be told as well."""
    signing_key: Path | None = None
    """The device's private signing key (PEM), or the name of a systemd credential. Needed when sealed."""
    readers: Annotated[tuple[Path, ...], Range(0, 256)] = ()
    """Public keys of those who may read. At least one when sealed."""
    certificate: Path | None = None
    """The device's certificate (PEM) by the site's authority; none when readers list the key itself."""
    compression: Literal["none", "deflate", "zstd"] = "deflate"
    """For batches. Browsers read deflate without a library; zstd needs the `zstandard` package or Python 3.14."""
    epoch_s: Annotated[float, Range(60, 3600)] = 3600.0
    """Age at which a new epoch key is made, seconds."""


@dataclass(frozen=True, slots=True)
class DeviceTrust:
    """[[reader.device]]: one device that the reader believes."""

    site: AnyName
    device: AnyName
    mode: Literal["sealed", "plain"] = "sealed"
    """plain payloads of a sealed device are refused, and the other way round."""
    keys: tuple[Path, ...] = ()
    """The device's public signing keys: one, or two while it is renewed. None when the authority certifies it."""


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """[reader.limits]: what one reader spends on messages, hostile ones included."""

    message_bytes: Annotated[int, Range(1024, 16 * 1024 * 1024)] = 1024 * 1024
    """Largest message that is looked at, bytes."""
    expanded_bytes: Annotated[int, Range(1024, 64 * 1024 * 1024)] = 8 * 1024 * 1024
    """Largest batch after decompression, bytes."""
    batch_events: Annotated[int, Range(1, 10_000)] = 1000
    """Most events in one batch."""
    held_messages: Annotated[int, Range(0, 1000)] = 1000
    """Most messages that wait for their key envelope."""
    held_bytes: Annotated[int, Range(0, 256 * 1024 * 1024)] = 16 * 1024 * 1024
    """Most bytes that wait for their key envelope."""
    held_s: Annotated[float, Range(0, 60)] = 60.0
    """How long a message waits for its key envelope, seconds."""
    epochs: Annotated[int, Range(2, 4096)] = 256
    """Epoch keys kept, of all devices together; one more and the longest unused is closed for good."""
    event_ids: Annotated[int, Range(100, 1_000_000)] = 65_536
    """Event ids remembered to drop duplicates."""


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """[reader]: the reading side, used by `limpet watch` and by services that embed `agent.envelope`."""

    key: Path | None = None
    """The reader's private key (PEM), or the name of a systemd credential. Needed for sealed devices."""
    device: tuple[DeviceTrust, ...] = ()
    """The devices this reader believes."""
    authority: Path | None = None
    """Certificate (PEM) of the site's authority: devices certified by it are believed without being listed."""
    authority_site: str = ""
    """The one site for which `authority` may certify devices."""
    revoked: Path | None = None
    """trust/revoked.json of the repository: a device whose key stands there is not believed, from the next look on."""
    limits: ReaderLimits = ReaderLimits()

    def __post_init__(self) -> None:
        if (self.authority is None) != (self.authority_site == ""):
            raise ValueError("'authority' and 'authority_site' belong together: give both or none")
        for known in self.device:
            if known.mode == "sealed" and not known.keys and self.authority is None:
                raise ValueError(f"device '{known.site}/{known.device}' is sealed: give its public key under 'keys'")
