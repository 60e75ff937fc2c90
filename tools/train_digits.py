"""Trains the digit reader models/digits from pictures made here, quantises it and writes the whole model folder.

    python -m tools.train_digits [--out models/digits] [--real FOLDER] [--handwriting FOLDER] [--keep]

Needs the environment of tools/locks/train.txt (tools/env.sh train .venv-train) and the fonts of tools/digit_fonts.py;
half an hour on two busy cores. Seeds are fixed and TensorFlow runs deterministically; on another machine, with
another order of additions, every accuracy stays within REBUILD_TOLERANCE of model.toml's. `--real` and `--handwriting`
also measure real handwritten digits, which are never trained on. `--keep` trains nothing and measures what is there.
"""

import argparse
import hashlib
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np

from tools import digit_fonts as fonts
from tools import digit_model_folder as folder
from tools import digit_scenes as scenes

SEED = 20_260
TRAIN_COUNT, TEST_COUNT = 160_000, 4_000
EPOCHS, BATCH = 8, 256
CORES = 2
"""Processes that draw pictures; the network learns on one core, so that its sums have one order."""
REBUILD_TOLERANCE = 0.01
"""How far an accuracy may lie from model.toml's after a rebuild on another machine."""
REBUILT = "not built twice with this recipe; the one before, as deterministic, gave the same bytes twice"
"""What was measured of it when this recipe was last changed."""

TESTS = {
    "new_pictures": ("train", scenes.SHARES),
    "held_out_fonts": ("held", {"printed": 1.0}),
    "held_out_wheels": ("held", {"wheel": 1.0}),
    "held_out_displays": ("display", {"printed": 1.0}),
    "held_out_hands": ("held_hand", {"hand": 1.0}),
    "own_displays": ("train", {"segment": 0.7, "dots": 0.3}),
    "no_digit": ("held", {"none": 1.0}),
}
"""Test set -> sources of ink, kinds of scene. `held*` and `display` use families that training never sees."""


@cache
def sources(name: str) -> scenes.Sources:
    digits = "0123456789"
    if name == "train":
        return scenes.Sources(fonts.faces(fonts.TRAIN, scenes.SIGNS), fonts.faces(fonts.TRAIN_HAND, digits))
    if name == "held":
        return scenes.Sources(fonts.faces(fonts.HELD_PRINTED, scenes.SIGNS))
    if name == "display":
        return scenes.Sources(fonts.faces(fonts.HELD_DISPLAY, digits))
    return scenes.Sources(hand=fonts.faces(fonts.HELD_HAND, digits), drawn_hand=0.0)


def _chunk(job: tuple[str, int, int, int, dict[str, float], bool]) -> list[tuple[np.ndarray, int]]:
    name, seed, start, stop, shares, prepare = job
    cv2.setNumThreads(1)
    made = [scenes.photo(seed, i, sources(name), shares) for i in range(start, stop)]
    return [(scenes.prepared(image), label) for image, label in made] if prepare else made


def pictures(name: str, seed: int, count: int, shares: dict[str, float], prepare: bool) -> list[tuple[np.ndarray, int]]:
    """`count` pictures and their classes, prepared for the model or as taken; the same whatever the number of cores."""
    jobs = [(name, seed, start, min(start + 1000, count), shares, prepare) for start in range(0, count, 1000)]
    with ProcessPoolExecutor(CORES) as pool:
        return [pair for pairs in pool.map(_chunk, jobs) for pair in pairs]


def network():  # noqa: ANN201 - keras is imported late
    """Five convolutions and a dense layer: 86 k weights, 3.5 M multiplications a picture."""
    from tensorflow.keras import Sequential, layers

    def convolution(filters: int, size: int = 3, stride: int = 1) -> list:
        kernel = layers.Conv2D(filters, size, stride, "same", use_bias=False)
        return [kernel, layers.BatchNormalization(momentum=0.95), layers.ReLU()]

    return Sequential([
        layers.Input((scenes.SIZE_PX, scenes.SIZE_PX, 1)),
        *convolution(16, 5, 2), *convolution(32), *convolution(48, stride=2), *convolution(64),
        *convolution(52, stride=2), layers.Flatten(), layers.Dropout(0.2), layers.Dense(11),
    ])  # fmt: skip


def fit(images: np.ndarray, labels: np.ndarray):  # noqa: ANN201
    """The trained network, ending with logits."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = network()
    steps = EPOCHS * (len(images) // BATCH)
    rate = tf.keras.optimizers.schedules.CosineDecay(4e-5, steps, warmup_target=4e-3, warmup_steps=steps // 20)
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.03)
    model.compile(tf.keras.optimizers.AdamW(rate, weight_decay=1e-3), loss, metrics=["accuracy"])
    x, y = images[..., None].astype(np.float32) / 255.0, np.eye(11, dtype=np.float32)[labels]
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=2)
    return model


def quantised(model, images: np.ndarray) -> bytes:  # noqa: ANN001
    """The network with softmax as an int8 TFLite file; ranges are taken from 2,000 training pictures."""
    import tensorflow as tf

    whole = tf.keras.Sequential([tf.keras.layers.Input((scenes.SIZE_PX, scenes.SIZE_PX, 1), batch_size=1),
                                 model, tf.keras.layers.Softmax()])  # fmt: skip
    converter = tf.lite.TFLiteConverter.from_keras_model(whole)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    samples = images[:2000, None, :, :, None].astype(np.float32) / 255.0
    converter.representative_dataset = lambda: ([one] for one in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def main() -> None:
    parser = argparse.ArgumentParser(description="train the digit reader")
    parser.add_argument("--out", type=Path, default=Path("models/digits"))
    parser.add_argument("--real", type=Path, help="folder with sample0.png ... sample4.png")
    parser.add_argument("--handwriting", type=Path, help="folder with data sets, as tools/measure_handwriting.py reads")
    parser.add_argument("--keep", action="store_true", help="only measure digits.tflite of --out and describe it anew")
    wanted = parser.parse_args()
    begin = time.monotonic()
    if not wanted.keep:
        images, labels = map(np.array, zip(*pictures("train", SEED, TRAIN_COUNT, scenes.SHARES, True), strict=True))
        print(f"{len(images)} training pictures in {time.monotonic() - begin:.0f} s", flush=True)
    # before TensorFlow starts its threads: a process that has threads cannot be forked safely
    tests = {name: pictures(source, SEED + 1 + i, TEST_COUNT, shares, False)
             for i, (name, (source, shares)) in enumerate(TESTS.items())}  # fmt: skip
    from tools.tflite_to_onnx import convert

    tflite = (wanted.out / "digits.tflite").read_bytes() if wanted.keep else quantised(fit(images, labels), images)
    wanted.out.mkdir(parents=True, exist_ok=True)
    (wanted.out / "digits.tflite").write_bytes(tflite)
    print(f"trained in {time.monotonic() - begin:.0f} s, {len(tflite)} bytes", flush=True)
    every = (fonts.TRAIN, fonts.TRAIN_HAND, fonts.HELD_PRINTED, fonts.HELD_DISPLAY, fonts.HELD_HAND)
    facts = {"pictures": TRAIN_COUNT, "epochs": EPOCHS, "seed": SEED, "fonts": fonts.digest(*every),
             "tolerance": REBUILD_TOLERANCE, "rebuilt": REBUILT}  # fmt: skip
    folder.write(wanted.out, tflite, convert(tflite), tests, folder.Real(wanted.real, wanted.handwriting), facts)
    print(f"whole build in {time.monotonic() - begin:.0f} s; tflite sha256 {hashlib.sha256(tflite).hexdigest()}")


if __name__ == "__main__":
    main()
