"""[updates]: where signed models, trust and settings come from, and how they are proved before they stay."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from agent.settings.names import NAME
from agent.strict import Match, Range


@dataclass(frozen=True, slots=True)
class UpdatesConfig:
    """[updates]: read by the agent and by the updater (`limpet update`), which alone writes `folder`."""

    repository: Annotated[str, Match(r"|https?://[^\s]+", "a URL that begins with https:// or http://")] = ""
    """Base URL of the repository; below it lie metadata/, targets/ and blobs/. Empty: only `limpet update --from`."""
    root: Path | None = None
    """The trust anchor: root.json as the repository's owner gave it to you. Without it nothing is installed."""
    ca: Path | None = None
    """Certificates (PEM) that the repository's own is checked against, instead of the system's."""
    folder: Path = Path("/var/lib/limpet-models")
    """Model store and state record; the updater's user writes it, the agent reads it."""
    spool: Path = Path("/run/limpet-update")
    """Where the agent leaves jobs for the updater, and systemd's path unit sees them."""
    token: Path = Path("/run/limpet-try/generation")
    """Where the step before every start of the agent writes that the tries of candidates are burnt."""
    updater: Literal["unit", "child"] = "unit"
    """Who works through the spool: systemd's limpet-update.service, or a child of the agent with the agent's own user,
    which is weaker and meant for a checkout."""
    channel: Literal["stable", "beta"] = "stable"
    """Which releases this device takes by itself. beta takes stable ones too when they are newer."""
    models: tuple[str, ...] = ()
    """Models that the timer keeps up to date, "@agent" for the agent itself; others change on request only."""
    group: Annotated[str, Match(f"|{NAME}", "a name, or empty")] = ""
    """The fleet group whose configuration layer this device takes; empty: none."""
    window: Annotated[str, Match(r"|\d\d:\d\d-\d\d:\d\d", "a span such as 02:00-05:00")] = ""
    """Local time of day in which the timer may install, e.g. "02:00-05:00"; empty: always. Requests do not wait."""
    jitter_s: Annotated[int, Range(0, 86400)] = 1800
    """`limpet update --timer` spreads the devices of a fleet over this time, seconds; the device's name decides the
    place. systemd's limpet-update.timer spreads them over half an hour by itself, by the machine's id."""
    bandwidth_kib_s: Annotated[int, Range(0, 1 << 20)] = 0
    """Most KiB per second that a download takes; 0: no limit."""
    slowest_bytes_s: Annotated[int, Range(1, 1 << 30)] = 1024
    """A transfer slower than this on average, after a grace of ten seconds, is broken off and resumed later."""
    download_s: Annotated[int, Range(1, 7 * 86400)] = 6 * 3600
    """Longest time for all downloads of one update, seconds."""
    size_mb: Annotated[float, Range(0.001, 1 << 20)] = 1024.0
    """Largest update that is taken, all files together, MB (10^6 bytes)."""
    keep_free_mb: Annotated[float, Range(0, 1 << 20)] = 64.0
    """Room on the disk that an update must leave, MB (10^6 bytes)."""
    probe_s: Annotated[float, Range(1, 3600)] = 60.0
    """Longest time for loading a candidate and running its golden inputs, seconds."""
    probe_memory_mb: Annotated[float, Range(16, 1 << 20)] = 1024.0
    """Most memory of the process that probes a candidate, MB (10^6 bytes)."""
    tries: Annotated[int, Range(1, 10)] = 3
    """Starts of the agent that a candidate gets before it counts as bad."""
    probation_inferences: Annotated[int, Range(1, 10**9)] = 50
    """Live inferences without an error after which a candidate is committed."""
    probation_s: Annotated[float, Range(1, 30 * 86400)] = 600.0
    """A candidate that has not seen so many inferences after this time is committed if it saw none go wrong, and at
    least one go right; else it goes back, seconds."""
    release_probation_s: Annotated[float, Range(1, 30 * 86400)] = 300.0
    """How long a new release of the agent has to run well, and to reach the broker if its elder did, before it stays,
    seconds."""
    release_deadline_s: Annotated[float, Range(1, 30 * 86400)] = 1800.0
    """A release that has not done so after this time goes back, seconds."""
    shadow: Literal["off", "live"] = "off"
    """live: a candidate first runs beside the current model and tells nobody; its disagreement decides."""
    shadow_inferences: Annotated[int, Range(1, 10**9)] = 200
    """Live inferences that a candidate is compared on, beside the current model."""
    disagreement: Annotated[float, Range(0, 1)] = 0.05
    """Largest share of them on which the candidate may say something else; more and it goes back."""
    tolerance: Annotated[float, Range(0, 1)] = 0.1
    """Relative difference of two values that still counts as the same, when two models are compared."""
    slowdown: Annotated[float, Range(1, 100)] = 3.0
    """A candidate whose manifest names no latency may take so many times what the model before takes."""
    ring_mb: Annotated[float, Range(0, 1 << 20)] = 0.0
    """Room for recent inputs, kept sealed under the store's key so that a candidate in the shadow can be compared on
    them first, MB (10^6 bytes) for all sources; 0: none are kept."""
    ring_folder: Path = Path("/var/lib/limpet/recall")
    """Where they lie."""
    ring_every_s: Annotated[float, Range(0, 86400)] = 300.0
    """A clip of consecutive inputs of each source is kept this often, seconds."""
    ring_clip_s: Annotated[float, Range(0.1, 600)] = 10.0
    """Length of a clip, seconds; less where it would take more than an eighth of the room."""
    decryption_key: Path | None = None
    """The device's private X25519 key for encrypted models, or the name of a systemd credential."""
