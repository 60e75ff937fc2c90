"""The keyword network: a small residual CNN over log-mel frames, its training, and its full-integer TFLite file.

Plain 3x3 convolutions rather than depthwise ones: they train several times faster on a CPU, and nine million
multiplications a view take 0.2 ms on one core of a desktop.
"""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Layers = tf.keras.layers
Features = npt.NDArray[np.float16]
Labels = npt.NDArray[np.int64]

BATCH = 128
WARM_UP_STEPS = 300
MASKED_BANDS, MASKED_FRAMES = 7, 8
"""SpecAugment (Park et al., arXiv:1904.08779): two masks each, at most this wide."""


def network(frames: int, bands: int, labels: int) -> tf.keras.Model:
    """[n, frames, bands, 1] -> logits [n, labels]."""
    shape = Layers.Input((frames, bands, 1))
    x = _convolved(shape, 24, 5, stride=2)
    x = _residual(_convolved(x, 40, 3, stride=2))
    x = _residual(_convolved(x, 64, 3, stride=2))
    x = Layers.Dropout(0.4)(Layers.GlobalAveragePooling2D()(x))
    return tf.keras.Model(shape, Layers.Dense(labels)(x))


def trained(x: Features, y: Labels, labels: int, epochs: int, seed: int) -> tf.keras.Model:
    """A network that has seen every example `epochs` times, each time masked and mixed anew."""
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = network(x.shape[1], x.shape[2], labels)
    steps = len(x) // BATCH
    rate = tf.keras.optimizers.schedules.CosineDecay(
        1e-4, steps * epochs, warmup_target=2e-3, warmup_steps=WARM_UP_STEPS
    )
    model.compile(
        tf.keras.optimizers.AdamW(rate, weight_decay=2e-3),
        tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.05),
        metrics=["accuracy"],
    )
    model.fit(_batches(x, y, labels, seed), steps_per_epoch=steps, epochs=epochs, verbose=2)
    return model


def quantised(model: tf.keras.Model, x: Features) -> bytes:
    """The network with a softmax, as a TFLite file with int8 inputs, outputs, weights and activations.

    `x`: examples by which the ranges of the activations are measured.
    """
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


def _batches(x: Features, y: Labels, labels: int, seed: int):  # noqa: ANN202 - a generator of pairs of arrays
    rng = np.random.default_rng(seed)
    fill = np.float32(x[:2000].astype(np.float32).mean())
    while True:
        order = rng.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            shown, wanted = x[chosen].astype(np.float32), np.eye(labels, dtype=np.float32)[y[chosen]]
            for n, one in enumerate(shown):
                shown[n] = _warped(one, rng)
                _mask(shown[n], fill, rng)
            yield _mixed(shown, wanted, rng)


def _warped(one: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Spoken by someone else: a little faster or slower, all bands a little higher or lower."""
    frames, bands = one.shape
    around = rng.uniform(0, frames)
    times = around + (np.arange(frames) - around) * rng.uniform(0.87, 1.15)
    heights = np.arange(bands) * rng.uniform(0.94, 1.06) + rng.uniform(-1.5, 1.5)
    at = np.rint(times).clip(0, frames - 1).astype(np.int64), np.rint(heights).clip(0, bands - 1).astype(np.int64)
    return one[at[0][:, None], at[1][None, :]]


def _mask(one: npt.NDArray[np.float32], fill: np.float32, rng: np.random.Generator) -> None:
    if rng.random() < 0.2:
        return
    for _ in range(2):
        band, frame = rng.integers(0, one.shape[1]), rng.integers(0, one.shape[0])
        one[:, band : band + rng.integers(0, MASKED_BANDS)] = fill
        one[frame : frame + rng.integers(0, MASKED_FRAMES)] = fill


def _mixed(
    shown: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Half of the batch blended with its neighbours (mixup, Zhang et al., arXiv:1710.09412)."""
    half = len(shown) // 2
    share = rng.beta(0.3, 0.3, half).astype(np.float32)
    other = rng.permutation(half)
    wide = share[:, None, None]
    shown[:half] = wide * shown[:half] + (1 - wide) * shown[:half][other]
    wanted[:half] = share[:, None] * wanted[:half] + (1 - share[:, None]) * wanted[:half][other]
    return shown[..., None], wanted
