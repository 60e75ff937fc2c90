"""Which decoder reads a detector: from the shapes of its outputs, and what it answers to noise.

Owns what a graph has suppressed or paired itself; `heads` owns the rest. A rule is a function that returns a Reading,
or None when the outputs are not of its kind; the first that answers wins.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from agent.records import Array
from agent.skeleton.facts import Facts, Shaped
from agent.skeleton.heads import read_candidates, read_fastestdet, read_grids, read_scrfd, read_yunet
from agent.skeleton.outputs import FACE, Size, are_distributions, cell_count, coco_labels, in_fractions, in_unit_range
from agent.skeleton.parts import Keys, Part, Reading

_ULTRALIGHT = ((8, 3), (16, 2), (32, 2), (64, 3))
"""Stride and boxes per cell of Ultra-Light-Fast's faces."""
_FEW = 1000
"""Rows at most of a graph that has chosen among its boxes, by suppression or as DETR does."""


def read_detector(facts: Facts, size: Size) -> Reading | None:
    """The first family that fits."""
    rules: tuple[Callable[[Facts, Size], Reading | None], ...] = (
        _post_process, _four_ports, _suppressed, read_yunet, read_scrfd, _pair, read_candidates, read_fastestdet,
        read_grids,
    )  # fmt: skip
    return next((made for rule in rules if (made := rule(facts, size))), None)


# ---- the graph has suppressed doubles


def _post_process(facts: Facts, size: Size) -> Reading | None:
    op = facts.graph.op("TFLite_Detection_PostProcess")
    names = {port.name for port in facts.outputs}
    if op is None or not set(op.outputs[:3]) <= names:
        return None
    keys: Keys = {"step": "boxes", "boxes": op.outputs[0], "classes": op.outputs[1], "scores": op.outputs[2]}
    why = "the graph ends with TFLite_Detection_PostProcess: boxes, classes, scores, count, doubles suppressed"
    scored = facts.graph.shapes.get(op.inputs[1], ()) if len(op.inputs) > 1 else ()
    classes = scored[-1] - 1 if scored else 0
    return Reading(Part(keys, "known", why), most=classes, labels=coco_labels(classes), family="tf")


def _four_ports(facts: Facts, size: Size) -> Reading | None:
    """The same four ports without the operator, as newer exporters write them."""
    boxes = [port for port in facts.outputs if port.shape[-1:] == (4,) and len(port.bare) == 2]
    if len(boxes) != 1:
        return None
    count = boxes[0].bare[0]
    rows = [port for port in facts.outputs if port.bare == (count,)]
    if len(rows) != 2 or count > _FEW:
        return None
    scores = next((port for port in rows if "score" in facts.said_name(port)), None)
    sure = scores is not None
    scores = scores or max(rows, key=lambda port: _fractions(facts.answers.get(port.name)))
    (classes,) = (port for port in rows if port is not scores)
    keys: Keys = {"step": "boxes", "boxes": boxes[0].name, "classes": classes.name, "scores": scores.name}
    answer = facts.answers.get(boxes[0].name)
    if answer is not None and not in_fractions(answer):
        keys |= {"unit": "px"}
    why = f"{count} boxes with as many scores and classes: the graph has suppressed doubles"
    other = "classes and scores the other way round"
    return Reading(Part(keys, "likely" if sure else "guess", why, other), family="tf")


def _fractions(answer: Array | None) -> float:
    return 0.0 if answer is None else float(np.mean(answer != np.rint(answer)))


def _suppressed(facts: Facts, size: Size) -> Reading | None:
    """One table of a few boxes: exports that end with NMS, YOLOv10."""
    port = facts.outputs[0]
    if len(facts.outputs) > 2 or len(port.bare) != 2 or port.bare[1] not in (6, 7) or port.bare[0] > _FEW:
        return None
    columns = ["box", "score", "class"] if port.bare[1] == 6 else ["batch", "box", "class", "score"]
    keys: Keys = {"step": "boxes", "boxes": port.name, "columns": columns, "order": "xyxy", "unit": "px"}
    why = f"rows of {port.bare[1]} numbers, {port.bare[0]} of them: {', '.join(columns)}"
    return Reading(Part(keys, "likely", why, 'unit = "fraction" when boxes come out tiny'), family="ultralytics")


# ---- boxes and scores in two ports


def _pair(facts: Facts, size: Size) -> Reading | None:
    """[n, 4] boxes and [n, classes] scores: decoded ones, DETR, or corrections of anchors."""
    if not 2 <= len(facts.outputs) <= 3:
        return None
    boxes = next((port for port in facts.outputs if len(port.bare) == 2 and port.bare[1] in (4, 16, 18)), None)
    if boxes is None:
        return None
    others = (port for port in facts.outputs if port is not boxes and port.shape)
    scores = next((port for port in others if _rows(port) == boxes.bare[0]), None)
    if scores is None:
        return None
    if boxes.bare == (896, 16):
        return _blazeface(boxes, scores)
    answer = facts.answers.get(boxes.name)
    corners = answer is not None and _are_corners(answer.reshape(-1, boxes.bare[1])[:, :4])
    if not corners and boxes.bare[0] > _FEW:
        return _unknown_anchors(boxes, scores)
    return _decoded_pair(facts, size, boxes, scores, corners=corners)


def _decoded_pair(facts: Facts, size: Size, boxes: Shaped, scores: Shaped, *, corners: bool) -> Reading:
    """Boxes that need no anchors: corners, or the centres and sizes that DETR gives."""
    answer, wide = facts.answers.get(boxes.name), _columns(scores)
    fractions = answer is None or in_fractions(answer)
    faces = wide == 2 and boxes.bare[0] == sum(cell_count(size, (s,)) * n for s, n in _ULTRALIGHT)
    keys: Keys = {"step": "box_table", "boxes": boxes.name, "scores": scores.name,
            "order": "xyxy" if corners else "xywh", "unit": "fraction" if fractions else "px"}  # fmt: skip
    background = _background(facts, scores, wide, last=not corners)
    keys |= background | _activation(facts, scores, wide)
    keys |= {"threshold": 0.7, "nms_iou": 0.3} if faces else {} if corners else {"threshold": 0.5, "nms_iou": 1.0}
    words = "corners" if corners else "centres and sizes"
    part = Part(keys, "likely", f"{boxes.bare[0]} boxes as {words} in {keys['unit']}s, and {wide} scores each")
    classes = wide - bool(background)
    if not faces:
        return Reading(part, classes, labels=coco_labels(classes))
    why = f"{part.why}: Ultra-Light-Fast's face detector has as many over this size"
    return Reading(dataclasses.replace(part, why=why), classes, labels=FACE, family="ultralight")


def _rows(port: Shaped) -> int:
    return port.bare[0] if port.bare else 1


def _columns(port: Shaped) -> int:
    return port.bare[1] if len(port.bare) == 2 else 1


def _background(facts: Facts, scores: Shaped, wide: int, *, last: bool) -> dict[str, str]:
    """A class that stands for nothing: where the scores of a row add up to one, something must take the rest."""
    answer = facts.answers.get(scores.name)
    if wide < 2 or answer is None:
        return {}
    if last and wide in (92, 22, 21):
        return {"background": "last"}
    return {"background": "first"} if are_distributions(answer.reshape(-1, wide)) else {}


def _activation(facts: Facts, scores: Shaped, wide: int) -> dict[str, str]:
    answer = facts.answers.get(scores.name)
    if in_unit_range(answer):
        return {}
    return {"activation": "softmax" if wide in (92, 22) else "sigmoid"}


def _blazeface(boxes: Shaped, scores: Shaped) -> Reading:
    one = [[128, 128]]
    keys: Keys = {
        "step": "box_anchors", "boxes": [boxes.name], "scores": [scores.name], "activation": "sigmoid",
        "grow": "linear", "centre_gain": 0.0078125, "size_gain": 0.0078125, "threshold": 0.6, "nms_iou": 0.3,
        "level": [{"stride": 8, "sizes_px": one * 2}, {"stride": 16, "sizes_px": one * 6}],
    }  # fmt: skip
    why = "896 candidates of 16 numbers are BlazeFace's, front camera, 128 x 128 pixels"
    return Reading(Part(keys, "likely", why), 1, labels=FACE, family="blazeface")


def _unknown_anchors(boxes: Shaped, scores: Shaped) -> Reading:
    told = f"{boxes.bare[0]} rows of 4 numbers that are no boxes: corrections of anchors, which only its author knows"
    todo = f"write box_anchors with its levels (docs/vision.md) for '{boxes.name}' and '{scores.name}'"
    return Reading(remarks=(f"{told}: {todo}",), classes=_columns(scores))


def _are_corners(rows: Array) -> bool:
    """Whether nearly all rows are left, top, right, bottom."""
    return float(np.mean((rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1]))) > 0.95
