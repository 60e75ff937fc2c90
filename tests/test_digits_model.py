"""The shipped digit reader: both files say the same, and say what model.toml claims."""

import time

import cv2
import numpy as np
import pytest

from agent.golden import selftest
from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.settings.runtime import RuntimeOptions
from agent.views import views
from pipelines import make_step
from pipelines.image import decode_image, image_view
from tests import realdata

FOLDER = realdata.REPO / "models" / "digits"
RUNTIMES = ("litert", "onnxruntime")
SEGMENTS = ("abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg")
LINES = {
    "a": (0, 0, 1, 0), "b": (1, 0, 1, 1), "c": (1, 1, 1, 2), "d": (0, 2, 1, 2), "e": (0, 1, 0, 2), "f": (0, 0, 0, 1),
    "g": (0, 1, 1, 1),
}  # fmt: skip


def _reader(runtime, **keys):
    manifest = load_manifest(FOLDER)
    decoder = make_step("decoder", {"step": "digits", **keys}, "a test")
    return Inference(manifest, open_model(manifest, RuntimeOptions(prefer=(runtime,))), decoder=decoder)


def _golden_views():
    files = [FOLDER / golden.input for golden in load_manifest(FOLDER).goldens]
    return {file.stem: image_view(decode_image(file.read_bytes(), str(file))) for file in files}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_golden_input_gives_its_known_answer(runtime):
    """One picture a class, through the whole chain, within two quantisation steps, in either runtime."""
    manifest = load_manifest(FOLDER)
    runner = open_model(manifest, RuntimeOptions(prefer=(runtime,)))
    assert ("onnx" in runner.info.runtime) == (runtime == "onnxruntime")
    checks = selftest(manifest, runner, views)
    assert [c.reason for c in checks if not c.ok] == []
    assert {golden.label for golden in manifest.goldens} == set(manifest.labels)


def test_both_files_are_the_same_network():
    """On golden pictures, shifted, darkened and blurred, the raw scores of the two files lie within two steps."""
    tflite, onnx = (_reader(runtime) for runtime in RUNTIMES)
    rng = np.random.default_rng(0)
    for view in _golden_views().values():
        for _ in range(10):
            move = np.array([[1, rng.normal(0, 0.05), rng.normal(0, 1)], [0, 1, rng.normal(0, 1)]], np.float32)
            image = cv2.warpAffine(view.data, move, view.size, borderMode=cv2.BORDER_REPLICATE)
            image = cv2.GaussianBlur((image * rng.uniform(0.4, 1.0)).astype(np.uint8), (0, 0), rng.uniform(0.3, 1.0))
            a, b = (reader(image_view(image)).outputs["scores"].astype(int) for reader in (tflite, onnx))
            assert np.abs(a - b).max() <= 2
            assert a.argmax() == b.argmax() or np.sort(a.ravel())[-1] - np.sort(a.ravel())[-2] <= 2


def test_the_files_are_small():
    """At most 100 kB each, far below the 2 MB that a shipped model may have."""
    sizes = [path.stat().st_size for path in (FOLDER / "digits.tflite", FOLDER / "digits.onnx")]
    assert max(sizes) <= 100_000


def _display(text, rng, lcd):
    """A seven-segment display as a camera sees it, and its digits' boxes: drawn here, not by the training tools."""
    image = np.full((120, 60 + 70 * len(text)), 200 if lcd else 25, np.float32)
    for place, sign in enumerate(text):
        for name, (x1, y1, x2, y2) in LINES.items():
            if sign != " " and name in SEGMENTS[int(sign)]:
                x, y = 45 + 70 * place, 25
                start, end = (int(x + 36 * x1), int(y + 35 * y1)), (int(x + 36 * x2), int(y + 35 * y2))
                cv2.line(image, start, end, 45.0 if lcd else 235.0, 7, cv2.LINE_AA)
    image = cv2.GaussianBlur(image, (0, 0), 1.5) + rng.normal(0, 5, image.shape)
    boxes = [[30 + 70 * i, 8, 96 + 70 * i, 112] for i in range(len(text))]
    return np.repeat(image.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2), boxes


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_display_is_read_cell_by_cell(runtime):
    """Displays of both polarities, through `cells`, as one value with a box around them in source pixels."""
    rng, reader = np.random.default_rng(1), _reader(runtime, min_score=0.4)
    for text in ("04217", "38569", "11111", "70842", "  936"):
        for lcd in (True, False):
            image, boxes = _display(text, rng, lcd)
            table = {"step": "cells", "width_px": 28, "height_px": 28, "interpolation": "area", "boxes": boxes}
            (found,) = reader(make_step("pre", table, "a test")(image_view(image))).findings
            assert (found.label, found.value) == ("reading", text.strip())
            assert found.box == (30.0, 8.0, 96.0 + 70 * 4, 112.0)


@realdata.needed
def test_handwritten_digits_give_what_the_manifest_says():
    """The figure in model.toml on five real handwritten digits is the one that is measured, good or bad."""
    files = [realdata.ROOT / "inputs" / f"sample{digit}.png" for digit in range(5)]
    stated = load_manifest(FOLDER).accuracy["real_handwriting"]
    reader = _reader("litert")
    read = [reader(image_view(decode_image(file.read_bytes(), str(file)))).findings[0].label for file in files]
    assert read == stated["read"]
    assert sum(label == str(digit) for digit, label in enumerate(read)) == stated["right"]


def test_a_reader_that_misses_real_handwriting_says_that_it_is_a_demonstration():
    """Over all sets measured 95 of 100 are read right, as they are and photographed, or the manifest has the label."""
    manifest = load_manifest(FOLDER)
    measured = manifest.accuracy["handwriting"].values()
    for way in ("as_it_is", "inverted", "photographed"):
        right, count = np.sum([one[way]["right"] for one in measured], axis=0)
        assert count > 500
        assert right / count >= 0.95 or manifest.demonstration


def test_a_digit_costs_little():
    """Half a millisecond on a laptop; here only that nothing is grossly wrong on a slow shared machine."""
    reader, view = _reader("litert"), next(iter(_golden_views().values()))
    took_s = []
    for _ in range(50):
        start = time.perf_counter()
        reader(view)
        took_s.append(time.perf_counter() - start)
    assert sorted(took_s)[10] < 0.005
