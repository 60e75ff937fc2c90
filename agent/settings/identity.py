"""[identity]: the device's own keys and certificates: where they lie, who issues them, and when they are renewed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from agent.settings.names import NAME
from agent.strict import Match, Range

_HTTPS = Match(r"|https://[^\s/]+(/[^\s?#]*)?", "a URL that begins with https://, without a query")


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """[identity]: read by `limpet enroll` and by the agent, which renews its certificate by itself."""

    enabled: bool = False
    """True: the uplink proves itself with the pair that `limpet enroll` put into `folder`; [uplink] then names none."""
    folder: Path = Path("/var/lib/limpet/identity")
    """Two slots for TLS key and certificate, and what is under way; the agent's user owns it, nobody else reads it."""
    common_name: Annotated[str, Match(f"|{NAME}", "a name, or empty")] = ""
    """Common name of the certificates; default limpet-SITE-DEVICE, which is the client id at the broker as well."""
    authority: Path | None = None
    """Certificates (PEM) of the authorities that may issue this device's; default those that the EST server names."""
    est: Annotated[str, _HTTPS] = ""
    """EST server (RFC 7030), such as https://est.example:8443; without a path /.well-known/est is meant."""
    est_ca_file: Path | None = None
    """Certificates (PEM) of the authorities that may vouch for the EST server: its explicit trust anchor."""
    token_file: Path | None = None
    """Claim token for the first contact, mode 0600: "name:secret" goes as HTTP Basic, a single word as Bearer. It is
    removed once the device is enrolled."""
    certify_signing: bool = False
    """True: the signing key is certified too, and readers who trust the site's authority need no list of keys."""
    renew_at: Annotated[float, Range(0.1, 0.95)] = 0.66
    """Part of a certificate's life after which it is renewed; each device waits up to 0.02 longer, by its name."""
    retry_first_s: Annotated[float, Range(1, 86400)] = 60.0
    """Longest wait before a failed renewal is tried again, seconds; doubles with each failure, drawn at random."""
    retry_cap_s: Annotated[float, Range(1, 7 * 86400)] = 6 * 3600.0
    """Longest wait before a renewal is tried again, seconds."""

    def __post_init__(self) -> None:
        if self.est and self.est_ca_file is None:
            raise ValueError("'est' needs 'est_ca_file': without a trust anchor anyone could play the EST server")
