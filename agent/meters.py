"""What the lanes tell, as metrics: the agent's `Observer`, and gauges that are read when somebody asks."""

from collections.abc import Callable, Mapping

from agent.inbox import Inbox
from agent.metrics import Registry
from agent.records import Draft, ModelRef, Result

SIMILAR = {
    "hits": "Pictures answered by the answer to an earlier one, since the start.",
    "rechecks": "Pictures that could have been answered so, and were computed and judged, since the start.",
    "disagreements": "Rechecks that differed from the earlier answer, since the start.",
    "recheck_bound": "Upper bound of the share of wrong reused answers by all rechecks, at 95 % confidence.",
    "error_bound": "Upper bound of that share at the present threshold; 1 without a threshold.",
    "threshold": "Distance up to which answers are reused, grey levels; negative: none yet.",
    "chain_most": "Most pictures in a row that one answer answered, since the start.",
    "saved_ms": "Time that computing would have taken, since the start.",
}
"""What is shown of the cache of similar pictures, and in which words."""
HOST = {
    "starts": "Times that the process of a pipeline's model was started.",
    "crashes": "Times that a process of a pipeline's model ended by itself.",
    "hangs": "Times that a process of a pipeline's model was killed because a run passed its deadline.",
}
"""What is shown of a model in a process of its own, since it was loaded, and in which words."""


class Meters:
    """Counts samples, results, refusals and events, and the time of every stage."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._samples = registry.counter("limpet_samples_total", "Samples read from a source.", ["source"])
        self._left_out = registry.gauge(
            "limpet_source_left_out", "What a source left out since it was opened.", ["source", "reason"]
        )
        self._results = registry.counter("limpet_results_total", "Views that were looked at.", ["pipeline", "cache"])
        self._gated = registry.counter("limpet_gated_total", "Views that the gate held back.", ["pipeline"])
        self._refused = registry.counter(
            "limpet_refused_total", "Views or events refused, by model or store.", ["pipeline", "reason"]
        )
        self._events = registry.counter("limpet_events_total", "Events accepted into the store.", ["stream", "kind"])
        self._whole = registry.summary("limpet_result_seconds", "Time from gate to findings per view.", ["pipeline"])
        self._drafted = registry.counter("limpet_pipeline_events_total", "Events by pipeline.", ["pipeline"])
        self._stages = registry.summary("limpet_stage_seconds", "Time a stage took per view.", ["pipeline", "stage"])

    def sampled(self, source: str) -> None:
        """A source delivered a sample."""
        self._samples.at(source).inc()

    def left_out(self, source: str, counts: Mapping[str, int]) -> None:
        """What an open source has left out so far, by reason."""
        for reason, count in counts.items():
            self._left_out.at(source, reason).set(count)

    def looked(self, result: Result) -> None:
        """A pipeline looked at a view."""
        self._results.at(result.pipeline, result.cache).inc()
        self._whole.at(result.pipeline).observe(sum(result.timings_ms.values()) / 1e3)
        for stage, spent_ms in result.timings_ms.items():
            self._stages.at(result.pipeline, stage).observe(spent_ms / 1e3)

    def gated(self, pipeline: str) -> None:
        """A gate held a view back."""
        self._gated.at(pipeline).inc()

    def refused(self, pipeline: str, reason: str) -> None:
        """A model refused a view ("model"), or the store an event ("store")."""
        self._refused.at(pipeline, reason).inc()

    def accepted(self, draft: Draft) -> None:
        """The store took an event."""
        self._events.at(draft.stream, draft.kind).inc()
        self._drafted.at(draft.pipeline).inc()

    def tally(self, pipeline: str) -> dict[str, float]:
        """What a person wants to see of one pipeline: counts since the start, p50 and p99 of the newest results."""
        whole = self._whole.at(pipeline)
        p50_s, _, p99_s = whole.quantiles()
        cached = sum(self._results.at(pipeline, use).value for use in ("exact", "similar"))
        made = {
            "results": whole.count,
            "events": int(self._drafted.at(pipeline).value),
            "gated": int(self._gated.at(pipeline).value),
            "refused": int(self._refused.at(pipeline, "model").value),
            "cached": int(cached),
        }
        return made | ({"p50_ms": p50_s * 1e3, "p99_ms": p99_s * 1e3} if whole.count else {})

    def watch_inbox(self, pipeline: str, inbox: Inbox) -> None:
        """Show what the inbox of `pipeline` dropped, by reason, and what waits in it."""
        dropped = self._registry.gauge(
            "limpet_inbox_dropped", "Samples dropped before a pipeline since the start.", ["pipeline", "reason"]
        )
        for reason in ("full", "closed"):
            dropped.at(pipeline, reason).read_from(lambda r=reason: inbox.counts().dropped.get(r, 0))  # type: ignore[misc]
        waiting = self._registry.gauge("limpet_inbox_waiting", "Samples waiting before a pipeline.", ["pipeline"])
        waiting.at(pipeline).read_from(lambda: inbox.counts().waiting)

    def show_model(self, pipeline: str, model: ModelRef, *, now: bool = True) -> None:
        """Say which model a pipeline runs, or with `now` False which one it runs no more."""
        info = self._registry.gauge(
            "limpet_model_info", "1 for the model that a pipeline runs.", ["pipeline", "model", "version", "sha256"]
        )
        info.at(pipeline, model.name, model.version, model.sha256).set(int(now))

    def swapped(self, pipeline: str, spent_s: float) -> None:
        """A pipeline's model gave way to another; `spent_s` is how long no sample could be looked at."""
        swaps = self._registry.summary(
            "limpet_model_swap_seconds", "Time in which a change of models kept a pipeline from looking.", ["pipeline"]
        )
        swaps.at(pipeline).observe(spent_s)

    def watch_similar(self, pipeline: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Show how near-duplicate pictures of `pipeline` are answered; `read()` gives `SIMILAR` keys, or nothing."""
        for key, text in SIMILAR.items():
            family = self._registry.gauge(f"limpet_similar_{key}", text, ["pipeline"])
            family.at(pipeline).read_from(lambda k=key: read().get(k, 0.0))  # type: ignore[misc]

    def watch_host(self, pipeline: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Show what became of the process of `pipeline`'s model; `read()` gives `HOST` keys, or nothing."""
        for key, text in HOST.items():
            family = self._registry.gauge(f"limpet_host_{key}", text, ["pipeline"])
            family.at(pipeline).read_from(lambda k=key: read().get(k, 0.0))  # type: ignore[misc]

    def watch_numbers(self, prefix: str, text: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Show every number that `read()` has now as a gauge `limpet_<prefix>_<key>`; 0 where it is missing later."""
        for key in read():
            self._registry.gauge(f"limpet_{prefix}_{key}", text).at().read_from(lambda k=key: read().get(k, 0.0))  # type: ignore[misc]


def numbers(stats: Mapping[str, object]) -> dict[str, float]:
    """The plain numbers among `stats`; truth values count as 0 and 1."""
    return {key: float(value) for key, value in stats.items() if isinstance(value, int | float)}
