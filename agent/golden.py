"""Golden inputs: a model must give known answers before it is trusted.

Owns the comparison. The files are read by a loader that is passed in, so that a golden recording takes the same way as
a live one; `npz` files hold raw tensors and are read here, within a size limit and without pickle.
"""

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.errors import LimpetError, ModelError
from agent.inference import Inference, Inferred
from agent.manifest import Golden, Manifest, Port
from agent.records import Array, View
from agent.runtime import Runner, dequantise

NPZ_LIMIT_BYTES = 256 * 1024 * 1024

LoadViews = Callable[[Manifest, Path], Iterable[View]]
"""Every view of a file that the model would see, in order."""


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """What came of one golden input."""

    input: str
    ok: bool
    reason: str = ""
    """Why not, in words."""
    worst: float = 0.0
    """Largest distance, in quantisation steps for outputs with a scale, else in real numbers."""


def selftest(manifest: Manifest, runner: Runner, load_views: LoadViews) -> tuple[GoldenCheck, ...]:
    """Run every golden input of the manifest; the answer that counts is that of the file's last view."""
    return tuple(_check(manifest, runner, golden, load_views) for golden in manifest.goldens)


def _check(manifest: Manifest, runner: Runner, golden: Golden, load_views: LoadViews) -> GoldenCheck:
    try:
        inferred = _answer(manifest, runner, _own(manifest, golden.input), load_views)
        worst = _compare(manifest, runner, golden, inferred) if golden.output else 0.0
        label = inferred.findings[0].label if inferred.findings else ""
    except LimpetError as exc:
        return GoldenCheck(golden.input, ok=False, reason=str(exc))
    if golden.label is not None and label != golden.label:
        said, wanted = label or "nothing", golden.label or "nothing"
        return GoldenCheck(golden.input, ok=False, reason=f"the model says '{said}', not '{wanted}'", worst=worst)
    return GoldenCheck(golden.input, ok=True, worst=worst)


def _answer(manifest: Manifest, runner: Runner, path: Path, load_views: LoadViews) -> Inferred:
    inference = Inference(manifest, runner)
    if path.suffix == ".npz":
        return inference.run_raw(read_npz(path))
    inferred = None
    for view in load_views(manifest, path):
        inferred = inference(view)
    if inferred is None:
        raise ModelError(f"{path}: it holds no view for this model: it is too short or empty")
    return inferred


def _compare(manifest: Manifest, runner: Runner, golden: Golden, inferred: Inferred) -> float:
    """The largest distance. Raises ModelError when it is beyond the tolerance, or the arrays do not fit."""
    expected = read_npz(_own(manifest, golden.output))
    ran = {port.name: port for port in runner.outputs}
    worst = 0.0
    for port in manifest.outputs:
        if port.name not in expected:
            raise ModelError(f"{golden.output}: there is no array '{port.name}': it needs one per output port")
        apart = _distance(port, expected[port.name], ran[port.name], inferred.outputs[port.name], golden)
        limit, unit = (golden.tolerance, " steps") if port.scale else (golden.atol, "")
        if not apart <= limit * (1 + 1e-6):
            words = f"output '{port.name}' is {apart:.3g}{unit} from {golden.output}"
            raise ModelError(f"{words}, at most {limit:g} allowed")
        worst = max(worst, apart)
    return worst


def _distance(port: Port, expected: Array, ran: Port, made: Array, golden: Golden) -> float:
    if expected.shape != made.shape or expected.dtype != port.dtype:
        theirs, ours = f"{expected.dtype} {list(expected.shape)}", f"{port.dtype} {list(made.shape)}"
        raise ModelError(f"{golden.output}: array '{port.name}' is {theirs}, it must be {ours}")
    apart = np.abs(dequantise(expected, port).astype(np.float64) - dequantise(made, ran).astype(np.float64))
    return float(apart.max(initial=0.0)) / (port.scale or 1.0)


def read_npz(path: Path) -> Mapping[str, Array]:
    """Arrays by name. Raises ModelError when the file is missing, too large, or holds anything but plain arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            size_bytes = sum(entry.file_size for entry in archive.infolist())
        if size_bytes > NPZ_LIMIT_BYTES:
            raise ModelError(f"{path}: it unpacks to {size_bytes} bytes, at most {NPZ_LIMIT_BYTES} are allowed")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as exc:
        raise ModelError(f"{path}: this cannot be read as npz: {exc}: make it again with numpy.savez") from exc


def _own(manifest: Manifest, name: str) -> Path:
    """A file of the model's folder. Raises ModelError when a link leads elsewhere."""
    path = Path(os.path.realpath(manifest.folder / name))
    if not path.is_relative_to(os.path.realpath(manifest.folder)):
        raise ModelError(f"{manifest.folder / name} leads out of the model's folder: put the file itself there")
    return path
