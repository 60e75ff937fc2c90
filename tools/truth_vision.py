"""The pictures and videos of the real data: how each case is put to the agent, and when its answer is right.

Tolerances are those of the data's index. No step, key or line of the agent knows which case it answers.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent.views import views
from pipelines.segment import class_map
from tests import films
from tests.realdata import ROOT
from tests.test_real_detection import palette_numbers
from tools.truth_rows import Case, Model, Row, least_overlap


def person(case: Case) -> Iterator[Row]:
    """o01."""
    model = Model("vww")
    for file, want in case["expected"].items():
        (seen,) = model.look(file)
        p = {f.label: f.score for f in seen.findings}["person"]
        good = (p > 0.5) == want["person"] and abs(p - want["p_ref"]) <= want["p_tol"]
        yield model.row(file, f"person {want['p_ref']:.3f} +-{want['p_tol']}", f"person {p:.3f}", good)


def classes(manifest: str) -> Callable[[Case], Iterator[Row]]:
    """o02, o02b."""

    def rows(case: Case) -> Iterator[Row]:
        model = Model(manifest)
        for file, want in case["expected"].items():
            best = model.look(file)[0].findings[0]
            good = int(best.label) in want["top1_in"] and abs(best.score - want["score_ref"]) <= want["score_tol"]
            among = "/".join(map(str, want["top1_in"]))
            expected = f"class {among} {want['score_ref']:.3f} +-{want['score_tol']}"
            yield model.row(file, expected, f"class {best.label} {best.score:.3f}", good)

    return rows


def things(case: Case) -> Iterator[Row]:
    """o09a."""
    model = Model("fastestdet")
    for file, want in case["expected"].items():
        found = [f for f in model.look(file)[0].findings if f.score >= want["threshold"]]
        for label, number in want["must_count"].items():
            mine = [f for f in found if f.label == label]
            overlap = least_overlap(mine, [box for _, box in want["boxes_ref"][label]])
            good = len(mine) == number and overlap >= want["iou_tol"]
            got = f"{len(mine)} {label}, IoU {overlap:.2f}"
            yield model.row(file, f"{number} {label}, IoU >= {want['iou_tol']}", got, good)


def film(label: str, every: int) -> Callable[[Case], Iterator[Row]]:
    """o10a, o10b, o10c through `limpet replay`."""

    def rows(case: Case) -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as folder:
            lines = films.replayed(Path(folder), case["inputs"][0], every)
        results = [line["timings_ms"] for line in lines if line["type"] == "result"]
        view_ms, model_ms = [sum(t.values()) for t in results], [t["run"] for t in results]
        counts = {number: labels.count(label) for number, labels in films.seen(lines).items()}
        for of, expected, got, good in film_answers(case["expected"], counts):
            yield Row(f"{Path(case['inputs'][0]).name}{of}", expected, got, good, view_ms, model_ms)

    return rows


def film_answers(want: dict[str, Any], counts: dict[int, int]) -> Iterator[tuple[str, str, str, bool]]:
    """Of, expected, got, good, for what the case says about the numbers of things in each picture."""
    for number, true in want.get("true_bottle_count_at_frame", {}).items():
        yield f" #{number}", f"{true} bottles", str(counts[int(number)]), counts[int(number)] == true
    shares = {
        "frac_sampled_frames_with_bottle": lambda n: n > 0,
        "frac_frames_with_exactly_1_person": lambda n: n == 1,
    }
    for key, right in shares.items():
        if key in want:
            share = float(np.mean([right(n) for n in counts.values()]))
            good = abs(share - want[key]) <= want["tol"]
            yield "", f"{key.removeprefix('frac_')} {want[key]} +-{want['tol']}", f"{share:.3f}", good
    if "person_detections" in want:
        found = sum(counts.values())
        yield "", f"{want['person_detections']} persons", str(found), found == want["person_detections"]


def faces(case: Case) -> Iterator[Row]:
    """o11."""
    model = Model("face-rfb320")
    for file, want in case["expected"].items():
        found = list(model.look(file)[0].findings)
        overlap = least_overlap(found, [box for _, box in want["boxes_ref"]])
        good = len(found) == want["faces"] and overlap >= want["iou_tol"]
        expected = f"{want['faces']} faces, IoU >= {want['iou_tol']}"
        yield model.row(file, expected, f"{len(found)}, IoU {overlap:.2f}", good)


def bird(case: Case) -> Iterator[Row]:
    """o12."""
    model, want = Model("deeplab"), case["expected"]
    (seen,) = model.look(case["inputs"][0])
    truth, numbers = palette_numbers(ROOT / case["inputs"][1]), class_map(seen.outputs["map"], "numbers", "none")[0]
    mine, true = (numbers == 3) & (truth <= 20), truth == 3
    overlap = float((mine & true).sum() / (mine | true).sum())
    good = abs(overlap - want["iou_class3"]) <= want["tol"] and overlap >= want["min"]
    told = next(f"{f.label} {f.value:.3f} of the picture" for f in seen.findings if f.label == "bird")
    expected = f"bird, IoU {want['iou_class3']} +-{want['tol']}"
    yield model.row(case["inputs"][0], expected, f"IoU {overlap:.3f}, {told}", good)


def pose(case: Case) -> Iterator[Row]:
    """o13."""
    model, (picture, reference) = Model("movenet"), case["inputs"]
    (seen,) = model.look(picture)
    (view,) = views(model.infer.manifest, ROOT / picture)
    places = {f.label: f.box for f in seen.findings}
    published = np.loadtxt(ROOT / reference, delimiter=",", skiprows=1)[:, 4:6]
    made = np.array([places.get(label, (np.inf,) * 4)[:2] for label in model.infer.manifest.labels]) / view.size
    away, most = float(np.abs(made - published).max()), case["expected"]["max_abs_xy_error"]
    yield model.row(picture, f"17 points, at most {most} off", f"{len(made)} points, {away:.4f} off", away <= most)


def traffic(case: Case) -> Iterator[Row]:
    """o14: three pictures of one stream."""
    model, want = Model("traffic"), case["expected"]
    frames = want["top3_per_frame [class,score,ymin xmin ymax xmax]"]
    for file, best in zip(case["inputs"], frames, strict=True):
        found = model.go_on(file)[0].findings[:3]
        shares = np.array([f.box for f in found])[:, [1, 0, 3, 2]] / 256
        box = float(np.abs(shares - [b for _, _, b in best]).max())
        score = float(np.abs(np.array([f.score for f in found]) - [s for _, s, _ in best]).max())
        same = [int(f.label) for f in found] == [number for number, _, _ in best]
        good = same and box <= want["box_tol"] and score <= want["score_tol"]
        expected = f"3 boxes +-{want['box_tol']}, scores +-{want['score_tol']}"
        yield model.row(file, expected, f"classes {'same' if same else 'differ'}, {box:.3f}, {score:.3f}", good)


def digits(case: Case) -> Iterator[Row]:
    """o15."""
    model = Model("mnist-lstm")
    for file, digit in case["expected"].items():
        read = model.look(file)[0].findings[0].value
        yield model.row(file, str(digit), str(read), read == str(digit))
