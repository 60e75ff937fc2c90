"""ONNX Runtime and LiteRT behind one `Runner`; the foreign packages are imported when a model needs them, never before.

`open_runner` loads one artifact; `declared_ports` reads what a model file says about itself, `answers` asks it once.
"""

import os
from pathlib import Path

from agent.errors import ModelError
from agent.manifest import Artifact, Manifest, Runtime
from agent.records import Array, Tensors
from agent.runtime.contract import Declared, Fallback, Runner, RunnerInfo, RuntimeMissingError, Slots
from agent.runtime.prepared import CACHE, Prepared
from agent.runtime.quant import dequantise, quantise
from agent.settings.runtime import RuntimeOptions

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# ONNX Runtime's wheels hold a client that reports to its maker; it looks here when it is imported, which is later

__all__ = [
    "Declared", "Fallback", "Prepared", "Runner", "RunnerInfo", "RuntimeMissingError", "Slots", "answers",
    "declared_ports", "dequantise", "open_runner", "preload", "quantise",
]  # fmt: skip


def open_runner(
    manifest: Manifest, artifact: Artifact, options: RuntimeOptions, path: Path, slots: Slots = None,
    prepared: Prepared | None = None, notes: tuple[Fallback, ...] = (),
) -> Runner:  # fmt: skip
    """Load the verified file at `path` as `artifact` of `manifest`.

    `path` is what `agent.registry.verified` yields; it is not needed any more when this returns. `slots` bounds how
    many runs compute at once. `prepared`: verified prepared files of this very artifact, to map its weights from.
    `notes` come first among the runner's fallbacks. Raises RuntimeMissingError when the runtime cannot work on this
    machine, ModelError with the runtime's reason when it refuses the file, and when file and manifest disagree.
    """
    if options.isolation == "process":
        from agent.runtime.remote import RemoteRunner

        return RemoteRunner(manifest, artifact, options, path, slots, notes, prepared)
    if artifact.runs_on == "litert" and prepared is not None:
        from agent.runtime.litecompiled import CompiledRunner

        cache = prepared.files[CACHE]
        return CompiledRunner(manifest, artifact, options, path, cache, slots, notes, prepared.recipe)
    if artifact.runs_on == "litert":
        from agent.runtime.litert import LiteRunner

        return LiteRunner(manifest, artifact, options, path, slots, notes)
    from agent.runtime.ort import OrtRunner

    return OrtRunner(manifest, artifact, options, path, slots, notes, prepared)


def preload(runtime: Runtime) -> None:
    """Import the foreign package that files of `runtime` need, which the first model would do otherwise.

    Raises RuntimeMissingError.
    """
    if runtime == "litert":
        from agent.runtime import litert

        litert.preload()
    else:
        from agent.runtime import ort  # noqa: F401


def declared_ports(path: Path, runtime: Runtime) -> tuple[tuple[Declared, ...], tuple[Declared, ...]]:
    """The inputs and outputs that a model file declares, in its order. Raises ModelError when it cannot be loaded."""
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    if runtime == "litert":
        from agent.runtime import litert

        return litert.declared_ports(path)
    from agent.runtime import ort

    return ort.declared_ports(path)


def answers(path: Path, runtime: Runtime, inputs: Tensors) -> dict[str, Array]:
    """What a model file answers to raw `inputs`, by its own names of ports: for describing it, before any manifest is.

    Every input of the file must be there. Raises ModelError.
    """
    if runtime == "litert":
        from agent.runtime import litert

        return litert.answers(path, inputs)
    from agent.runtime import ort

    return ort.answers(path, inputs)
