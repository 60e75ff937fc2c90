"""What every decoder of boxes keeps to: pieces of a picture, nothing found, numbers and keys that make no sense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError, ModelError
from agent.records import View
from pipelines.outputs import decoded
from tests.detection_heads import (
    ANCHORS,
    FASTEST,
    LABELS,
    SIDE,
    SSD,
    TRUTH,
    VIEW,
    candidates,
    decoder,
    fastest,
    grid,
    lay,
    post_process,
    told,
)


def test_cells_are_pieces_of_one_picture():
    """A detector that ran on two halves: boxes in source pixels, an object on the seam told once."""
    view = View(np.zeros((2, SIDE, SIDE, 3), np.uint8), size=(300, 160), cells=((0, 0, 160, 160), (140, 0, 300, 160)))
    left = [("dog", 0.9, (142.0, 10.0, 158.0, 50.0))]
    right = [("dog", 0.8, (2.0, 10.0, 18.0, 50.0)), ("cat", 0.7, (80, 80, 120, 120))]
    each = [post_process(left), post_process(right)]
    stacked = {name: np.stack([one[name] for one in each]) for name in each[0]}
    found = decoder("boxes", nms_iou=0.5)(stacked, view, LABELS)
    assert told(found) == [("dog", 0.9, (142, 10, 158, 50)), ("cat", 0.7, (220, 80, 260, 120))]


def test_nothing_found_is_no_finding():
    """All scores below the threshold, in every decoder."""
    assert decoder("boxes")(post_process([]), VIEW, LABELS) == ()
    assert decoder("box_table")({"t": np.zeros((1, 7, 40), "f4")}, VIEW, LABELS) == ()
    assert decoder("box_grid", move="none")({"t": grid(16, 1, 8)}, VIEW, LABELS) == ()
    outputs = {"boxes": np.zeros((1, 900, 4)), "scores": np.zeros((1, 900, 3))}
    assert decoder("box_anchors", level=SSD)(outputs, VIEW, LABELS) == ()


RAW = {
    "boxes": ({"columns": ["box", "score", "class"], "order": "xyxy"}, {"t": np.array([[0.1, 0.2, 0.3, 0.4, 0.9, 1]])}),
    "box_table": ({"unit": "fraction"}, {"t": candidates(0)[None] / ([SIDE] * 4 + [1] * 3)}),
    "box_grid": (FASTEST, {"t": lay(grid(16, 1, 8), 16, fastest)[None]}),
    "box_anchors": ({"level": SSD}, {"boxes": np.zeros((1, 900, 4)), "scores": np.full((1, 900, 3), 0.9)}),
}


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE, 3), (1, 3, SIDE, SIDE), (1, SIDE, SIDE), (SIDE, SIDE, 3)])
@pytest.mark.parametrize("step", RAW)
def test_raw_tensors_are_decoded_in_pixels_of_the_models_picture(step, shape):
    """Golden arrays have no source: whatever the layout of the input, boxes are told in its own pixels."""
    keys, outputs = RAW[step]
    found = decoder(step, **keys)(outputs, View(np.zeros(shape, np.uint8)), LABELS)
    assert len(found) > 0
    assert found == decoder(step, **keys)(outputs, View(VIEW.data), LABELS)


def test_numbers_that_are_not_finite_are_refused():
    """A score or a box that is infinite is an error that names the decoder, never a finding."""
    table = candidates(0)
    table[3, 5] = np.inf
    with pytest.raises(ModelError, match="'box_table': a score is not finite"):
        decoder("box_table")({"t": table[None]}, VIEW, LABELS)
    table[3, 5], table[3, 0] = 0.9, np.inf
    with pytest.raises(ModelError, match="'box_table': a box is not finite"):
        decoder("box_table")({"t": table[None]}, View(np.zeros((SIDE, SIDE, 3), np.uint8)), LABELS)


DECODERS = [
    ("boxes", {}), ("boxes", {"count": "count"}), ("boxes", {"columns": ["box", "score", "class"]}),
    ("box_table", {"boxes": "boxes"}), ("box_table", {"boxes": "boxes", "scores": "scores"}),
    ("box_table", {"columns": "object_box_classes", "activation": "softmax", "background": "last"}),
    ("box_grid", {"heads": ["boxes"]}), ("box_grid", {"heads": ["boxes"], "strides": [8, 16]}), ("box_grid", {}),
    ("box_grid", {"heads": ["boxes"], "score_heads": ["scores"], "box": "sides", "bins": 2}),
    ("box_grid", {"heads": ["boxes"], "object_heads": ["count"], "anchors": [ANCHORS], "size_of": "anchor"}),
    ("box_anchors", {"level": SSD}), ("segments", {}), ("segments", {"form": "scores", "output": "scores"}),
    ("segments", {"form": "scores_first", "regions": 2}), ("keypoints", {}), ("keypoints", {"scores": "scores"}),
    ("heatmaps", {}), ("heatmaps", {"offsets": "scores"}), ("classify", {}),
]  # fmt: skip
sizes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 7, 8, 20]), max_size=4)
numbers = st.sampled_from([0.0, 0.7, 1.0, -5.0, 300.0, 1e30, float("nan"), float("inf")])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(DECODERS), st.lists(st.tuples(sizes, numbers), min_size=4, max_size=4), st.data())
def test_outputs_of_any_shape_and_number_give_findings_or_a_model_error(made, ports, data):
    """Whatever a graph puts out, a lane counts a refusal and lives: no other exception, and no NaN in a finding."""
    step, keys = made
    names = ("boxes", "classes", "scores", "count")
    outputs = {n: np.full(shape, number, np.float32) for n, (shape, number) in zip(names, ports, strict=True)}
    labels = data.draw(st.sampled_from([(), LABELS[:1], LABELS]))
    try:
        found = decoded(decoder(step, **keys), outputs, VIEW, labels)
    except ModelError:
        return
    assert all(np.isfinite([f.score, *(f.box or ())]).all() for f in found)
    assert len(found) <= 400


def test_labels_that_do_not_fit_are_refused():
    """A class without a label, a table of another width, a head of another width: each says what to correct."""
    with pytest.raises(ModelError, match="class 2 has no label, there are 2: correct the labels"):
        decoder("boxes")(post_process(TRUTH), VIEW, LABELS[:2])
    with pytest.raises(ModelError, match="has no side of 6 numbers: correct the labels"):
        decoder("box_table")({"t": candidates(0)[None]}, VIEW, LABELS[:2])
    with pytest.raises(ModelError, match="has no 1 x 7 numbers per cell: correct labels"):
        decoder("box_grid")({"t": grid(16, 1, 8)}, VIEW, LABELS[:2])
    with pytest.raises(ModelError, match="shows no grid: give 'strides'"):
        decoder("box_grid")({"t": np.zeros((1, 100, 8))}, VIEW, LABELS)
    with pytest.raises(ModelError, match=r"100 candidates do not fill grids .* which have 400: correct 'strides'"):
        decoder("box_grid", strides=[8])({"t": np.zeros((1, 100, 8))}, VIEW, LABELS)


@pytest.mark.parametrize(
    ("step", "keys", "words"),
    [
        ("boxes", {"columns": ["box", "score"]}, "columns must name box, score and class once each"),
        ("box_grid", {"size_of": "anchor"}, "size_of = 'anchor' needs 'anchors'"),
        ("box_grid", {"bins": 8}, "bins > 1 needs box = 'sides'"),
        ("box_grid", {"heads": ["a", "b"], "score_heads": ["c"]}, "'score_heads' has 1 entries, 'heads' asks for 2"),
        ("box_grid", {"heads": ["a", "b"], "strides": [8]}, "'strides' has 1 entries, 'heads' asks for 2"),
        ("box_grid", {"heads": ["a"], "strides": [8, 16], "anchors": [ANCHORS]}, "'anchors' has 1 .* asks for 2"),
        ("box_anchors", {}, "key 'level' is missing"),
        ("box_table", {"threshold": 2}, "0 to 1"),
    ],
)
def test_keys_that_cannot_work_are_refused_when_the_step_is_made(step, keys, words):
    """Before a picture is seen."""
    with pytest.raises(ConfigError, match=words):
        decoder(step, **keys)
