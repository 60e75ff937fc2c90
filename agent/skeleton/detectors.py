"""Which decoder reads a detector: from the shapes of its outputs, and what it answers to noise.

Owns the families of box heads. A rule is a function that returns a Reading, or None when the outputs are not of its
kind; the first that answers wins. How many candidates there are tells the grid, because the number of cells follows
from the picture's size and the strides; the answer to noise tells whether boxes are decoded and scores are activated.
"""

import math
from collections.abc import Callable

import numpy as np

from agent.records import Array
from agent.skeleton.facts import Facts, Shaped
from agent.skeleton.known import COCO, COCO_90
from agent.skeleton.said import Keys, Labels, Part, Reading

Size = tuple[int, int]
"""Height and width of the picture, pixels."""

_ULTRALIGHT = ((8, 3), (16, 2), (32, 2), (64, 3))
"""Stride and boxes per cell of Ultra-Light-Fast's faces."""
_FEW = 1000
_COCO_WHY = "80 classes are COCO's nearly always"
_FACE = Labels(("face",), "likely", "one class, and the number of candidates is that of a face detector")


def read_detector(facts: Facts, size: Size) -> Reading | None:
    """The first family that fits."""
    rules: tuple[Callable[[Facts, Size], Reading | None], ...] = (
        _post_process, _four_ports, _suppressed, _yunet, _scrfd, _pair, _candidates, _fastestdet, _raw_grids,
    )  # fmt: skip
    return next((made for rule in rules if (made := rule(facts, size))), None)


def cells(size: Size, strides: tuple[int, ...]) -> int:
    """How many cells grids of these strides have over the picture."""
    return sum(math.ceil(size[0] / stride) * math.ceil(size[1] / stride) for stride in strides)


# ---- the graph has suppressed doubles


def _post_process(facts: Facts, size: Size) -> Reading | None:
    op = facts.graph.op("TFLite_Detection_PostProcess")
    names = {port.name for port in facts.outputs}
    if op is None or not set(op.outputs[:3]) <= names:
        return None
    keys: Keys = {"step": "boxes", "boxes": op.outputs[0], "classes": op.outputs[1], "scores": op.outputs[2]}
    why = "the graph ends with TFLite_Detection_PostProcess: boxes, classes, scores, count, doubles suppressed"
    return Reading(Part(keys, "known", why), family="tf")


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
    if answer is not None and np.abs(answer).max(initial=0) > 4:
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
    wide = scores.bare[1] if len(scores.bare) == 2 else 1
    if boxes.bare == (896, 16):
        return _blazeface(boxes, scores)
    laid = facts.answers.get(boxes.name)
    corners = laid is not None and _are_corners(laid.reshape(-1, boxes.bare[1])[:, :4])
    fractions = laid is None or float(np.abs(laid).max(initial=0)) < 4
    detr = boxes.bare[0] <= _FEW and not corners
    if not corners and not detr:
        return _unknown_anchors(boxes, scores, wide)
    faces = wide == 2 and boxes.bare[0] == sum(cells(size, (s,)) * n for s, n in _ULTRALIGHT)
    keys: Keys = {"step": "box_table", "boxes": boxes.name, "scores": scores.name,
            "order": "xyxy" if corners else "xywh", "unit": "fraction" if fractions else "px"}  # fmt: skip
    background = _background(facts, scores, wide, last=detr)
    keys |= background | _activation(facts, scores, wide)
    keys |= {"threshold": 0.7, "nms_iou": 0.3} if faces else {"threshold": 0.5, "nms_iou": 1.0} if detr else {}
    words = "corners" if corners else "centres and sizes"
    why = f"{boxes.bare[0]} boxes as {words} in {keys['unit']}s, and {wide} scores each"
    more = ": Ultra-Light-Fast's face detector has as many over this size" if faces else ""
    classes, family = wide - bool(background), "ultralight" if faces else ""
    return Reading(Part(keys, "likely", why + more), classes, labels=_FACE if faces else _coco(classes), family=family)


def _rows(port: Shaped) -> int:
    return port.bare[0] if port.bare else 1


def _background(facts: Facts, scores: Shaped, wide: int, *, last: bool) -> dict[str, str]:
    """A class that stands for nothing: where the scores of a row add up to one, something must take the rest."""
    answer = facts.answers.get(scores.name)
    if wide < 2 or answer is None:
        return {}
    if last and wide in (92, 22, 21):
        return {"background": "last"}
    return {"background": "first"} if adds_up(answer.reshape(-1, wide)) else {}


def _activation(facts: Facts, scores: Shaped, wide: int) -> dict[str, str]:
    answer = facts.answers.get(scores.name)
    if answer is None or (answer.min() >= 0 and answer.max() <= 1):
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
    return Reading(Part(keys, "likely", why), 1, labels=_FACE, family="blazeface")


def _unknown_anchors(boxes: Shaped, scores: Shaped, wide: int) -> Reading:
    told = f"{boxes.bare[0]} rows of 4 numbers that are no boxes: corrections of anchors, which only its author knows"
    todo = f"write box_anchors with its levels (docs/vision.md) for '{boxes.name}' and '{scores.name}'"
    return Reading(remarks=(f"{told}: {todo}",), classes=wide)


def _are_corners(rows: Array) -> bool:
    """Whether nearly all rows are left, top, right, bottom."""
    return float(np.mean((rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1]))) > 0.95


def adds_up(rows: Array) -> bool:
    """Whether each row is a distribution."""
    return bool(rows.min() >= -0.01 and np.abs(rows.sum(axis=1) - 1).max(initial=0) < 0.03)


def _coco(classes: int) -> Labels | None:
    if classes == len(COCO):
        return Labels(COCO, "likely", _COCO_WHY)
    return Labels(COCO_90, "likely", "90 classes are COCO's numbers 1 to 90") if classes in (90, 91) else None


# ---- one row or column per candidate


def _candidates(facts: Facts, size: Size) -> Reading | None:
    """YOLOv5 to v11, YOLOX, NanoDet, RT-DETR: the number of candidates tells which."""
    port = facts.outputs[0]
    if len(port.bare) != 2 or min(port.bare) < 5:
        return None
    one, every = cells(size, (8, 16, 32)), cells(size, (8, 16, 32, 64))
    for rows, wide, turned in ((port.bare[0], port.bare[1], False), (port.bare[1], port.bare[0], True)):
        if rows == 3 * one and wide > 5:
            return _with_objects(facts, port, wide, turned, f"{rows} candidates are three per cell: YOLOv5's and v7's")
        if rows == one and wide > 4:
            return _one_per_cell(facts, port, wide, turned)
        if rows == every and wide > 32:
            return _nanodet(facts, port, wide)
        if rows in (100, 300, 900) and wide > 4 and not turned:
            keys: Keys = {"step": "box_table", "boxes": port.name, "unit": "fraction", "threshold": 0.5, "nms_iou": 1.0}
            why = f"{rows} candidates of {wide} numbers: RT-DETR's"
            return Reading(Part(keys, "guess", why), wide - 4, labels=_coco(wide - 4), family="ultralytics")
    return None


def _one_per_cell(facts: Facts, port: Shaped, wide: int, turned: bool) -> Reading:
    rows = max(port.bare)
    yolox = not turned and "stride" not in facts.graph.notes and wide - 4 != len(COCO)
    if yolox:
        return _with_objects(facts, port, wide, turned, f"{rows} candidates, one per cell, in rows: YOLOX's and v6's")
    task = facts.graph.notes.get("task", "detect")
    unit = _unit(facts, port, turned)
    keys: Keys = {"step": "box_table", "boxes": port.name, **unit}
    why = f"{rows} candidates, one per cell of strides 8, 16, 32, in columns of {wide}: YOLOv8's and v11's"
    if task in ("pose", "segment", "obb"):
        told = f"an Ultralytics model for '{task}': no decoder reads '{port.name}': export it for detection"
        return Reading(remarks=(told,))
    return Reading(Part(keys, "likely", why), wide - 4, labels=_coco(wide - 4), family="ultralytics")


def _with_objects(facts: Facts, port: Shaped, wide: int, turned: bool, why: str) -> Reading:
    """Rows of box, object, classes: decoded, or YOLOX's raw ones."""
    yolox = "YOLOX" in why
    family, labels = "yolox" if yolox else "ultralytics", _coco(wide - 5)
    answer = facts.answers.get(port.name)
    rows = None if answer is None else _turned(answer, port, turned)
    decoded = rows is None or bool((rows[:, 2:4] >= 0).all() and np.ptp(rows[:, 0]) > 1.5 * np.ptp(rows[:, 2]) / 4)
    activation = {} if rows is None or (rows[:, 4:].min() >= 0 and rows[:, 4:].max() <= 1) else {
        "activation": "sigmoid", "object_activation": "sigmoid"}  # fmt: skip
    if decoded or not yolox:
        keys: Keys = {"step": "box_table", "boxes": port.name, "columns": "box_object_classes"}
        keys |= _unit(facts, port, turned)
        return Reading(Part(keys | activation, "likely", why), wide - 5, labels=labels, family=family)
    plain = activation or {"activation": "none", "object_activation": "none"}
    keys = {"step": "box_grid", "heads": [port.name], "strides": [8, 16, 32], "move": "none", **plain}
    return Reading(Part(keys, "likely", why + ", boxes not decoded"), wide - 5, True, labels, family)


def _turned(answer: Array, port: Shaped, turned: bool) -> Array:
    table = answer.reshape(port.bare)
    return table.T if turned else table


def _unit(facts: Facts, port: Shaped, turned: bool) -> dict[str, str]:
    """Fractions, as TFLite exports write boxes, or pixels, the default."""
    answer = facts.answers.get(port.name)
    if answer is None or np.abs(_turned(answer, port, turned)[:, :4]).max(initial=0) > 4:
        return {}
    return {"unit": "fraction"}


def _nanodet(facts: Facts, port: Shaped, wide: int) -> Reading:
    answer = facts.answers.get(port.name)
    scores = None if answer is None else answer.reshape(-1, wide)[:, :-32]
    activated = scores is None or bool(scores.min() >= 0 and scores.max() <= 1)
    keys: Keys = {"step": "box_grid", "heads": [port.name], "strides": [8, 16, 32, 64], "columns": "classes_box",
            "box": "sides", "bins": 8, "activation": "none" if activated else "sigmoid"}  # fmt: skip
    why = "a candidate per cell of strides 8 to 64, and 4 x 8 numbers behind the classes: NanoDet-Plus's"
    return Reading(Part(keys, "likely", why), wide - 32, True, _coco(wide - 32), "nanodet")


# ---- grids of raw numbers


def _fastestdet(facts: Facts, size: Size) -> Reading | None:
    """One grid whose objects and classes the graph has activated, and its boxes not."""
    port = facts.outputs[0]
    answer = facts.answers.get(port.name)
    if len(facts.outputs) != 1 or answer is None or len(port.shape) != 4 or port.shape[1] < 6:
        return None
    wide, rows = port.shape[1], answer.reshape(port.shape[1], -1).T
    if size[0] // port.shape[2] not in (8, 16, 32) or rows[:, 0].min() < 0 or not adds_up(rows[:, 5:]):
        return None
    keys: Keys = {"step": "box_grid", "columns": "object_box_classes", "move": "tanh", "grow": "sigmoid",
            "size_of": "picture", "activation": "none", "object_activation": "none", "object_power": 0.6,
            "class_power": 0.4, "threshold": 0.6}  # fmt: skip
    grid = f"one grid of {port.shape[3]} x {port.shape[2]}"
    why = f"{grid}: an activated object, 4 raw numbers, classes that add up to one: FastestDet's"
    return Reading(Part(keys, "likely", why), wide - 5, True, _coco(wide - 5), "fastestdet")


_V5 = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
_TINY = [[[10, 14], [23, 27], [37, 58]], [[81, 82], [135, 169], [344, 319]]]


def _raw_grids(facts: Facts, size: Size) -> Reading | None:
    """YOLOv3 to v8 cut off before their boxes are decoded: several grids, coarser by two each."""
    heads = [(port, found) for port in facts.outputs if (found := _grid(port, size))]
    if len(heads) != len(facts.outputs) or len({wide for _, (_, wide, _) in heads}) != 1:
        return None
    heads.sort(key=lambda head: head[1][0])
    strides, wide, five = [stride for _, (stride, _, _) in heads], heads[0][1][1], heads[0][1][2]
    if len(set(strides)) != len(strides) or len(strides) not in (2, 3):
        return None
    names = [port.name for port, _ in heads]
    keys: Keys = {"step": "box_grid", "heads": names, "strides": strides}
    if wide - 64 == len(COCO) or (wide > 64 and wide % 3):
        keys |= {"columns": "box_classes", "box": "sides", "bins": 16, "point": 0.5}
        return Reading(Part(keys, "likely", f"grids of {wide} = 4 x 16 + classes numbers per cell: YOLOv8's raw heads"),
                       wide - 64, True, _coco(wide - 64), "ultralytics")  # fmt: skip
    if wide % 3 or wide // 3 <= 5:
        return None
    keys |= {"anchors": _V5 if len(heads) == 3 else _TINY, "size_of": "anchor"}
    if five or "pytorch" in facts.graph.producer:
        keys |= {"move": "sigmoid_2", "grow": "sigmoid_2_squared"}
    why = f"grids of 3 x (5 + {wide // 3 - 5}) numbers per cell; anchors are those of COCO's models"
    return Reading(Part(keys, "guess", why, "the anchors of your training"), wide // 3 - 5, True,
                   _coco(wide // 3 - 5), "ultralytics" if five else "")  # fmt: skip


def _grid(port: Shaped, size: Size) -> tuple[int, int, bool] | None:
    """Stride, numbers per cell, and whether anchors have an axis of their own."""
    shape, ways = port.shape, list[tuple[int, int, int]]()
    if len(shape) == 5 and shape[1] in (2, 3):
        ways = [(shape[2], shape[3], shape[1] * shape[4])]
    elif len(shape) == 4:
        ways = [(shape[2], shape[3], shape[1]), (shape[1], shape[2], shape[3])]
    for high, wide, each in ways:
        for stride in (8, 16, 32, 64):
            if (math.ceil(size[0] / stride), math.ceil(size[1] / stride)) == (high, wide) and each >= 15:
                return stride, each, len(shape) == 5
    return None


# ---- faces with heads per stride


def _yunet(facts: Facts, size: Size) -> Reading | None:
    names = {port.name for port in facts.outputs}
    strides = [stride for stride in (8, 16, 32) if {f"cls_{stride}", f"obj_{stride}", f"bbox_{stride}"} <= names]
    if not strides:
        return None
    heads = {key: [f"{name}_{stride}" for stride in strides] for key, name in
             (("heads", "bbox"), ("score_heads", "cls"), ("object_heads", "obj"))}  # fmt: skip
    keys: Keys = {"step": "box_grid", **heads, "strides": strides, "move": "none", "activation": "none",
            "object_activation": "none", "object_power": 0.5, "class_power": 0.5, "threshold": 0.6,
            "nms_iou": 0.3}  # fmt: skip
    return Reading(Part(keys, "likely", "outputs called cls_8, obj_8, bbox_8 ...: YuNet's"), 1, True, _FACE, "yunet")


def _scrfd(facts: Facts, size: Size) -> Reading | None:
    """Three kinds of tables per stride: scores [n, 1], boxes [n, 4], and perhaps landmarks [n, 10]."""
    boxes, scores = [], []
    for stride in (8, 16, 32):
        count = 2 * cells(size, (stride,))
        boxes += [port.name for port in facts.outputs if port.bare == (count, 4)]
        scores += [port.name for port in facts.outputs if port.bare == (count,)]
    if not len(boxes) == len(scores) == 3:
        return None
    keys: Keys = {"step": "box_grid", "heads": boxes, "score_heads": scores, "strides": [8, 16, 32], "box": "sides",
            "per_cell": 2, "activation": "none", "threshold": 0.5, "nms_iou": 0.4}  # fmt: skip
    why = "two candidates per cell of strides 8, 16, 32, sides and scores in ports of their own: SCRFD's"
    return Reading(Part(keys, "likely", why), 1, True, _FACE, "scrfd")
