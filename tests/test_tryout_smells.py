"""What `limpet models try` says of a manifest that cannot be right."""

import numpy as np

from agent.manifest import load_manifest
from agent.records import Finding, View
from agent.tryout import smells
from tests.realdata import MANIFESTS


def smelt(manifest, fed=None, outputs=(), found=()):
    return "\n".join(smells(manifest, (fed or {}, found[0][0] if found else None), outputs, found))


def described(name, **decoder):
    """A written manifest with another decoder."""
    import dataclasses

    return dataclasses.replace(load_manifest(MANIFESTS / name), decoder=decoder)


def test_logits_told_as_scores_are_smelt():
    """The words name the key to set; scores between 0 and 1 are in order."""
    manifest = described("vww", step="classify")
    assert 'activation = "softmax"' in smelt(manifest, outputs=[{"Identity_int8": np.array([[-3.0, 7.0]])}])
    assert smelt(manifest, outputs=[{"Identity_int8": np.array([[0.2, 0.8]])}]) == ""


def test_a_range_that_saturates_the_input_is_smelt():
    """Pixels of a grey picture that all became the largest value; a black picture may be black."""
    manifest, grey = described("vww", step="classify"), View(np.full((9, 9, 3), 99, np.uint8), size=(9, 9))
    full = np.full((1, 9, 9, 3), 127, np.int8)
    full[0, 0] = 5
    assert "is the largest value of int8, of the picture only 0%" in smelt(manifest, {"x": full}, found=[(grey, ())])
    black = View(np.zeros((9, 9, 3), np.uint8), size=(9, 9))
    dark = np.full((1, 9, 9, 3), -128, np.int8)
    dark[0, 0, 0] = 3
    assert smelt(manifest, {"x": dark}, found=[(black, ())]) == ""
    assert "every number of input 'x' is 127" in smelt(manifest, {"x": np.full((1, 4), 127, np.int8)})


def test_scores_that_are_all_alike_or_never_change_are_smelt():
    """In one view, and over several."""
    manifest = described("vww", step="classify")
    assert "all scores" in smelt(manifest, outputs=[{"Identity_int8": np.full((1, 2), 0.5)}])
    views = [{"Identity_int8": np.array([[0.3, 0.7]])}] * 3
    assert "3 views gave the same scores" in smelt(manifest, outputs=views)


def test_boxes_of_no_size_or_of_the_whole_picture_are_smelt():
    """Which unit to set; and more boxes than are told at most."""
    manifest, view = described("traffic", step="boxes"), View(np.zeros((9, 9, 3), np.uint8), size=(300, 200))
    tiny = tuple(Finding("a", 0.9, (0.1, 0.1, 0.9, 0.9)) for _ in range(3))
    assert 'unit = "fraction"' in smelt(manifest, found=[(view, tiny)])
    whole = tuple(Finding("a", 0.5 + i / 10, (0, 0, 300, 200)) for i in range(3))
    assert 'unit = "px"' in smelt(manifest, found=[(view, whole)])
    crowd = tuple(Finding("a", 0.9, (0, 0, 50, 50)) for _ in range(100))
    assert "raise threshold" in smelt(manifest, found=[(view, crowd)])
    assert "100 boxes, all 'a' and all with one score" in smelt(manifest, found=[(view, crowd)])
    assert "scores lie outside of 0 to 1" in smelt(manifest, found=[(view, (Finding("a", 3.0, (0, 0, 50, 50)),))])
    good = (Finding("a", 0.9, (0, 0, 50, 50)),)
    assert smelt(manifest, found=[(view, good)]) == ""
