"""A process that loads a model as the agent does, runs it, and goes over to a second one beside it, if there is one.

    python -m tools.bench.swap MODELS PREPARED RUNTIME RUNS

MODELS holds the model `one` and perhaps `two`; PREPARED is a folder of prepared files, "" for plain loads. Prints one
line of JSON: private memory beyond the runtime's own (bytes), with the first model, with both at most, and with the
second alone; the median of RUNS runs (milliseconds); pages read from the disk; how the weights came.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from agent.app.shelf import Shelf
from agent.clock import SystemClock
from agent.inference import Inference
from agent.prepared.child import peak, random_inputs
from agent.process import costs, private_bytes
from agent.runtime import preload
from agent.settings.core import ModelUse
from agent.settings.runtime import CacheConfig, ModelsConfig, RuntimeOptions


def main(words: list[str]) -> int:
    """Load, run, go over, tell."""
    folder, prepared, runtime, runs = Path(words[0]), words[1], words[2], int(words[3])
    models = ModelsConfig(folders=(folder,), prepared=Path(prepared or "/nowhere"))
    shelf = Shelf(models, CacheConfig(enabled=False), SystemClock())
    options = RuntimeOptions(prepared=bool(prepared))
    preload(runtime)
    base_bytes = private_bytes()
    now, run_ms = loaded(shelf, folder, "one", options, runs)
    told: dict[str, Any] = {"alone_bytes": private_bytes() - base_bytes, "run_ms": run_ms}
    if (folder / "two").is_dir():
        with peak() as seen:
            loaded(shelf, folder, "two", options, runs)
            shelf.give_back(now)
            shelf.sweep()
        told |= {"peak_bytes": max(seen) - base_bytes, "after_bytes": private_bytes() - base_bytes}
    way = now.runner.info.prepared or "plain"
    print(json.dumps(told | {"major_faults": costs()["major_faults"], "way": way}), flush=True)
    return 0


def loaded(shelf: Shelf, folder: Path, name: str, options: RuntimeOptions, runs: int) -> tuple[Inference, float]:
    """The model `name`, loaded and run; the median of its runs in milliseconds."""
    use = shelf.inference(shelf.manifest(ModelUse(name), folder), options)
    given, spent_ms = random_inputs(use.runner), []
    for _ in range(runs):
        begin_s = time.perf_counter()
        use.run_raw(given)
        spent_ms.append((time.perf_counter() - begin_s) * 1e3)
    return use, statistics.median(spent_ms)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
