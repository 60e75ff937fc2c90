"""What is written beside a trained model: TOML, recordings, golden outputs. Same numbers, same bytes."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def table(kind: str, keys: Mapping[str, Any]) -> str:
    """One table of an array of tables; JSON's strings, numbers and lists are TOML's."""
    return f"[[{kind}]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def goldens(healthy: str, sick: Iterable[str]) -> str:
    """[[golden]] tables: one input without a finding, and the anomalies."""
    labels = {healthy: "", **dict.fromkeys(sick, "anomaly")}
    rows = ({"input": f"golden/{n}.csv", "output": f"golden/{n}.npz", "label": label} for n, label in labels.items())
    return "\n".join(table("golden", row) for row in rows)


def inline(numbers: Mapping[str, float]) -> str:
    """An inline table of figures."""
    return "{ " + ", ".join(f"{key} = {value:.3f}" for key, value in numbers.items()) + " }"


def write_golden(folder: Path, name: str, header: str, readings: Iterable[float], y: npt.NDArray[np.uint8]) -> None:
    """A recording of one channel and the raw output that its last view must give, port "y"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv").write_text(header + "\n" + "".join(f"{x:.2f}\n" for x in readings))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, y)
    # numpy's own writer would put the time of day into the file
    with zipfile.ZipFile(folder / f"{name}.npz", "w") as archive:
        archive.writestr(zipfile.ZipInfo("y.npy"), buffer.getvalue())
