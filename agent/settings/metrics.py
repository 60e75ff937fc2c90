"""Table [metrics] of limpet.toml: where Prometheus may ask, and how much may be counted."""

from dataclasses import dataclass
from typing import Annotated

from agent.strict import Match, Range

Listen = Annotated[
    str,
    Match(
        r"unix:/.{1,100}|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}",
        "'127.0.0.1:9464', '[::1]:9464' or 'unix:/run/limpet/metrics.sock'",
    ),
]


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """[metrics]: the exposition. Off unless `listen` is given."""

    listen: Listen | None = None
    """Where /metrics is served: a loopback address and port (port 0 takes a free one), or a Unix socket."""
    allow_remote: bool = False
    """Permit an address that is not loopback. The endpoint has neither password nor TLS."""
    series_limit: Annotated[int, Range(1, 10_000)] = 200
    """Label combinations per metric; what comes after is counted together under the label value "other"."""
