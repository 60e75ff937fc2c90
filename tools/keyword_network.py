"""The keyword network: a small residual CNN over log-mel frames, its training, and its full-integer TFLite file.

Plain 3x3 convolutions rather than depthwise ones: they train several times faster on a CPU, and nine million
multiplications a view take 0.2 ms on one core of a desktop.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keyword_widening import blended, widened

Layers = tf.keras.layers
Features = npt.NDArray[np.float16]
Labels = npt.NDArray[np.int64]

BATCH = 128
WARM_UP_STEPS = 300
MODESTY = 0.6
"""Scores are made from logits times this: a stream's rule, which asks for 0.7, then tells fewer words nobody said."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training: how often each example is seen, and how it is changed before."""

    epochs: int
    rate: float
    """Of learning, at its highest."""
    smoothing: float
    """How much of each label is spread over all of them."""
    strength: float
    """Of the widening."""
    blend: bool


SETTLE = Stage(2, rate=6e-4, smoothing=0.02, strength=0.5, blend=False)


def network(frames: int, bands: int, labels: int) -> tf.keras.Model:
    """[n, frames, bands, 1] -> logits [n, labels]."""
    shape = Layers.Input((frames, bands, 1))
    x = _convolved(shape, 16, 5, stride=2)
    x = _residual(_convolved(x, 32, 3, stride=2))
    x = _residual(_convolved(x, 64, 3, stride=2))
    x = Layers.Dropout(0.4)(Layers.GlobalAveragePooling2D()(x))
    return tf.keras.Model(shape, Layers.Dense(labels)(x))


def trained(x: Features, y: Labels, labels: int, epochs: int, seed: int) -> tf.keras.Model:
    """A network that has seen every example `epochs` times, each time widened and blended anew, and then a few times
    more nearly as it is, which makes it sure of what it knows."""
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = network(x.shape[1], x.shape[2], labels)
    fitted(model, x, y, Stage(epochs, rate=2e-3, smoothing=0.05, strength=1.0, blend=True), seed)
    return fitted(model, x, y, SETTLE, seed + 1)


def fitted(model: tf.keras.Model, x: Features, y: Labels, stage: Stage, seed: int) -> tf.keras.Model:
    """The same network after one stage more."""
    steps = len(x) // BATCH
    rate = tf.keras.optimizers.schedules.CosineDecay(
        1e-4, steps * stage.epochs, warmup_target=stage.rate, warmup_steps=WARM_UP_STEPS
    )
    model.compile(
        tf.keras.optimizers.AdamW(rate, weight_decay=2e-3),
        tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=stage.smoothing),
        metrics=["accuracy"],
    )
    batches = _batches(x, y, model.output_shape[-1], stage, seed)
    model.fit(batches, steps_per_epoch=steps, epochs=stage.epochs, verbose=2)
    return model


def quantised(model: tf.keras.Model, x: Features) -> bytes:
    """The network, made modest, with a softmax, as a TFLite file with int8 inputs, outputs, weights and activations.

    `x`: examples by which the ranges of the activations are measured.
    """
    last = model.layers[-1]
    last.set_weights([weights * MODESTY for weights in last.get_weights()])
    whole = tf.keras.Model(model.input, Layers.Softmax()(model.output))
    converter = tf.lite.TFLiteConverter.from_keras_model(whole)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None, ..., None].astype(np.float32)] for row in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def _convolved(x: tf.Tensor, maps: int, size: int, stride: int = 1, relu: bool = True) -> tf.Tensor:
    x = Layers.Conv2D(maps, size, strides=stride, padding="same", use_bias=False)(x)
    x = Layers.BatchNormalization()(x)
    return Layers.ReLU()(x) if relu else x


def _residual(x: tf.Tensor) -> tf.Tensor:
    maps = x.shape[-1]
    return Layers.ReLU()(Layers.Add()([x, _convolved(_convolved(x, maps, 3), maps, 3, relu=False)]))


def _batches(x: Features, y: Labels, labels: int, stage: Stage, seed: int):  # noqa: ANN202 - a generator of pairs of arrays
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            views = widened(x[chosen].astype(np.float32), rng, stage.strength)
            wanted = np.eye(labels, dtype=np.float32)[y[chosen]]
            if stage.blend:
                views, wanted = blended(views, wanted, rng)
            yield views[..., None], wanted
