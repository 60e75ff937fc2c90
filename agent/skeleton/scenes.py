"""Which decoder reads a picture model that tells no boxes: classes, maps of classes, the points of a body.

Owns these three kinds. Rules as in `detectors`: the first that answers wins, `classify` is the last resort.
"""

from collections.abc import Callable

from agent.skeleton.facts import Facts, Shaped
from agent.skeleton.label_sets import BODY, BODY_33, CIFAR_10, DIGITS, VOC
from agent.skeleton.outputs import Size, are_distributions, in_fractions, in_unit_range
from agent.skeleton.parts import Keys, Labels, Part, Reading

_BODIES = {len(BODY): BODY, len(BODY_33): BODY_33}


def read_scene(facts: Facts, size: Size) -> Reading | None:
    """The first kind that fits."""
    rules: tuple[Callable[[Facts, Size], Reading | None], ...] = (
        _points, _landmarks, _heatmaps, _centroids, _segments,
    )  # fmt: skip
    made = next((made for rule in rules if (made := rule(facts, size))), None)
    return made or read_classes(facts, size)


def _points(facts: Facts, size: Size) -> Reading | None:
    port = facts.outputs[0]
    if port.bare[-1:] not in ((3,), (2,)) or len(port.bare) != 2 or not 5 <= port.bare[0] <= 150:
        return None
    columns = ["y", "x", "score"][: port.bare[1]]
    keys: Keys = {"step": "keypoints", "output": port.name, **({} if len(columns) == 3 else {"columns": ["x", "y"]})}
    answer = facts.answers.get(port.name)
    if answer is not None and not in_fractions(answer.reshape(port.bare)[:, :2]):
        keys |= {"unit": "px"}
    why = f"{port.bare[0]} rows of {port.bare[1]}: points as {', '.join(columns)}"
    body = port.bare[0] == len(BODY)
    return Reading(Part(keys, "likely" if body else "guess", why + (", MoveNet's" if body else ""),
                        'columns = ["x", "y", "score"]'), port.bare[0], labels=_body(port.bare[0]))  # fmt: skip


def _body(points: int) -> Labels | None:
    names = _BODIES.get(points)
    return Labels(names, "likely", f"{points} points are those of a body, in this order") if names else None


def _landmarks(facts: Facts, size: Size) -> Reading | None:
    """MediaPipe's rows of points: of a body, 33 and 6 that only its own tracker uses; of a hand 21; of a face."""
    for port in facts.outputs:
        if port.bare == (195,):
            return _blazepose(port)
        if port.bare in ((63,), (1404,), (1434,)) and len(facts.outputs) > 1:
            keys: Keys = {"step": "keypoints", "output": port.name, "columns": ["x", "y", "other"], "unit": "px"}
            points = port.bare[0] // 3
            keys |= {"whole": "hand" if points == 21 else "face"}
            why = f"{port.bare[0]} = {points} x 3 numbers: the points of a hand or a face, as MediaPipe tells them"
            return Reading(Part(keys, "likely", why), points, family="mediapipe")
    return None


def _blazepose(port: Shaped) -> Reading:
    keys: Keys = {"step": "keypoints", "output": port.name, "columns": ["x", "y", "other", "score", "other"],
                  "unit": "px", "activation": "sigmoid"}  # fmt: skip
    names = (*BODY_33, *(f"aside {i}" for i in range(1, 7)))
    labels = Labels(names, "likely", "BlazePose's 33 points, and six that only its own tracker uses")
    return Reading(Part(keys, "likely", "195 = 39 x 5 numbers: BlazePose's landmarks"), 39, labels=labels,
                   family="mediapipe")  # fmt: skip


def _heatmaps(facts: Facts, size: Size) -> Reading | None:
    for port in facts.outputs:
        if len(port.shape) != 4 or len(port.bare) != 3:
            continue
        last, first = port.shape[3], port.shape[1]
        if last in (17, 21) or (first == 17 and last != first):
            keys: Keys = {"step": "heatmaps", "heatmaps": port.name}
            keys |= {} if last in (17, 21) else {"channels": "first"}
            points = last if last in (17, 21) else first
            keys |= _offsets(facts, port, size, points)
            answer = facts.answers.get(port.name)
            keys |= {} if in_unit_range(answer) else {"activation": "sigmoid"}
            if points == len(VOC) and "offsets" not in keys:
                return None
            return Reading(Part(keys, "likely", f"{points} maps of {port.bare[0]} x {port.bare[1]}: one per point"),
                           points, labels=_body(points))  # fmt: skip
    return None


def _offsets(facts: Facts, maps: Shaped, size: Size, points: int) -> Keys:
    """The port that says where in its cell a point lies, as PoseNet has it."""
    for port in facts.outputs:
        if port.shape[1:3] == maps.shape[1:3] and port.shape[-1] == 2 * points:
            return {"offsets": port.name, "stride": float(round((size[0] - 1) / (maps.shape[1] - 1)))}
    return {}


def _centroids(facts: Facts, size: Size) -> Reading | None:
    """FOMO: a coarse grid of classes, of which the first is background, told as connected regions."""
    port = facts.outputs[0]
    if len(facts.outputs) != 1 or len(port.shape) != 4 or port.shape[3] < 2:
        return None
    answer = facts.answers.get(port.name)
    if size[0] != 8 * port.shape[1] or answer is None or not are_distributions(answer.reshape(-1, port.shape[3])):
        return None
    classes = port.shape[3]
    keys: Keys = {"step": "segments", "output": port.name, "form": "scores", "regions": 20, "min_share": 0.0}
    names = ("background", *(f"object {i}" for i in range(1, classes)))
    why = f"{classes} scores that add up to one in cells of 8 x 8 pixels: FOMO's, Edge Impulse's detector"
    labels = Labels(names, "guess", "the first class of such models is the background")
    return Reading(Part(keys, "likely", why), classes, labels=labels)


def _segments(facts: Facts, size: Size) -> Reading | None:
    """A map of class numbers, or of scores per class."""
    port = facts.outputs[0]
    if len(facts.outputs) > 3 or len(port.bare) not in (2, 3) or len(port.shape) < 3:
        return None
    numbers = port.dtype in ("int32", "int64", "uint8", "int8") and not port.scale
    if len(port.bare) == 2:
        if not _covers(port.bare, size):
            return None
        form = "numbers" if numbers else ("scores" if port.shape[-1] == 1 else "scores_first")
        classes = 0 if numbers else 2
    elif _covers(port.bare[:2], size):
        form, classes = "scores", port.bare[2]
    elif _covers(port.bare[1:], size):
        form, classes = "scores_first", port.bare[0]
    else:
        return None
    keys: Keys = {"step": "segments", "output": port.name, **({} if form == "numbers" else {"form": form})}
    if form != "numbers":
        keys |= _map_activation(facts, port)
    shown = " x ".join(map(str, port.bare))
    why = f"a map of {shown} over the picture: " + ("class numbers" if numbers else f"{classes} scores per point")
    voc = classes in (0, len(VOC))
    labels = Labels(VOC, "likely" if classes else "guess", "21 classes are Pascal VOC's nearly always") if voc else None
    return Reading(Part(keys, "likely", why), classes if classes != 2 or len(port.bare) == 3 else 0, labels=labels,
                   family="tf" if facts.format == "tflite" else "")  # fmt: skip


def _covers(shape: tuple[int, ...], size: Size) -> bool:
    """Whether a map of this shape has the picture's proportions, and is not much coarser."""
    high, wide = shape[:2]
    return min(high, wide) >= 16 and abs(high * size[1] - wide * size[0]) <= max(size) * 2 and size[0] / high <= 17


def _map_activation(facts: Facts, port: Shaped) -> dict[str, str]:
    answer = facts.answers.get(port.name)
    if in_unit_range(answer):
        return {}
    return {"activation": "sigmoid" if len(port.bare) == 2 else "softmax"}


def read_classes(facts: Facts, size: Size | None) -> Reading | None:
    """One row of scores: one of many, several at once, yes or no."""
    rows = [port for port in facts.outputs if len(port.bare) <= 1 and port.dtype not in ("int32", "int64", "bool")]
    if not rows:
        return None
    port = max(rows, key=lambda port: port.bare or (1,))
    count = port.bare[0] if port.bare else 1
    first = port is facts.outputs[0]
    keys: Keys = {"step": "classify", **({} if first else {"output": port.name})}
    activation, how = row_activation(facts, port)
    keys |= {"activation": activation} if activation else {}
    grey = not any(3 in port.shape[1:] for port in facts.inputs)
    if count == 10 and grey and size is not None and max(size) <= 32:
        keys |= {"step": "digits", "none": ""}
        labels = Labels(DIGITS, "guess", "ten classes of a small picture are digits nearly always")
        part = Part(keys, "likely", f"10 scores {how}", 'step = "classify" when they are no digits')
        return Reading(part, 10, True, labels)
    why = f"{count} score{'s' * (count > 1)} {how}" + (": one of as many classes" if count > 1 else ": yes or no")
    names: Labels | None = None
    if count == 2 and size == (96, 96):
        names = Labels(("no person", "person"), "guess", "two classes over 96 x 96 pixels: Visual Wake Words' models")
    if count == 10 and size == (32, 32):
        names = Labels(CIFAR_10, "guess", "ten classes over 32 x 32 pixels in colour: CIFAR-10's")
    if count == 1:
        names = Labels(("no", "yes"), "guess", "a single score: that of the second label")
    family = {1000: "imagenet", 1001: "tf"}.get(count, "tf" if facts.format == "tflite" else "")
    family = "imagenet" if family == "tf" and "pytorch" in facts.graph.producer else family
    return Reading(Part(keys, "likely", why), count if count > 1 else 2, labels=names, family=family)


def row_activation(facts: Facts, port: Shaped) -> tuple[str, str]:
    """What the decoder must do to a row of scores, and in words what was seen."""
    answer = facts.answers.get(port.name)
    if answer is None:
        return "", "of unknown range"
    row = answer.reshape(1, -1)
    if row.size > 1 and are_distributions(row):
        return "", "that add up to one"
    if in_unit_range(row):
        return "", "between 0 and 1"
    return ("softmax" if row.size > 1 else "sigmoid"), f"from {row.min():.2g} to {row.max():.2g}: not activated"
