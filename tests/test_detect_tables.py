"""Decoders of tables: boxes that an export has suppressed itself, and candidates that are suppressed here."""

import time

import numpy as np
import pytest

from agent.manifest import Port
from agent.runtime.quant import dequantise
from tests.detection_heads import (
    LABELS,
    SIDE,
    TRUTH,
    VIEW,
    candidates,
    decoder,
    post_process,
    told,
)


def test_the_post_process_operator_is_read():
    """Boxes as fractions, y first, in four ports; those beyond the count do not exist."""
    outputs = post_process(TRUTH)
    assert told(decoder("boxes")(outputs, VIEW, LABELS)) == list(TRUTH)
    outputs["scores"][0, 4] = 0.99
    assert len(decoder("boxes")(outputs, VIEW, LABELS)) == 3
    assert told(decoder("boxes", count="count")(outputs, VIEW, LABELS)) == list(TRUTH)


def test_a_background_class_has_no_label():
    """Class 0 is dropped and class 1 has the first label."""
    outputs = post_process([("cat", 0.95, (0, 0, 9, 9)), *TRUTH])
    found = decoder("boxes", background="first")(outputs, VIEW, ("dog", "owl"))
    assert told(found) == list(TRUTH)


def test_a_table_that_ends_with_suppression_is_read():
    """One row per box: x1, y1, x2, y2, score, class, in pixels."""
    rows = np.array([[[*box, score, LABELS.index(label)] for label, score, box in TRUTH]], "f4")
    read = decoder("boxes", columns=["box", "score", "class"], order="xyxy", unit="px")
    assert told(read({"output0": rows}, VIEW, LABELS)) == list(TRUTH)
    batched = np.concatenate([np.zeros((1, 2, 1), "f4"), rows], axis=2)
    read = decoder("boxes", columns=["batch", "box", "score", "class"], order="xyxy", unit="px")
    assert told(read({"output0": batched}, VIEW, LABELS)) == list(TRUTH)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("fraction", [False, True])
@pytest.mark.parametrize("objects", [0, 1])
@pytest.mark.parametrize("logits", [False, True])
def test_tables_of_candidates_are_read(turned, fraction, objects, logits):
    """As rows or columns, in pixels or fractions, with or without objectness, activated or not: the same two boxes."""
    table = candidates(objects, logits=logits)
    if fraction:
        table[:, :4] /= SIDE
    keys = {"columns": "box_object_classes"} if objects else {}
    keys |= {"activation": "sigmoid", "object_activation": "sigmoid"} if logits else {}
    read = decoder("box_table", unit="fraction" if fraction else "px", **keys)
    found = read({"output0": (table.T if turned else table)[None]}, VIEW, LABELS)
    assert [label for label, _, _ in told(found)] == ["dog", "owl"]
    assert [f.score for f in found] == pytest.approx([0.9, 0.8], abs=1e-3)
    assert np.array([f.box for f in found]) == pytest.approx(np.array([box for _, _, box in TRUTH]), abs=0.01)


def test_boxes_and_scores_may_have_ports_of_their_own():
    """With softmax over classes and the last class for nothing, as DETR does."""
    table = candidates(0)
    logits = np.concatenate([np.log(table[:, 4:].clip(1e-6)), np.log(1 - table[:, 4:].max(1, keepdims=True))], axis=1)
    read = decoder("box_table", boxes="boxes", scores="logits", activation="softmax", background="last")
    found = read({"logits": logits[None], "boxes": table[None, :, :4]}, VIEW, LABELS)
    assert [(f.label, round(f.score, 2)) for f in found] == [("dog", 0.9), ("owl", 0.8)]


def test_eight_bit_tables_are_read_through_their_scale():
    """A per-tensor int8 table, dequantised as every port is, gives the boxes to within its steps."""
    table = candidates(0)
    table[:, :4] /= SIDE
    port = Port("table", (1, *table.shape), "int8", 1 / 255, -128)
    raw = np.rint(table / port.scale + port.zero_point).clip(-128, 127).astype(np.int8)[None]
    found = decoder("box_table", unit="fraction")({"table": dequantise(raw, port)}, VIEW, LABELS)
    assert np.array([f.box for f in found]) == pytest.approx(np.array([b for _, _, b in TRUTH]), abs=1.5 * SIDE / 255)


def test_a_wild_picture_costs_bounded_time():
    """25,200 candidates above the threshold, none overlapping another enough: as many boxes as allowed, in time."""
    rng = np.random.default_rng(1)
    table = np.hstack([rng.uniform(0, SIDE, (25_200, 2)), np.full((25_200, 2), 3.0), rng.random((25_200, 3))])
    start = time.perf_counter()
    found = decoder("box_table", threshold=0.0, max_findings=100)({"t": table.astype("f4")[None]}, VIEW, LABELS)
    assert len(found) == 100
    assert time.perf_counter() - start < 2.0
