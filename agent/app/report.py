"""What the agent says of itself: the answer to `limpet status`, and the facets of its twin on the broker."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent import __version__
from agent.app.assembly import Assembled
from agent.config import Config
from agent.health import LaneState, judge
from agent.meters import Meters
from agent.pipeline import Pipeline, config_digest
from agent.plugins import used
from agent.process import costs
from agent.store import Store
from agent.trial.seat import Seat


@dataclass(frozen=True, slots=True)
class Report:
    """Reads the parts; changes nothing."""

    config: Config
    meters: Meters
    made: Assembled
    store: Store
    broken: Mapping[str, str]
    """What was left out at the start, and why."""
    alarms: Mapping[str, str]
    """What is wrong now."""
    up_s: Callable[[], float]
    """Seconds since the start."""
    settings: Callable[[], Mapping[str, Any]] = dict
    """Which layers of configuration are in force, and whether they are on trial."""
    models: Callable[[], Mapping[str, float]] = dict
    """What loaded models take of their budget."""

    def facets(self) -> dict[str, dict[str, Any]]:
        """Slowly changing facts, published when they change."""
        return {
            "models": {p.config.name: asdict(p.model) for p in self.made.pipelines if p.model is not None},
            "config": {
                "digest": config_digest(self.config), "agent": __version__, "broken": dict(self.broken),
                **{key: value for key, value in self.settings().items() if key != "left_s"},
            },
            "capabilities": {
                "mqtt": self.config.uplink.protocol, "envelope": self.config.envelope.mode, "plugins": dict(used()),
            },
            "buffer": {"budget": self.store.budget, "state": self.store.state},
        }

    def status(
        self, lanes: Iterable[LaneState], uplink: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Everything that a person asks first, as JSON values."""
        states = tuple(lanes)
        health = judge(states, {**self.broken, **self.alarms})
        return {
            "version": __version__,
            "device": f"{self.config.device.site}/{self.config.device.name}",
            "up_s": self.up_s(),
            "health": health.status,
            "reasons": health.reasons,
            "configuration": dict(self.settings()),
            "lanes": [asdict(lane) for lane in states],
            "pipelines": {p.config.name: self._pipeline(p) for p in self.made.pipelines},
            "plugins": dict(used()),
            "memory": {**costs(), **{f"models_{key}": value for key, value in self.models().items()}},
            "outbox": self.store.stats(),
            "uplink": dict(uplink),
            "identity": dict(identity),
        }

    def _pipeline(self, pipeline: Pipeline | Seat) -> dict[str, Any]:
        told: dict[str, Any] = self.meters.tally(pipeline.config.name)
        if pipeline.runner is not None:
            told |= {
                "model": asdict(pipeline.runner.model),
                "runtime": pipeline.runner.runtime,
                "used": pipeline.runner.used,
                "prepared": pipeline.runner.prepared,
                "host": asdict(pipeline.runner.host) if pipeline.runner.host else None,
                "fallbacks": [f"{f.asked}: {f.reason}" for f in pipeline.runner.fallbacks],
            }
        if pipeline.demonstration:
            told["demonstration"] = pipeline.demonstration
        if similar := similar_numbers(pipeline):
            told["similar"] = similar
        return told


def similar_numbers(pipeline: Pipeline | Seat) -> dict[str, float]:
    """How near-duplicate pictures are answered now, by the names of `SimilarCounts`; empty where they are not."""
    eyes = pipeline.pipeline.inference if isinstance(pipeline, Seat) else pipeline.inference
    return {} if eyes is None or eyes.similar is None else asdict(eyes.similar.counts)


def host_numbers(pipeline: Pipeline | Seat) -> dict[str, float]:
    """How often the process of its model was started, crashed and was killed; empty where it has none."""
    host = pipeline.runner.host if pipeline.runner else None
    return {} if host is None else {"starts": host.starts, "crashes": host.crashes, "hangs": host.hangs}


def running(lanes: Iterable[LaneState], made: Assembled) -> tuple[str, ...]:
    """Names of the pipelines that run: their own lane and that of their source are well, or came to their end."""
    well = {lane.name for lane in lanes if lane.phase in ("running", "ended")}
    there = (pipeline.config for pipeline in made.pipelines)
    return tuple(c.name for c in there if {f"pipeline:{c.name}", f"capture:{c.source}"} <= well)
