"""[uplink] of limpet.toml: which broker, how the hop is protected, how much is under way, what a refusal leads to."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from agent.strict import Match, Range

_BROKER = Match(r"mqtts?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", "mqtts://host:port or mqtt://host:port")


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """[uplink]: the way to the broker."""

    broker: Annotated[str, _BROKER] = "mqtts://localhost:8883"
    """mqtts:// is TLS 1.3, port 8883 unless given; mqtt:// is cleartext, port 1883, for loopback."""
    protocol: Literal["5", "3.1.1"] = "5"
    """MQTT version. 3.1.1 cannot report a message that the broker's access list refuses: such messages are lost."""
    ca_file: Path | None = None
    """Certificates of the authorities that may vouch for the broker (PEM); default the system's."""
    certificate: Path | None = None
    """This device's client certificate (PEM)."""
    key: Path | None = None
    """Private key of `certificate` (PEM), mode 0600, or the name of a systemd credential."""
    username: str | None = None
    """User name at the broker."""
    password_file: Path | None = None
    """File whose first line is the password, mode 0600, or the name of a systemd credential."""
    allow_cleartext_lan: bool = False
    """True lets mqtt:// reach private addresses too. User name, password and topics can then be read on the way."""
    client_id: Annotated[str, Range(0, 64)] = ""
    """Name of the session at the broker; default limpet-<site>-<device>."""
    keepalive_s: Annotated[int, Range(5, 600)] = 30
    """A silent connection is tested after this time, seconds."""
    session_expiry_s: Annotated[int, Range(0, 1 << 31)] = 7 * 86400
    """How long the broker keeps this session while the device is away, seconds."""
    connect_timeout_s: Annotated[float, Range(1, 25)] = 10.0
    """Longest wait for the connection, for the TLS handshake and for the broker's answer, each, seconds."""
    window: Annotated[int, Range(1, 100)] = 50
    """Messages under way without an acknowledgement; the broker may ask for fewer."""
    message_kib: Annotated[int, Range(2, 4096)] = 256
    """Largest message, KiB; the broker may allow less. A larger event is set aside with its reason."""
    batch_events: Annotated[int, Range(1, 1000)] = 500
    """Most events of one stream in a batch, when a backlog drains."""
    gather_s: Annotated[float, Range(0, 10)] = 0.05
    """After a pause an event is sent at once; what comes within this time after it travels together, seconds."""
    gather_routine_s: Annotated[float, Range(0, 300)] = 1.0
    """The same while all that waits is routine, seconds."""
    park_after: Annotated[int, Range(1, 100)] = 4
    """Refusals of one event after which it is set aside, so that it does not hold up the others."""
    refusal_wait_s: Annotated[float, Range(0.05, 600)] = 2.0
    """Wait after the first refusal, seconds; doubles with each."""
    park_retry_s: Annotated[float, Range(1, 86400)] = 900.0
    """A stream that the broker keeps refusing, and what was set aside, are tried again after this time, seconds."""
    reconnect_first_s: Annotated[float, Range(0.05, 60)] = 1.0
    """Longest first wait before a new connection, seconds; doubles with each failure, drawn at random below that."""
    reconnect_cap_s: Annotated[float, Range(0.1, 3600)] = 120.0
    """Longest wait before a new connection, seconds."""
    key_retention_s: Annotated[int, Range(3600, 366 * 86400)] = 7 * 86400
    """How long the broker keeps the key envelopes of past epochs, seconds: as long as readers may stay away."""

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work or that expose more than the operator asked for."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("'certificate' and 'key' belong together: give both or none")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("'username' and 'password_file' belong together: give both or none")
        if self.port > 65535 or self.port == 0:
            raise ValueError(f"key 'broker': port {self.port} is out of range: it must be 1 to 65535")
        if not self.tls and not self.loopback and not self.allow_cleartext_lan:
            raise ValueError(
                f"key 'broker': mqtt:// to {self.host} would send passwords in cleartext: use mqtts://, or set "
                "allow_cleartext_lan = true for a private network that you trust"
            )

    @property
    def tls(self) -> bool:
        """True for mqtts://."""
        return self.broker.startswith("mqtts://")

    @property
    def host(self) -> str:
        """Name or address of the broker."""
        return urlsplit(self.broker).hostname or ""

    @property
    def port(self) -> int:
        """Port of the broker."""
        tail = self.broker.rpartition(":")[2]
        return int(tail) if tail.isdigit() else 8883 if self.tls else 1883

    @property
    def loopback(self) -> bool:
        """True when the broker's address lies on this machine, as written."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
