"""What `limpet models try` says when nothing is found: how near the best score came."""

import dataclasses
import re

import numpy as np
import pytest

from agent.manifest import load_manifest
from agent.records import View
from agent.tryout import Nearest
from tests import trying
from tests.realdata import MANIFESTS
from tests.trying import tried, write_door

here, strict = pytest.fixture(trying.here), pytest.fixture(trying.strict)


def nearest(name, scores, decoder=(), post=None):
    """What a written manifest's decoder says of nothing found, with other keys, after a view of these scores each."""
    manifest = load_manifest(MANIFESTS / name)
    made = dataclasses.replace(manifest, decoder={**manifest.decoder, **dict(decoder)},
                               post=manifest.post if post is None else post)  # fmt: skip
    one = Nearest(made)
    for row in scores:
        one.look({"y": np.array([row])}, View(np.zeros(0), 0.0, 1.0))
    return one.words()


def test_the_best_score_that_was_not_enough_is_told(strict, capsys):
    """With its label and the threshold; findings that are told need no such line."""
    said = "  nothing found: best 0.900 of 'dog', threshold 0.95\n"
    assert said in tried(capsys, "model", "street.png")[1]
    model = strict / "model" / "model.toml"
    model.write_text(model.read_text().replace("threshold = 0.95", "threshold = 0.85"))
    out = tried(capsys, "model", "street.png")[1]
    assert ("nothing found" in out, "  dog  0.900" in out) == (False, True)


def test_the_best_score_of_a_camera_is_told(strict, capsys):
    """The best of all its pictures."""
    write_door(strict)
    out = tried(capsys, "model", "door", "--config", "limpet.toml", "--frames", "2")[1]
    assert "  nothing found: best 0.900 of 'dog', threshold 0.95\n" in out


@pytest.mark.parametrize("word", [("--compare",), ()])
def test_another_way_with_nothing_tells_its_best_too(strict, capsys, word):
    """So that ways can be told apart before the threshold is right."""
    assert "nothing" in (out := tried(capsys, "model", "street.png", *word)[1])
    assert "best 0.900 of 'dog', threshold 0.95" in out


def test_the_best_is_that_of_all_views_and_of_no_ignored_label():
    """'unknown' always wins, and is never told: what matters is how near the word came."""
    scores = [[0.1, 0.3, 0.6], [0.2, 0.7, 0.1], [0.0, 0.0, 1.0]]
    best = {label: row for label, row in zip(load_manifest(MANIFESTS / "wakeword").labels, zip(*scores, strict=True),
                                             strict=True) if label == "marvin"}  # fmt: skip
    assert nearest("wakeword", scores) == f"best {max(best['marvin']):.3f} of 'marvin', threshold 0.95"


def test_labels_that_the_steps_behind_are_after_come_first(strict, capsys):
    """A detector of persons that saw a dog says how near a person came; nobody asked about dogs."""
    model = strict / "model" / "model.toml"
    keep = '[[post]]\nstep = "keep_labels"\nlabels = ["person"]\n\n[[artifact]]'
    text = model.read_text().replace("[[artifact]]", keep)
    model.write_text(text.replace("threshold = 0.95", "threshold = 0.5"))
    out = tried(capsys, "model", "street.png")[1]
    assert re.search(r"nothing found: best 0\.0[45]\d of 'person', threshold 0\.5\n", out)
    model.write_text(model.read_text().replace('labels = ["person"]', 'labels = ["nobody"]'))
    said = "nothing found: best 0.900 of 'dog', which [[post]] keep_labels left out\n"
    assert said in tried(capsys, "model", "street.png")[1]


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
