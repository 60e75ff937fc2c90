"""One stream's answers of a model: known to the cache or computed, with the state that goes from one run to the next.

Owns the state tensors of one stream, so it belongs to one lane; the runner and the cache are shared. Refuses NaN that
comes out of a model. Answers are raw tensors; what they mean is the decoder's business.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.cache import ResultCache, digest
from agent.errors import ModelError
from agent.manifest import Manifest
from agent.records import Array, CacheUse, Tensors
from agent.runtime import Runner
from agent.runtime.contract import has_nan
from agent.runtime.quant import zeros


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """Raw outputs by port name, and what they cost."""

    outputs: dict[str, Array]
    cache: CacheUse
    run_ms: float


class Answering:
    """Asks the cache, or else the model. Not to be shared between threads."""

    def __init__(
        self, manifest: Manifest, runner: Runner, cache: ResultCache | None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        """`timer` counts seconds."""
        self._states = manifest.states
        self._runner = runner
        self._timer = timer
        self._inputs = {port.name: port for port in runner.inputs}
        self._constants = {p.name: np.full(p.shape, p.value, p.dtype) for p in runner.inputs if p.value is not None}
        self._salt = f"{manifest.digest}{runner.info.model.sha256}".encode()
        keeps = cache is not None and cache.config.enabled and (cache.config.stateful or not manifest.states)
        self._cache = cache if keeps else None
        self._state: dict[str, Array] = {}
        self.restart()

    def restart(self) -> None:
        """Its state tensors stand for real zeros again."""
        self._state = {pair.input: zeros(self._inputs[pair.input]) for pair in self._states}

    def __call__(self, fed: Tensors, fed_digest: bytes, *, ask_cache: bool = True) -> RawAnswer:
        """The answer to raw tensors for the fed ports, whose digest is `fed_digest`. Raises ModelError."""
        cache = self._cache if ask_cache else None
        key = digest(self._state, self._salt + fed_digest) if cache else b""
        if cache and (held := cache.get(key)) is not None:
            return RawAnswer(held, "exact", 0.0)
        begin = self._timer()
        raw = self._runner.run({**fed, **self._constants, **self._state})
        run_ms = (self._timer() - begin) * 1e3
        self._refuse_nan(raw)
        if cache:
            cache.put(key, raw, run_ms)
        return RawAnswer(raw, "miss", run_ms)

    def carry(self, raw: Tensors) -> None:
        """Take the state for the next run from these outputs."""
        self._state = {pair.input: raw[pair.output] for pair in self._states}
        for array in self._state.values():
            array.flags.writeable = False  # whoever got the outputs holds the same array

    def _refuse_nan(self, raw: Tensors) -> None:
        for name, array in raw.items():
            if has_nan(array):
                model = self._runner.info.model
                words = f"{model.name} {model.version}: output '{name}' contains NaN"
                raise ModelError(f"{words}: the input is beyond what the model was made for, or the model is damaged")
