"""One pipeline: samples in, results and drafts of events out.

    sample -> window -> gate -> pre -> model or detector -> post -> result -> rules -> drafts

It decides and does no I/O: the model's runner, the cache and the timer are passed in. A pipeline carries the state of
its steps and belongs to one lane. A view that its gate holds back yields nothing, and the rules do not count it as
"not seen".
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from agent.inference import Inference
from agent.records import Draft, Finding, Result, Sample, View
from agent.rules import RuleState, initial, step
from agent.runtime import RunnerInfo
from agent.settings.core import PipelineConfig
from pipelines import Detector, Follow, Gate, Post, Pre, Window, make_step
from pipelines.chain import Chain, make_posts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one view led to; `result` is None when the gate held the view back."""

    result: Result | None
    drafts: tuple[Draft, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one pipeline, made from its file."""

    gate: Gate | None
    window: Window | None
    pre: tuple[Pre, ...]
    detector: Detector | None
    post: tuple[Post | Follow, ...]


@dataclass(frozen=True, slots=True)
class Carried:
    """What a pipeline remembers between two samples. Frozen like the states of its steps, so that it may be kept."""

    views: int
    gate: Any
    window: Any
    detector: Any
    post: tuple[Any, ...]
    rules: tuple[RuleState, ...]


def make_steps(config: PipelineConfig, where: str, model_window: dict[str, Any] | None) -> Steps:
    """Make the steps that `config` names; `model_window` is the model's own window. Raises ConfigError."""
    window = config.window or model_window
    return Steps(
        gate=make_step("gate", config.gate, f"{where} [gate]") if config.gate else None,
        window=make_step("window", window, f"{where} [window]") if window else None,
        pre=tuple(make_step("pre", t, f"{where} [[pre]] #{i + 1}") for i, t in enumerate(config.pre)),
        detector=make_step("detector", config.detector, f"{where} [detector]") if config.detector else None,
        post=make_posts(config.post, where),
    )


def config_digest(config: object) -> str:
    """First 16 hex digits of the SHA-256 of a settings record as canonical JSON."""
    text = json.dumps(asdict(config), sort_keys=True, default=str)  # type: ignore[call-overload]
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Pipeline:
    """Runs the steps of one pipeline over its samples. Not thread-safe: one lane owns it."""

    def __init__(
        self,
        config: PipelineConfig,
        steps: Steps,
        inference: Inference | None,
        agent_digest: str = "",
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config = config
        self.model = inference.runner.info.model if inference else None
        self.demonstration = inference.manifest.demonstration if inference else ""
        self._steps = steps
        self._inference = inference
        self._timer = timer
        self._digest = config_digest(config)
        self._agent_digest = agent_digest
        self._views = 0
        self._gate_state = steps.gate.initial() if steps.gate else None
        self._window_state = steps.window.initial() if steps.window else None
        self._detector_state = steps.detector.initial() if steps.detector else None
        self._post = Chain(steps.post)
        self._rules = [(rule, initial(rule)) for rule in config.rule]

    @property
    def runner(self) -> RunnerInfo | None:
        """What runs the model, as of now."""
        return self._inference.runner.info if self._inference else None

    def feed(self, sample: Sample) -> Iterator[Outcome]:
        """Run every view that `sample` completes. Raises ModelError when the model refuses one."""
        for view in self._views_of(sample):
            seq = sample.seq if self._steps.window is None else self._views
            self._views += 1
            result = self._look(sample, view, seq)
            yield Outcome(result, tuple(self._judge(sample, view, result)))

    def finish(self, last: Sample) -> Iterator[Outcome]:
        """What the steps behind the model had still open when a recording ends with `last`; nothing if nothing was."""
        findings = self._post.finish(self._inference.finish() if self._inference else ())
        if findings:
            view = ended(last)
            result = self._result(last, view, self._views, findings, {}, {})
            yield Outcome(result, tuple(self._judge(last, view, result)))

    def another(self) -> "Pipeline":
        """The same pipeline over the same model, remembering nothing, without cache."""
        own = Inference(self._inference.manifest, self._inference.runner) if self._inference else None
        return Pipeline(self.config, self._steps, own, self._agent_digest, self._timer)

    @property
    def carried(self) -> Carried:
        """What it remembers now."""
        states = tuple(state for _, state in self._rules)
        post = self._post.state
        return Carried(self._views, self._gate_state, self._window_state, self._detector_state, post, states)

    def go_on_from(self, other: "Pipeline", carried: Carried | None = None) -> None:
        """Remember what `other`, made from the same file, remembers now, or what it remembered as `carried`.

        A window that differs (a model may bring its own) starts anew, and so does the model's own state.
        """
        was = carried or other.carried
        self._views, self._gate_state, self._detector_state = was.views, was.gate, was.detector
        if self._steps.window == other._steps.window:
            self._window_state = was.window
        self._post.state = was.post
        self._rules = [(rule, state) for (rule, _), state in zip(self._rules, was.rules, strict=True)]
        if self._inference is not None:
            self._inference.reset()

    @property
    def inference(self) -> Inference | None:
        """Its use of a model."""
        return self._inference

    def _views_of(self, sample: Sample) -> tuple[View, ...]:
        if self._steps.window is not None:
            self._window_state, views = self._steps.window(self._window_state, sample)
            return views
        return (whole(sample),)

    def _look(self, sample: Sample, view: View, seq: int) -> Result | None:
        start = self._timer()
        if self._steps.gate is not None:
            self._gate_state, passes = self._steps.gate(self._gate_state, view)
            if not passes:
                return None
        gated = self._timer()
        for pre in self._steps.pre:
            view = pre(view)
        timings = {"gate": (gated - start) * 1e3, "pre": (self._timer() - gated) * 1e3}
        findings, more = self._find(view, timings)
        return self._result(sample, view, seq, self._post(findings, view), timings, more)

    def _result(
        self, sample: Sample, view: View, seq: int, findings: tuple[Finding, ...], timings: dict[str, float],
        more: dict[str, Any],
    ) -> Result:  # fmt: skip
        ahead_s = view.t0_s - sample.t_s
        return Result(
            pipeline=self.config.name, source=sample.source, seq=seq, t_s=view.t0_s,
            t_mono_s=sample.t_mono_s + ahead_s, t_wall_s=sample.t_wall_s + ahead_s, findings=findings,
            clock=sample.clock, model=self.model, timings_ms=timings, replay=sample.replay, **more,
        )  # fmt: skip

    def _find(self, view: View, timings: dict[str, float]) -> tuple[tuple[Finding, ...], dict[str, Any]]:
        if self._inference is None:
            assert self._steps.detector is not None
            start = self._timer()
            self._detector_state, findings = self._steps.detector(self._detector_state, view)
            timings["run"] = (self._timer() - start) * 1e3
            return findings, {}
        inferred = self._inference(view)
        for stage, spent_ms in inferred.timings_ms.items():
            timings[stage] = timings.get(stage, 0.0) + spent_ms
        more = {"cache": inferred.cache, "input_digest": inferred.input_digest, "runs": inferred.runs}
        return inferred.findings, more

    def _judge(self, sample: Sample, view: View, result: Result | None) -> Iterator[Draft]:
        """Fold a result into the rules; None lets only time pass. Their time is the stream's, also in a recording."""
        ahead_s = view.t0_s - sample.t_s
        findings = None if result is None else result.findings
        for i, (rule, state) in enumerate(self._rules):
            after, decisions = step(rule, state, findings, view.t0_s, view.gap)
            self._rules[i] = (rule, after)
            for decision in decisions:
                yield Draft(
                    stream=rule.stream or self.config.stream or self.config.name, kind=decision.kind,
                    body=decision.body, t_wall_s=sample.t_wall_s + ahead_s, t_mono_s=sample.t_mono_s + ahead_s,
                    event_class=rule.class_ or self.config.class_, clock=sample.clock, replay=sample.replay,
                    model=self.model, pipeline=self.config.name, pipeline_digest=self._digest,
                    config_digest=self._agent_digest, input_digest=result.input_digest if result else "",
                    cache=result.cache if result and self.model else None, decided_by=decision.decided_by,
                )  # fmt: skip


def whole(sample: Sample) -> View:
    """The view that shows a whole sample."""
    height, width = sample.data.shape[:2] if sample.modality == "image" else (0, 0)
    length_s = len(sample.data) / sample.rate_hz if sample.modality == "audio" and sample.rate_hz else 0.0
    return View(
        data=sample.data, t0_s=sample.t_s, t1_s=sample.t_s + length_s, rate_hz=sample.rate_hz,
        size=(width, height), channels=sample.channels, gap=sample.gap,
    )  # fmt: skip


def ended(last: Sample) -> View:
    """The empty view that stands for the end of a stream, behind its last sample."""
    view = whole(last)
    return replace(view, data=view.data[:0], t0_s=view.t1_s)
