"""Which decoder reads heads that tell every candidate: one row each, or one set of numbers per cell of a grid.

Owns the families of YOLO, NanoDet, FastestDet, and faces with heads per stride. The number of candidates tells the
grid, because the number of cells follows from the picture's size and the strides; the answer to noise tells whether
boxes are decoded and scores are activated.
"""

import math

import numpy as np

from agent.records import Array
from agent.skeleton.facts import Facts, Shaped
from agent.skeleton.label_sets import COCO
from agent.skeleton.outputs import FACE, Size, are_distributions, cell_count, coco_labels, in_fractions, in_unit_range
from agent.skeleton.parts import Keys, Part, Reading

# ---- one row or column per candidate


def read_candidates(facts: Facts, size: Size) -> Reading | None:
    """YOLOv5 to v11, YOLOX, NanoDet, RT-DETR: the number of candidates tells which."""
    port = facts.outputs[0]
    if len(port.bare) != 2 or min(port.bare) < 5:
        return None
    one, every = cell_count(size, (8, 16, 32)), cell_count(size, (8, 16, 32, 64))
    for rows, wide, turned in ((port.bare[0], port.bare[1], False), (port.bare[1], port.bare[0], True)):
        if rows == 3 * one and wide > 5:
            why = f"{rows} candidates, three per cell: YOLOv5's and v7's"
            return _with_objects(facts, port, wide, turned, False, why)
        if rows == one and wide > 4:
            return _one_per_cell(facts, port, wide, turned)
        if rows == every and wide > 32:
            return _nanodet(facts, port, wide)
        if rows in (100, 300, 900) and wide > 4 and not turned:
            keys: Keys = {"step": "box_table", "boxes": port.name, "unit": "fraction", "threshold": 0.5, "nms_iou": 1.0}
            told = f"{rows} candidates of {wide} numbers: RT-DETR's"
            return Reading(Part(keys, "guess", told), wide - 4, labels=coco_labels(wide - 4), family="ultralytics")
    return None


def _one_per_cell(facts: Facts, port: Shaped, wide: int, turned: bool) -> Reading:
    rows = max(port.bare)
    if not turned and "stride" not in facts.graph.notes and wide - 4 != len(COCO):
        return _in_rows(facts, port, wide)
    masks = any(other.bare and other.bare[0] == 32 and len(other.bare) == 3 for other in facts.outputs)
    task = facts.graph.notes.get("task", "segment" if masks else "detect")
    unit = _unit(facts, port, turned)
    keys: Keys = {"step": "box_table", "boxes": port.name, **unit}
    why = f"{rows} candidates, one per cell of strides 8, 16, 32, in columns of {wide}: YOLOv8's and v11's"
    if task in ("pose", "segment", "obb"):
        told = f"an Ultralytics model for '{task}': no decoder reads '{port.name}': export it for detection"
        return Reading(remarks=(told,))
    return Reading(Part(keys, "likely", why), wide - 4, labels=coco_labels(wide - 4), family="ultralytics")


def _in_rows(facts: Facts, port: Shaped, wide: int) -> Reading:
    """YOLOX, or YOLOv6, which is sure of an object everywhere."""
    answer = facts.answers.get(port.name)
    objects = None if answer is None else answer.reshape(-1, wide)[:, 4]
    yolox = objects is None or not np.allclose(objects, 1.0, atol=0.01)
    whose = "YOLOX's" if yolox else "YOLOv6's"
    why = f"{max(port.bare)} candidates, one per cell of strides 8, 16, 32, in rows of {wide}: {whose}"
    return _with_objects(facts, port, wide, False, yolox, why)


def _with_objects(facts: Facts, port: Shaped, wide: int, turned: bool, yolox: bool, why: str) -> Reading:
    """Rows of box, object, classes: decoded, or YOLOX's raw ones."""
    family, labels = "yolox" if yolox else "ultralytics", coco_labels(wide - 5)
    answer = facts.answers.get(port.name)
    rows = None if answer is None else _turned(answer, port, turned)
    decoded = rows is None or bool((rows[:, 2:4] > -0.01 * np.abs(rows[:, :4]).max()).all())
    activated = rows is None or in_unit_range(rows[:, 4:])
    activation = {} if activated else {"activation": "sigmoid", "object_activation": "sigmoid"}
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
    numbers = None if answer is None else _turned(answer, port, turned)[:, :4]
    return {"unit": "fraction"} if in_fractions(numbers) else {}


def _nanodet(facts: Facts, port: Shaped, wide: int) -> Reading:
    answer = facts.answers.get(port.name)
    scores = None if answer is None else answer.reshape(-1, wide)[:, :-32]
    keys: Keys = {"step": "box_grid", "heads": [port.name], "strides": [8, 16, 32, 64], "columns": "classes_box",
            "box": "sides", "bins": 8, "activation": "none" if in_unit_range(scores) else "sigmoid"}  # fmt: skip
    why = "a candidate per cell of strides 8 to 64, and 4 x 8 numbers behind the classes: NanoDet-Plus's"
    return Reading(Part(keys, "likely", why), wide - 32, True, coco_labels(wide - 32), "nanodet")


# ---- grids of raw numbers


def read_fastestdet(facts: Facts, size: Size) -> Reading | None:
    """One grid whose objects and classes the graph has activated, and its boxes not."""
    port = facts.outputs[0]
    answer = facts.answers.get(port.name)
    if len(facts.outputs) != 1 or answer is None or len(port.shape) != 4 or port.shape[1] < 6:
        return None
    wide, rows = port.shape[1], answer.reshape(port.shape[1], -1).T
    if size[0] // port.shape[2] not in (8, 16, 32) or rows[:, 0].min() < 0 or not are_distributions(rows[:, 5:]):
        return None
    keys: Keys = {"step": "box_grid", "columns": "object_box_classes", "move": "tanh", "grow": "sigmoid",
            "size_of": "picture", "activation": "none", "object_activation": "none", "object_power": 0.6,
            "class_power": 0.4, "threshold": 0.6}  # fmt: skip
    grid = f"one grid of {port.shape[3]} x {port.shape[2]}"
    why = f"{grid}: an activated object, 4 raw numbers, classes that add up to one: FastestDet's"
    return Reading(Part(keys, "likely", why), wide - 5, True, coco_labels(wide - 5), "fastestdet")


_ANCHORS_V5 = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
_ANCHORS_TINY = [[[10, 14], [23, 27], [37, 58]], [[81, 82], [135, 169], [344, 319]]]
"""Width and height in pixels, per grid: YOLOv3's, which v5 kept, and YOLOv3-tiny's; as trained on COCO."""


def read_grids(facts: Facts, size: Size) -> Reading | None:
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
                       wide - 64, True, coco_labels(wide - 64), "ultralytics")  # fmt: skip
    if wide % 3 or wide // 3 <= 5:
        return None
    keys |= {"anchors": _ANCHORS_V5 if len(heads) == 3 else _ANCHORS_TINY, "size_of": "anchor"}
    if five or "pytorch" in facts.graph.producer:
        keys |= {"move": "sigmoid_2", "grow": "sigmoid_2_squared"}
    why = f"grids of 3 x (5 + {wide // 3 - 5}) numbers per cell; anchors are those of COCO's models"
    return Reading(Part(keys, "guess", why, "the anchors of your training"), wide // 3 - 5, True,
                   coco_labels(wide // 3 - 5), "ultralytics" if five else "")  # fmt: skip


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


def read_yunet(facts: Facts, size: Size) -> Reading | None:
    names = {port.name for port in facts.outputs}
    strides = [stride for stride in (8, 16, 32) if {f"cls_{stride}", f"obj_{stride}", f"bbox_{stride}"} <= names]
    if not strides:
        return None
    heads = {key: [f"{name}_{stride}" for stride in strides] for key, name in
             (("heads", "bbox"), ("score_heads", "cls"), ("object_heads", "obj"))}  # fmt: skip
    keys: Keys = {"step": "box_grid", **heads, "strides": strides, "move": "none", "activation": "none",
            "object_activation": "none", "object_power": 0.5, "class_power": 0.5, "threshold": 0.6,
            "nms_iou": 0.3}  # fmt: skip
    return Reading(Part(keys, "likely", "outputs called cls_8, obj_8, bbox_8 ...: YuNet's"), 1, True, FACE, "yunet")


def read_scrfd(facts: Facts, size: Size) -> Reading | None:
    """Three kinds of tables per stride: scores [n, 1], boxes [n, 4], and perhaps landmarks [n, 10]."""
    boxes, scores = [], []
    for stride in (8, 16, 32):
        count = 2 * cell_count(size, (stride,))
        boxes += [port.name for port in facts.outputs if port.bare == (count, 4)]
        scores += [port.name for port in facts.outputs if port.bare == (count,)]
    if not len(boxes) == len(scores) == 3:
        return None
    keys: Keys = {"step": "box_grid", "heads": boxes, "score_heads": scores, "strides": [8, 16, 32], "box": "sides",
            "per_cell": 2, "activation": "none", "threshold": 0.5, "nms_iou": 0.4}  # fmt: skip
    why = "two candidates per cell of strides 8, 16, 32, sides and scores in ports of their own: SCRFD's"
    return Reading(Part(keys, "likely", why), 1, True, FACE, "scrfd")
