"""What `limpet models try` says when nothing is found, and which way of `--compare` is the present one."""

import dataclasses
import json
import sys

import cv2
import numpy as np
import pytest

from agent.cli import main
from agent.manifest import load_manifest
from agent.records import View
from agent.skeleton import skeleton
from agent.tryout import Nearest, variants
from tests.realdata import MANIFESTS
from tests.skeleton_models import columns, write_fixed

DOG = {4000: ((320, 240, 100, 50), 16)}
"""A planted dog of score 0.9, centre and size in a picture of 640 x 640."""


@pytest.fixture
def strict(tmp_path, monkeypatch):
    """A working folder with a picture and a detector whose threshold is above its only dog."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.png", np.full((480, 640, 3), 128, np.uint8))
    file = write_fixed(tmp_path / "model", {"output0": columns(8400, 80, DOG).T[None]}, name="yolo")
    (tmp_path / "model").chmod(0o755)
    text = skeleton(file).replace('step = "box_table"\n', 'step = "box_table"\nthreshold = 0.95\n')
    (tmp_path / "model" / "model.toml").write_text(text)
    return tmp_path


def tried(capsys, *words):
    assert main(["models", "try", *map(str, words)]) == 0
    return capsys.readouterr().out


def nearest(name, scores, decoder=(), post=None):
    """What a written manifest's decoder says of nothing found, with other keys, after a view of these scores each."""
    manifest = load_manifest(MANIFESTS / name)
    made = dataclasses.replace(manifest, decoder={**manifest.decoder, **dict(decoder)},
                               post=manifest.post if post is None else post)  # fmt: skip
    one = Nearest(made)
    for row in scores:
        one.look({"y": np.array([row])}, View(np.zeros(0), 0.0, 1.0))
    return one.words()


# ---- nothing found


def test_the_best_score_that_was_not_enough_is_told(strict, capsys):
    """With its label and the threshold; findings that are told need no such line."""
    said = "  nothing found: best 0.900 of 'dog', threshold 0.95\n"
    assert said in tried(capsys, "model", "street.png")
    model = strict / "model" / "model.toml"
    model.write_text(model.read_text().replace("threshold = 0.95", "threshold = 0.85"))
    out = tried(capsys, "model", "street.png")
    assert ("nothing found" in out, "  dog  0.900" in out) == (False, True)


def test_the_best_score_of_a_camera_is_told(strict, capsys):
    """The best of all its pictures."""
    code = "import sys, time\nwhile True:\n sys.stdout.buffer.write(bytes(9216)); sys.stdout.flush(); time.sleep(0.02)"
    source = f"kind = \"exec\"\nargv = {json.dumps([sys.executable, '-c', code])}\nwidth = 64\nheight = 48\n"
    (strict / "limpet.toml").write_text(f"schema = 1\n[sources.door]\n{source}")
    out = tried(capsys, "model", "door", "--config", "limpet.toml", "--frames", "2")
    assert "  nothing found: best 0.900 of 'dog', threshold 0.95\n" in out


@pytest.mark.parametrize("word", [("--compare",), ()])
def test_another_way_with_nothing_tells_its_best_too(strict, capsys, word):
    """So that ways can be told apart before the threshold is right."""
    assert "nothing" in (out := tried(capsys, "model", "street.png", *word))
    assert "best 0.900 of 'dog', threshold 0.95" in out


def test_the_best_is_that_of_all_views_and_of_no_ignored_label():
    """'unknown' always wins, and is never told: what matters is how near the word came."""
    scores = [[0.1, 0.3, 0.6], [0.2, 0.7, 0.1], [0.0, 0.0, 1.0]]
    best = {label: row for label, row in zip(load_manifest(MANIFESTS / "wakeword").labels, zip(*scores, strict=True),
                                             strict=True) if label == "marvin"}  # fmt: skip
    assert nearest("wakeword", scores) == f"best {max(best['marvin']):.3f} of 'marvin', threshold 0.95"


def test_what_keeps_back_a_good_score_is_named():
    """A step behind the decoder, with its own threshold, or a key of the decoder that is none."""
    assert nearest("silero-vad", [[0.3]]) == "best 0.300 of 'speech', which [[post]] spans (on 0.5) left out"
    low = {"threshold": 0.5}
    said = nearest("micro-speech", [[0.1, 0.3, 0.55, 0.05]], low | {"ignore": ("no",)}, post=())
    assert said.endswith("which [decoder] ignore left out")


def test_a_reconstruction_tells_how_near_its_error_came():
    """In units of its threshold, as its scores are: 1 is anomalous."""
    decoder = {"step": "reconstruction", "threshold": 4.0}
    manifest = dataclasses.replace(load_manifest(MANIFESTS / "silero-vad"), decoder=decoder, post=())
    one = Nearest(manifest)
    one.look({"y": np.array([1.0, 3.0])}, View(np.array([0.0, 2.0])))
    assert one.words() == "best 0.250 of 'anomaly', threshold 1"


def test_decoders_without_a_threshold_say_nothing():
    """A map of classes has none; nor has a model without decoder."""
    manifest = load_manifest(MANIFESTS / "deeplab")
    for decoder in (manifest.decoder, None):
        one = Nearest(dataclasses.replace(manifest, decoder=decoder))
        one.look({"y": np.zeros((4, 4))}, View(np.zeros((4, 4, 3))))
        assert (one.best, one.words()) == (None, "")


# ---- which way is the present one


def test_the_present_way_is_known_however_it_is_written():
    """Keys left at their defaults, 255 for 255.0, pictures that are BGR anyway: none makes it another way."""
    fastest = load_manifest(MANIFESTS / "fastestdet")
    assert {"step": "normalise", "divide_by": 255} in fastest.pre
    assert [words for words, way in variants(fastest) if way is fastest] == ["stretched, bgr, 0..1"]
    written = dataclasses.replace(fastest, pre=(
        {**fastest.pre[0], "step": "letterbox", "align": "top_left"}, {"step": "colour", "to": "bgr"},
        {"step": "normalise", "divide_by": 255.0, "mean": [0.0], "std": [1.0]}))  # fmt: skip
    assert [words for words, way in variants(written) if way is written] == ["letterbox, bgr, 0..1"]


def test_a_way_of_its_own_stands_beside_the_usual_ones():
    """Mean 127 and deviation 128 are nobody else's."""
    face = load_manifest(MANIFESTS / "face-rfb320")
    ways = variants(face)
    assert [words for words, way in ways if way is face] == ["its own [[pre]]"]
    assert len(ways) == 17


def test_the_present_way_is_marked(strict, capsys):
    """One row, in every case."""
    model = strict / "model" / "model.toml"
    for old, new in (("", ""), ("divide_by = 255.0", "divide_by = 200.0")):
        model.write_text(model.read_text().replace(old, new) if old else model.read_text())
        assert tried(capsys, "model", "street.png", "--compare").count("(as it is now)") == 1
