"""Writes models/digits: both files, golden inputs and outputs, model.toml with every figure measured through the agent.

Nothing here knows the network: a picture goes in through the manifest's own steps, as it does on a device.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Template

import cv2
import numpy as np
import onnx

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import Manifest, load_manifest
from agent.settings.runtime import RuntimeOptions
from pipelines.image import decode_image, image_view
from tools.handwriting import digits, halves
from tools.measure_handwriting import figures as read_by_hand
from tools.measure_handwriting import wilson

TEMPLATE = Path(__file__).with_name("digits.toml.in")
NONE = 10
PARITY_COUNT = 1000
Photos = list[tuple[np.ndarray, int]]


@dataclass(frozen=True, slots=True)
class Real:
    """Folders of pictures that nobody drew for this; None: not measured."""

    five: Path | None = None
    """sample0.png ... sample4.png."""
    handwriting: Path | None = None
    """Data sets in any format of tools/handwriting.py; their final halves are measured."""


def write(folder: Path, tflite: bytes, graph: bytes, tests: dict[str, Photos], real: Real, facts: dict) -> None:
    """Fill `folder`. `tests` are pictures as taken, with their classes, by test set; the first gives the goldens."""
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    (folder / "digits.tflite").write_bytes(tflite)
    (folder / "digits.onnx").write_bytes(graph)
    ports = onnx.load_from_string(graph).graph
    values = {"input": ports.input[0].name, "output": ports.output[0].name, **facts}
    values |= {"tflite": hashlib.sha256(tflite).hexdigest(), "onnx": hashlib.sha256(graph).hexdigest()}
    _describe(folder, values, goldens="", accuracy="")
    readers = _readers(load_manifest(folder))
    first = next(iter(tests.values()))
    figures = {name: _share(readers[0], photos) for name, photos in tests.items()}
    accuracy = "\n".join([*_generated(figures, len(first), facts), *_parity(readers, first),
                          *(_five(readers[0], real.five) if real.five else ()),
                          *(_handwriting(readers[0], real.handwriting) if real.handwriting else ())])  # fmt: skip
    _describe(folder, values, goldens=_goldens(folder, readers, first), accuracy=accuracy)
    load_manifest(folder)
    print(accuracy)


def _describe(folder: Path, values: dict, **more: str) -> None:
    (folder / "model.toml").write_text(Template(TEMPLATE.read_text()).substitute(values, **more).rstrip() + "\n")


def _readers(manifest: Manifest) -> tuple[Inference, Inference]:
    """The model through LiteRT and through ONNX Runtime."""
    options = (RuntimeOptions(prefer=(runtime,)) for runtime in ("litert", "onnxruntime"))
    return tuple(Inference(manifest, open_model(manifest, one)) for one in options)


def _read(reader: Inference, image: np.ndarray) -> tuple[int, float, np.ndarray]:
    inferred = reader(image_view(image))
    best = inferred.findings[0]
    return reader.manifest.labels.index(best.label), best.score, inferred.outputs["scores"]


def _share(reader: Inference, photos: Iterable[tuple[np.ndarray, int]]) -> float:
    return float(np.mean([_read(reader, image)[0] == label for image, label in photos]))


def _generated(figures: dict[str, float], count: int, facts: dict) -> list[str]:
    return [
        "",
        "# Share of pictures read right by digits.tflite, none seen in training. held_out_*: with families of fonts",
        "# that training never saw; displays are the DSEG seven-segment fonts, hands are handwriting fonts.",
        "[accuracy.generated]",
        f'data = "tools/digit_scenes.py, {count} pictures a set, other seeds than training"',
        *(f"{name} = {share:.4f}" for name, share in figures.items()),
        f'tolerance = "a rebuild gives each figure within {facts["tolerance"]}"',
        f'rebuilt = "{facts["rebuilt"]}"',
    ]


def _parity(readers: tuple[Inference, ...], photos: Photos) -> list[str]:
    pairs = [[_read(reader, image) for reader in readers] for image, _ in photos[:PARITY_COUNT]]
    apart = [int(np.abs(a[2].astype(int) - b[2]).max()) for a, b in pairs]
    return [
        "",
        "# digits.onnx against digits.tflite, in quantisation steps of 1/256.",
        "[accuracy.parity]",
        f"pictures = {len(pairs)}",
        f"largest_distance = {max(apart)}",
        f"within_2_steps = {np.mean(np.array(apart) <= 2):.4f}",
        f"same_label = {np.mean([a[0] == b[0] for a, b in pairs]):.4f}",
    ]


def _five(reader: Inference, real: Path) -> list[str]:
    read = []
    for digit in range(5):
        file = real / f"sample{digit}.png"
        read.append(_read(reader, decode_image(file.read_bytes(), str(file))))
    right = sum(label == digit for digit, (label, _, _) in enumerate(read))
    said = ", ".join(f'"{reader.manifest.labels[label]}"' for label, _, _ in read)
    scores = ", ".join(f"{score:.3f}" for _, score, _ in read)
    return [
        "",
        "# Real handwriting: five digits of MNIST, 0 1 2 3 4 in this order. Never trained on, but looked at while the",
        "# pen of tools/digit_pen.py was taught more ways of writing: they are few, and not quite unseen.",
        "[accuracy.real_handwriting]",
        f"right = {right}",
        "of = 5",
        f"read = [{said}]",
        f"scores = [{scores}]",
    ]


def _handwriting(reader: Inference, real: Path) -> list[str]:
    lines = [
        "",
        "# Real handwriting, never trained on: the half of each set that was not looked at before the pen was finished",
        "# (tools/measure_handwriting.py FOLDER --half final). As it is, inverted, and through the camera model of",
        "# training with seeds of its own; [read right, of], and the share's 95 % interval (Wilson).",
    ]
    for name, held in digits(real).items():
        lines.append(f'[accuracy.handwriting."{name}"]')
        for way, (right, count) in read_by_hand(reader, halves(held)[1]).items():
            low, high = wilson(right, count)
            lines.append(f"{way.replace(' ', '_')} = {{ right = [{right}, {count}], share = {right / count:.4f}, "
                         f"interval = [{low:.4f}, {high:.4f}] }}")  # fmt: skip
    return lines


def _goldens(folder: Path, readers: tuple[Inference, ...], photos: Photos) -> str:
    """One picture a class, the first that both files read well; the outputs are those of the TFLite file."""
    tables = []
    for wanted in range(NONE + 1):
        for image, label in photos:
            answers = [_read(reader, image) for reader in readers] if label == wanted else []
            if answers and all(answer[0] == wanted and answer[1] > 0.85 for answer in answers):
                break
        else:
            raise SystemExit(f"digit_model_folder: no picture of class {wanted} is read well: train better")
        name = "none" if wanted == NONE else str(wanted)
        cv2.imwrite(str(folder / "golden" / f"{name}.png"), image)
        np.savez(folder / "golden" / f"{name}.npz", scores=answers[0][2])
        tables.append(f'\n[[golden]]\ninput = "golden/{name}.png"\noutput = "golden/{name}.npz"\nlabel = "{name}"')
    return "\n".join(tables)
