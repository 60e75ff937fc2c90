"""What a candidate is measured by before it meets live input: its pace, its limits, the recent inputs of the device.

Pure but for the models that it runs. The pace of both models is taken on the same machine in the same minute, on zeros:
what a model costs does not depend on what it sees.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from statistics import median
from time import perf_counter
from typing import Final

from agent.errors import ModelError
from agent.inference import Inference
from agent.pipeline import Pipeline
from agent.records import Sample
from agent.runtime.quant import zeros
from agent.settings.updates import UpdatesConfig
from agent.trial.attempt import FAULTS, in_words, paired, weigh
from agent.trial.judge import Limits, Shadow, pace_limit_ms

PACE_RUNS: Final = 5
"""Runs on zeros after the first, which warms the model up."""


def pace_ms(pipeline: Pipeline) -> float:
    """Median time of a run on zeros, milliseconds; 0 for a detector, and for a model that refuses zeros.

    Whatever a model does at its first run (memory, compiled kernels) is done afterwards.
    """
    if pipeline.inference is None:
        return 0.0
    runner, manifest = pipeline.inference.runner, pipeline.inference.manifest
    fed = {port.name for port in manifest.feeds}
    inputs = {port.name: zeros(port) for port in runner.inputs if port.name in fed}
    spent: list[float] = []
    with suppress(*FAULTS):
        alone = Inference(manifest, runner, decoder=lambda *_: ())
        for _ in range(PACE_RUNS + 1):
            begin = perf_counter()
            alone.run_raw(inputs)
            spent.append((perf_counter() - begin) * 1e3)
    return median(spent[1:]) if len(spent) > 1 else 0.0


def limits(config: UpdatesConfig, candidate: Pipeline, before_ms: float, *, shadow: bool) -> Limits:
    """What `candidate` is measured against; `before_ms`: pace of the model before, 0 when unknown."""
    budget_ms = candidate.inference.manifest.budget.latency_ms if candidate.inference else 0.0
    return Limits(
        inferences=config.shadow_inferences if shadow else config.probation_inferences,
        time_s=config.probation_s,
        limit_ms=pace_limit_ms(budget_ms, before_ms, config.slowdown),
        disagreement=config.disagreement,
        tolerance=config.tolerance,
    )


def replay(clips: Iterable[Sequence[Sample]], now: Pipeline, then: Pipeline, shadow: Shadow) -> int:
    """Let both look at every clip of consecutive samples, rules and all, and tell `shadow`; the number of samples.

    Each clip begins with rules that know nothing. A view that the current model refuses is passed over.
    """
    start, seen = (now.carried, then.carried), 0
    for clip in clips:
        now.go_on_from(now, start[0])
        then.go_on_from(then, start[1])
        for sample in clip:
            seen += 1
            _look(sample, now, then, shadow)
        shadow.finish()
    return seen


def _look(sample: Sample, now: Pipeline, then: Pipeline, shadow: Shadow) -> None:
    try:
        told = list(now.feed(sample))
    except ModelError:
        with suppress(*FAULTS):
            list(then.feed(sample))
        return
    try:
        seen = list(then.feed(sample))
    except FAULTS as exc:
        shadow.failed(in_words(exc))
        return
    for mine, theirs in paired(told, seen):
        weigh(shadow, mine, theirs)
