"""Reads real handwritten digits with a digit reader, through its own steps, and says how many it reads right.

    python -m tools.measure_handwriting FOLDER [--model models/digits] [--half looked_at|final|all]

FOLDER holds what you have of MNIST, EMNIST, USPS, Semeion, optdigits (IDX, CSV, text) or photographs named after their
digit. Nothing in it is ever trained on. Each digit is measured as it is, and as a camera would take it: on a sheet that
is tilted, unevenly lit, blurred, noisy, of either polarity, by the same camera model as in training with seeds of its
own. The interval is Wilson's, at 95 %.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from pipelines.image import image_view
from tools.digit_camera import CANVAS_PX, photographed, tilted
from tools.handwriting import Digit, digits, halves

SEED = 7_071
HALVES = {"looked_at": 0, "final": 1}


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a share, at 95 % (Wilson, 1927)."""
    z, p = 1.959964, right / count
    middle, reach = p + z * z / (2 * count), z * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return float((middle - reach) / (1 + z * z / count)), float((middle + reach) / (1 + z * z / count))


def as_photographed(image: np.ndarray, index: int) -> np.ndarray:
    """The ink of picture `index` on a sheet before a camera: uint8, at most 56 pixels square."""
    rng = np.random.default_rng((SEED, index))
    ink = cv2.resize(image, (CANVAS_PX, CANVAS_PX), interpolation=cv2.INTER_CUBIC)
    return photographed(rng, tilted(rng, ink))


def read(reader: Inference, pictures: list[np.ndarray]) -> list[str]:
    """The best label of each picture."""
    labels = reader.manifest.labels
    return [labels[int(reader(image_view(image)).outputs["scores"].argmax())] for image in pictures]


def figures(reader: Inference, measured: list[Digit]) -> dict[str, tuple[int, int]]:
    """Way of taking the picture -> how many are read right, and of how many."""
    images, truth = [image for image, _ in measured], [str(digit) for _, digit in measured]
    ways = {
        "as it is": images,
        "inverted": [255 - image for image in images],
        "photographed": [as_photographed(image, i) for i, image in enumerate(images)],
    }
    return {way: (sum(a == b for a, b in zip(read(reader, taken), truth, strict=True)), len(truth))
            for way, taken in ways.items()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=Path("models/digits"))
    parser.add_argument("--half", choices=("all", *HALVES), default="all")
    wanted = parser.parse_args()
    manifest = load_manifest(wanted.model)
    reader = Inference(manifest, open_model(manifest))
    for name, held in digits(wanted.folder).items():
        measured = held if wanted.half == "all" else halves(held)[HALVES[wanted.half]]
        for way, (right, count) in figures(reader, measured).items():
            low, high = wilson(right, count)
            print(f"{name:<28} {way:<13} {right:>5} of {count:<5} {right / count:.4f}  [{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    main()
