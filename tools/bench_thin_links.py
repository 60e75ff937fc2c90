"""What an update costs on a thin link: bytes over the network for the usual kinds of a new version, as a table.

Each row publishes two versions with the publisher's code and brings the second to a device that has the first with the
device's code, so that the device chooses the way. Models: one with the layers of a MobileNetV2 (random weights, 8 bits
per weight, a scale per channel), and any .tflite files given, whose own weights are then changed.

Run: PYTHONPATH=. python tools/bench_thin_links.py [--markdown] [FILE.tflite ...]
"""

import argparse
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.package import FileEntry, PackageManifest
from agent.repository.making import Contents, make_package
from agent.repository.workspace import Settings, Workspace
from agent.updates.local import BASE, LocalFetcher
from agent.updates.ways import fetch_files

Weights = list[NDArray[np.uint8]]
SEED = 20260101
LEAST_LAYER_BYTES = 512


@dataclass(frozen=True, slots=True)
class Model:
    """A model file as bytes, and where its weights lie: (start, stop) of each layer, the head last."""

    name: str
    data: bytes
    layers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of change cost."""

    model: str
    change: str
    file_bytes: int
    sent_bytes: int
    way: str
    took_s: float


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.tflite", help="quantised models to change")
    parser.add_argument("--small", action="store_true", help="a tenth of the layers: quick, for tests")
    parser.add_argument("--markdown", action="store_true", help="as a table for docs")
    args = parser.parse_args()
    models = [mobilenet(4 if args.small else 17), *map(tflite, args.files)]
    rows = [row for model in models for row in measured(model)]
    show(rows, "| " if args.markdown else "", " | " if args.markdown else "  ")
    return 0


def measured(model: Model) -> Iterator[Row]:
    """A row per kind of change."""
    for change, change_bytes in CHANGES.items():
        rng = np.random.default_rng(SEED)
        with tempfile.TemporaryDirectory(prefix="limpet-bench-") as name:
            yield travelled(Path(name), model, change, change_bytes(model, rng))


def travelled(folder: Path, model: Model, change: str, new: bytes) -> Row:
    """Publish the model and its change, fetch the change on a device that has the model."""
    workspace = Workspace(folder / "work")
    workspace.create(Settings())
    old_file, new_file, device = folder / "old", folder / "new", folder / "device"
    old_file.write_bytes(model.data)
    new_file.write_bytes(new)
    first = make_package(workspace, Contents("model", "bench", "1.0.0", {"weights": old_file}))
    second = make_package(workspace, Contents("model", "bench", "1.1.0", {"weights": new_file}), [first])
    fetcher = LocalFetcher(workspace.public)
    begun_s = time.monotonic()
    chosen = fetch(second, first.files[0], old_file, device, fetcher)
    took_s = time.monotonic() - begun_s
    assert (device / "weights").read_bytes() == new
    return Row(model.name, change, len(new), fetcher.received_bytes, chosen, took_s)


def fetch(manifest: PackageManifest, old: FileEntry, old_file: Path, device: Path, fetcher: LocalFetcher) -> str:
    """As `limpet update` does; returns the way that it says it took."""
    said = Said()
    logger = logging.getLogger("agent.updates.ways")
    logger.setLevel(logging.INFO)
    logger.addHandler(said)
    try:
        have = {old.sha256: old_file}.get
        fetch_files(manifest.files, device, have, fetcher, f"{BASE}/blobs", near=lambda _: (old_file,))
    finally:
        logger.removeHandler(said)
    return said.ways[-1]


class Said(logging.Handler):
    """Hears which way a file took."""

    def __init__(self) -> None:
        super().__init__()
        self.ways: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """The second value of the line is the way."""
        if isinstance(record.args, tuple) and "way=" in record.msg:
            self.ways.append(str(record.args[1]))


# -- the models


def mobilenet(blocks: int) -> Model:
    """Weights with the shapes of a MobileNetV2's inverted residuals, a graph before them, a head of 12 classes."""
    rng = np.random.default_rng(SEED)
    widths = np.linspace(16, 320, blocks).astype(int) // 8 * 8
    shapes = [(27, 32)]
    for narrow, wide in itertools.pairwise(widths):
        shapes += [(int(narrow), int(narrow) * 6), (9, int(narrow) * 6), (int(narrow) * 6, int(wide))]
    shapes += [(int(widths[-1]), 1280), (1280, 12)]
    graph = rng.integers(32, 127, 48_000, dtype=np.uint8).tobytes()
    parts, layers, at = [graph], [], len(graph)
    for shape in shapes:
        layer = quantised(rng.laplace(size=shape))
        parts.append(layer)
        layers.append((at, at + len(layer)))
        at += len(layer)
    return Model("MobileNetV2 shapes, int8", b"".join(parts), tuple(layers))


def quantised(weights: NDArray[np.float64]) -> bytes:
    """8 bits per weight, symmetric, a scale per output channel."""
    scale = np.abs(weights).max(axis=0) / 127
    return np.round(weights / scale).astype(np.int8).tobytes()


def tflite(path: Path) -> Model:
    """The weights of a TFLite file in the order of its operators: the last one that has any is the head."""
    from ai_edge_litert.schema_py_generated import Model as Flat
    from ai_edge_litert.schema_py_generated import TensorType

    data = path.read_bytes()
    flat = Flat.GetRootAs(bytearray(data), 0)
    graph, layers = flat.Subgraphs(0), []
    for operator in map(graph.Operators, range(graph.OperatorsLength())):
        for tensor in map(graph.Tensors, filter(lambda index: index >= 0, operator.InputsAsNumpy())):
            buffer = flat.Buffers(tensor.Buffer())
            if tensor.Type() in {TensorType.INT8, TensorType.UINT8} and buffer.DataLength() >= LEAST_LAYER_BYTES:
                start = data.find(buffer.DataAsNumpy().tobytes())
                layers.append((start, start + buffer.DataLength()))
    return Model(path.name, data, tuple(dict.fromkeys(layers)))


# -- the changes


def trained_on(model: Model, rng: np.random.Generator, relative: float) -> bytes:
    """All weights moved by a share of their layer's spread and rounded again with the same scales."""
    data = np.frombuffer(model.data, np.int8).copy()
    for start, stop in model.layers:
        layer = data[start:stop].astype(np.float64)
        exact = layer + rng.uniform(-0.5, 0.5, layer.size)  # what rounding took away is not in the file
        data[start:stop] = np.clip(np.round(exact + rng.normal(0, relative * layer.std(), layer.size)), -127, 127)
    return data.tobytes()


def new_head(model: Model, rng: np.random.Generator, classes_more: int = 0) -> bytes:
    """The last layer trained anew; with more classes the file grows."""
    start, stop = model.layers[-1]
    more = (stop - start) // 12 * classes_more
    head = quantised(rng.laplace(size=(stop - start + more, 1)))
    return model.data[:start] + head + model.data[stop:]


def new_model(model: Model, rng: np.random.Generator) -> bytes:
    """Every layer trained anew: nothing is left of the old one but the graph."""
    data = bytearray(model.data)
    for start, stop in model.layers:
        data[start:stop] = quantised(rng.laplace(size=(stop - start, 1)))
    return bytes(data)


CHANGES: dict[str, Callable[[Model, np.random.Generator], bytes]] = {
    "labels or thresholds only": lambda model, _: model.data,
    "a new head": new_head,
    "a new head with one class more": lambda model, rng: new_head(model, rng, 1),
    "fine-tuned, weights moved by 0.1 %": lambda model, rng: trained_on(model, rng, 1e-3),
    "fine-tuned, weights moved by 1 %": lambda model, rng: trained_on(model, rng, 1e-2),
    "a new model": new_model,
}


def show(rows: list[Row], left: str, between: str) -> None:
    """The table, on standard output."""
    heads = ("model", "change", "file, bytes", "sent, bytes", "share", "way", "device, s")
    texts = [
        (r.model, r.change, f"{r.file_bytes}", f"{r.sent_bytes}", f"{r.sent_bytes / r.file_bytes:.1%}", r.way,
         f"{r.took_s:.2f}")
        for r in rows
    ]  # fmt: skip
    widths = [max(len(text[i]) for text in (heads, *texts)) for i in range(len(heads))]
    rule = tuple("-" * width for width in widths)
    for text in (heads, rule, *texts):
        cells = between.join(cell.ljust(width) for cell, width in zip(text, widths, strict=True))
        print((left + cells + between).rstrip())


if __name__ == "__main__":
    sys.exit(main())
