"""Outputs of detectors, written from boxes that are known: what a decoder must give back."""

import math

import numpy as np

from pipelines import make_step
from pipelines.image import image_view

LABELS = ("cat", "dog", "owl")
SIDE = 160
"""Width and height of the picture that the models of these tests see."""
TRUTH = (("dog", 0.9, (20.0, 30.0, 60.0, 110.0)), ("owl", 0.8, (100.0, 40.0, 150.0, 70.0)))
VIEW = image_view(np.zeros((SIDE, SIDE, 3), np.uint8))
ANCHORS = [[30, 40], [60, 60]]
FASTEST = {"columns": "object_box_classes", "move": "tanh", "grow": "sigmoid", "size_of": "picture"}
SSD = [{"stride": 8, "sizes_px": [[20, 30], [40, 30]]}, {"stride": 16, "sizes_px": [[60, 60]]}]


def decoder(step, **keys):
    return make_step("decoder", {"step": step, **keys}, "a test")


def told(findings):
    return [(f.label, round(f.score, 3), tuple(round(x, 2) for x in f.box)) for f in findings]


def centred(box):
    x1, y1, x2, y2 = box
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def logit(p):
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def post_process(rows, room=6):
    """The four outputs of TFLite_Detection_PostProcess for rows of (label, score, box)."""
    boxes, classes, scores = np.zeros((1, room, 4), "f4"), np.zeros((1, room), "f4"), np.zeros((1, room), "f4")
    for i, (label, score, (x1, y1, x2, y2)) in enumerate(rows):
        boxes[0, i] = np.array([y1, x1, y2, x2]) / SIDE
        classes[0, i], scores[0, i] = LABELS.index(label), score
    return {"boxes": boxes, "classes": classes, "scores": scores, "count": np.array([len(rows)], "f4")}


def candidates(objects, count=40, logits=False):
    """A table [count, 4 + objects + 3], centre and size in pixels; the truth twice, the second a little worse."""
    table = np.zeros((count, 4 + objects + len(LABELS)), "f4")
    for i, (label, score, box) in enumerate([*TRUTH, *[(n, s - 0.1, np.add(b, 2.0)) for n, s, b in TRUTH]]):
        row = table[3 + 7 * i]
        row[:4], row[4 + objects + LABELS.index(label)] = centred(box), score
        if objects:
            row[4], row[5:] = 0.95, row[5:] / 0.95
    if logits:
        table[:, 4:] = logit(table[:, 4:].clip(1e-4, 1 - 1e-4))
    return table


def grid(stride, anchors, width):
    """An empty head [anchors, rows, columns, width] of very negative logits."""
    n = SIDE // stride
    return np.full((anchors, n, n, width), -9.0, "f4")


def lay(head, stride, numbers, anchor=0):
    """Write the numbers of each true box into the cell that holds its centre."""
    for label, score, box in TRUTH:
        cx, cy, w, h = centred(box)
        row, column = int(cy // stride), int(cx // stride)
        place = (cx / stride - column, cy / stride - row, w, h)
        head[anchor, row, column] = numbers(place, score, LABELS.index(label))
    return head


def one_hot(score, label):
    made = np.full(len(LABELS), -9.0)
    made[label] = logit(score)
    return made


def fastest(place, score, label):
    x, y, w, h = place
    return [9.0, math.atanh(x), math.atanh(y), logit(w / SIDE), logit(h / SIDE), *one_hot(score, label)]
