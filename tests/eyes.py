"""A camera's still scene, and a tiny real model that sees the light thing in it and follows it."""

import numpy as np

from agent.manifest import load_manifest
from tests.tiny_models import make_model

HEIGHT, WIDTH = 48, 64
LABELS = [f"dark{n}" for n in range(150)] + [f"light{n}" for n in range(106)]
TAIL = """
[decoder]
step = "segments"
skip = {skip}
min_share = 0.01
[[post]]
step = "tracks"
confirm = 1
bridge_s = 0.0
[[artifact]]"""


def make_eyes(folder):
    """A model whose classes are the grey levels of its picture, and whose own [[post]] follows light things."""
    make_model(folder, "copy", "onnx", dtype="uint8", shape=(1, HEIGHT, WIDTH), extra=f"labels = {LABELS}")
    text = (folder / "model.toml").read_text().replace('modality = "tensor"', 'modality = "image"')
    (folder / "model.toml").write_text(text.replace("[[artifact]]", TAIL.format(skip=LABELS[:150])))
    return load_manifest(folder)


def scene(n, thing=True, noise=1):
    """A dark picture with a noise, and a light thing."""
    chance = np.random.default_rng(n)
    picture = (90 + chance.integers(-noise, noise + 1, (HEIGHT, WIDTH))).astype(np.uint8)
    if thing:
        picture[10:30, 20:40] = 200
    return picture
