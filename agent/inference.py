"""One stream's way through a model: view -> [[pre]] -> tensors -> cache or runner -> outputs -> decoder -> [[post]].

A picture that is nearly the last one may be answered as that was (`agent.similar`); then only the [[post]] steps run.

An `Inference` is one stream's use of a model (`agent.loading` loads it once per process), so it belongs to one lane.
Owns the order of the stages and their timings; what the model says, and its state, is `agent.answering`. After an
error the stream's state starts again, because it cannot be known.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agent.answering import Answering
from agent.cache import ResultCache, digest
from agent.errors import ConfigError, ModelError
from agent.feed import Feed
from agent.manifest import Input, Manifest
from agent.records import Array, CacheUse, Finding, Tensors, View
from agent.runtime import Runner, dequantise
from agent.settings.runtime import SimilarConfig
from agent.similar import Answer, Similar
from pipelines import Decoder, Follow, Post, Pre, make_step
from pipelines.chain import Chain, make_posts
from pipelines.outputs import decoded


@dataclass(frozen=True, slots=True)
class Inferred:
    """What one view gave. `outputs` are raw tensors by port name, read-only when cached or state.

    `timings_ms`: pre (steps and quantising), run (only when it was computed), post (dequantising and decoding).
    `input_digest`: 32 hex digits, XXH3-128 of the raw input tensors, or of the pixels that they are made of, state left
    out. Of a view with cells, the outputs are stacked along a new first axis, and the cache is "exact" when it knew
    every cell. When it is "similar", outputs and digest are those of the earlier picture that was computed.
    """

    findings: tuple[Finding, ...]
    outputs: Tensors
    cache: CacheUse
    timings_ms: Mapping[str, float]
    input_digest: str
    runs: int = 0
    """How often the model ran for it; `timings_ms` has the sum of their times."""


class Inference:
    """One stream's use of a model. Not to be shared between threads; the runner and the cache are."""

    def __init__(
        self,
        manifest: Manifest,
        runner: Runner,
        cache: ResultCache | None = None,
        *,
        decoder: Decoder | None = None,
        similar: SimilarConfig | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`decoder` stands in for the manifest's and its [[post]]; `similar` says when pictures are near enough
        to be answered alike; `timer` counts seconds. Raises ModelError on a wrong step."""
        self.manifest, self.runner = manifest, runner
        self._decoder = decoder or _decoder(manifest)
        self._post = Chain(() if decoder else _posts(manifest))
        self._timer = timer
        inputs = {port.name: port for port in runner.inputs}
        self._feeds = tuple(Feed(inputs[port.name], steps) for port, steps in _chains(manifest))
        self._answering = Answering(manifest, runner, cache, timer)
        self.similar = self._similar_by(similar) if similar is not None and similar.enabled else None
        """Answers near-duplicate pictures; None when nobody asked for it, or the model is not fit for it."""
        self.computes_all = False
        """True: no cache is asked, as on trial, where only what is computed says something about the model."""

    def _similar_by(self, config: SimilarConfig) -> Similar | None:
        if why_not_similar(self.manifest) or self._decoder is None:
            return None
        return Similar(config, float(getattr(self._decoder, "threshold", 0.0)), self.manifest.digest)

    def reset(self) -> None:
        """Forget the stream: its state tensors stand for real zeros again, and its [[post]] steps know nothing."""
        self._restart()
        self._post.reset()

    def _restart(self) -> None:
        """The state tensors and the last picture; the [[post]] steps see by the view that something is missing, and
        close what is open."""
        self._answering.restart()
        if self.similar is not None:
            self.similar.forget()

    def __call__(self, view: View) -> Inferred:
        """Run one view; the decoder sees it as the first port's steps left it, with the way back to the source.

        Raises ModelError.
        """
        if view.gap:
            self._restart()
        begin = self._timer()
        known = self._known(view)
        if known is not None:
            return self._reused(known, view, begin)
        try:
            made = {one.port.name: one(view) for one in self._feeds}
            seen = next(iter(made.values())).view
            digests = [digest(arrays) for arrays in self._rounds({port: fed.hashed for port, fed in made.items()})]
            rounds = self._rounds({port: fed.tensors for port, fed in made.items()})
            inferred = self._infer(rounds, digests, seen, begin)
        except ModelError:
            self._restart()
            raise
        if self.similar is not None and not self.computes_all:
            self.similar.keep(_kept(inferred, seen))
        return self._followed(inferred, seen)

    def _known(self, view: View) -> Answer | None:
        """The answer to an earlier picture that stands for this one, too."""
        if self.similar is None:
            return None
        if self.computes_all:
            self.similar.forget()
            return None
        return self.similar.ask(view)

    def _reused(self, known: Answer, view: View, begin: float) -> Inferred:
        """Only the [[post]] steps see that time goes on."""
        seen = replace(known.seen, t0_s=view.t0_s, t1_s=view.t1_s, gap=view.gap)
        timings_ms = {"pre": (self._timer() - begin) * 1e3, "post": 0.0}
        inferred = Inferred(known.findings, known.outputs, "similar", timings_ms, known.input_digest)
        return self._followed(inferred, seen)

    def _followed(self, inferred: Inferred, view: View) -> Inferred:
        """With what the [[post]] steps make of the findings."""
        if not self._post.state:
            return inferred
        begin = self._timer()
        findings = self._post(inferred.findings, view)
        timings_ms = dict(inferred.timings_ms)
        timings_ms["post"] += (self._timer() - begin) * 1e3
        return replace(inferred, findings=findings, timings_ms=timings_ms)

    def finish(self) -> tuple[Finding, ...]:
        """What the [[post]] steps still had open at the end of a recording; then they know nothing."""
        return self._post.finish()

    def run_raw(self, inputs: Tensors) -> Inferred:
        """Run raw tensors for the fed ports, without [[pre]]; the decoder sees the first one and knows no source."""
        seen, begin = View(inputs[self.manifest.feeds[0].name]), self._timer()
        return self._followed(self._infer([dict(inputs)], [digest(inputs)], seen, begin), seen)

    def _rounds(self, made: dict[str, tuple[Array, ...]]) -> list[dict[str, Array]]:
        """The fed tensors of each run: one, or one per cell; a port without cells gives every run the same."""
        count = max(len(tensors) for tensors in made.values())
        if count > 1 and self.manifest.states:
            raise ModelError(f"{self.manifest}: a model with state runs whole views: leave the step 'cells' out")
        return [{port: tensors[n % len(tensors)] for port, tensors in made.items()} for n in range(count)]

    def _infer(self, rounds: list[dict[str, Array]], digests: list[bytes], view: View, begin: float) -> Inferred:
        """As the decoder sees it, before the [[post]] steps."""
        prepared, ask = self._timer(), not self.computes_all
        answers = [self._answering(fed, key, ask_cache=ask) for fed, key in zip(rounds, digests, strict=True)]
        done = self._timer()
        raw = answers[0].outputs
        self._answering.carry(raw)
        if view.cells:
            raw = {port: np.stack([one.outputs[port] for one in answers]) for port in raw}
        findings = self._decode(raw, view) if self._decoder else ()
        timings_ms = {"pre": (prepared - begin) * 1e3, "post": (self._timer() - done) * 1e3}
        missed = [one.run_ms for one in answers if one.cache == "miss"]
        if missed:
            timings_ms["run"] = sum(missed)
        return Inferred(findings, raw, "miss" if missed else "exact", timings_ms, _joined(digests), len(missed))

    def _decode(self, raw: Tensors, view: View) -> tuple[Finding, ...]:
        assert self._decoder is not None
        real = {port.name: dequantise(raw[port.name], port) for port in self.runner.outputs}
        return decoded(self._decoder, real, view, self.manifest.labels)


def _kept(inferred: Inferred, seen: View) -> Answer:
    """What may stand for a later picture: without the pixels, which may be a camera's buffer."""
    bare = replace(seen, data=seen.data[:0].copy())
    cost_ms = sum(inferred.timings_ms.values())
    return Answer(inferred.findings, inferred.outputs, bare, inferred.input_digest, cost_ms)


def why_not_similar(manifest: Manifest) -> str:
    """Why near-duplicate pictures cannot be answered alike; empty when they can. Findings are needed to judge it."""
    if manifest.modality != "image":
        return f"looks at {manifest.modality} and not at pictures"
    if manifest.states:
        return "has state, and a state that missed pictures is another one"
    return "" if manifest.decoder else "has no decoder, so that answers could not be compared"


def _chains(manifest: Manifest) -> list[tuple[Input, tuple[Pre, ...]]]:
    """Each fed port with its steps. Raises ModelError when a step is wrong."""
    first = manifest.feeds[0].name
    made: dict[str, list[Pre]] = {port.name: [] for port in manifest.feeds}
    for table in manifest.pre:
        made[table.get("input", first)].append(_step(manifest, "pre", {k: v for k, v in table.items() if k != "input"}))
    return [(port, tuple(made[port.name])) for port in manifest.feeds]


def _decoder(manifest: Manifest) -> Decoder | None:
    decoder: Decoder | None = _step(manifest, "decoder", manifest.decoder) if manifest.decoder else None
    return decoder


def _posts(manifest: Manifest) -> tuple[Post | Follow, ...]:
    try:
        return make_posts(manifest.post, str(manifest))
    except ConfigError as exc:
        raise ModelError(str(exc)) from exc


def _step(manifest: Manifest, kind: str, table: Mapping[str, Any]) -> Any:
    try:
        return make_step(kind, table, f"{manifest} [{kind}]")
    except ConfigError as exc:
        raise ModelError(str(exc)) from exc


def _joined(digests: list[bytes]) -> str:
    """One digest for all cells of a view, hex."""
    return (digests[0] if len(digests) == 1 else digest({}, b"".join(digests))).hex()
