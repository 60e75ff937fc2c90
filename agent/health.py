"""How the agent feels: a pure verdict over the state of its lanes and of what could not be started.

Offline is healthy: an agent that cannot reach its broker keeps accepting. A broken camera degrades; a stuck or
failing essential lane (store, uplink) makes the process unhealthy, and then systemd's watchdog is no longer fed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

LanePhase = Literal["waiting", "running", "stuck", "failed", "ended"]


@dataclass(frozen=True, slots=True)
class LaneState:
    """One lane as seen from outside. `beat_age_s` is the time since its last sign of life, seconds."""

    name: str
    essential: bool
    phase: LanePhase
    failures: int = 0
    error: str = ""
    beat_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict, and the sentences that explain it to a person."""

    status: Literal["ok", "degraded", "unhealthy"]
    reasons: tuple[str, ...] = ()


def judge(lanes: Iterable[LaneState], broken: Mapping[str, str]) -> Health:
    """Weigh lanes and `broken` (name of a pipeline or source -> why it could not be started)."""
    reasons = [f"{name}: {why}" for name, why in broken.items()]
    unhealthy = False
    for lane in lanes:
        if lane.phase == "stuck":
            reasons.append(f"lane {lane.name} is stuck: no sign of life within its deadline")
        elif lane.phase == "failed":
            times = f"{lane.failures} time{'s' * (lane.failures != 1)}"
            reasons.append(f"lane {lane.name} failed {times}: {lane.error}")
        else:
            continue
        unhealthy = unhealthy or lane.essential
    return Health("unhealthy" if unhealthy else "degraded" if reasons else "ok", tuple(reasons))
