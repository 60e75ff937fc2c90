"""Public detectors on real pictures and videos, through the agent's own steps: the boxes that people see."""

import csv
import hashlib

import numpy as np
import onnx
import pytest

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from pipelines.boxes import iou
from pipelines.image import decode_image, image_view
from pipelines.segment import class_map
from tests import films
from tests.realdata import MANIFESTS, ROOT, case, inference, needed

pytestmark = needed


def seen(infer, file):
    return infer(image_view(decode_image((ROOT / file).read_bytes(), file))).findings


def paired(findings, boxes):
    """The smallest overlap when each expected box is paired with the finding that overlaps it most."""
    return iou(np.array([f.box for f in findings]), np.array(boxes)).max(axis=0).min()


def test_things_are_found_in_pictures():
    """o09a: one cat, one bird, one person, each at its recorded place with its recorded score."""
    recorded, infer = case("o09a-fastestdet")["expected"], inference("fastestdet")
    assert len(recorded) == 3
    for file, expected in recorded.items():
        findings = [f for f in seen(infer, file) if f.score >= expected["threshold"]]
        for label, count in expected["must_count"].items():
            mine = [f for f in findings if f.label == label]
            assert len(mine) == count, file
            assert paired(mine, [box for _, box in expected["boxes_ref"][label]]) >= expected["iou_tol"], file
            assert mine[0].score == pytest.approx(expected["boxes_ref"][label][0][0], abs=0.01), file


def check_faces(infer):
    recorded = case("o11-face-rfb320")["expected"]
    assert [e["faces"] for e in recorded.values()] == [1, 4, 1, 0]
    for file, expected in recorded.items():
        findings = seen(infer, file)
        assert [f.label for f in findings] == ["face"] * expected["faces"], file
        if findings:
            assert paired(findings, [box for _, box in expected["boxes_ref"]]) >= expected["iou_tol"], file
            scores = [score for score, _ in expected["boxes_ref"]]
            assert [f.score for f in findings] == pytest.approx(scores, abs=0.005), file


def test_faces_are_found_in_pictures():
    """o11: one, four, one and no face, at their recorded places."""
    check_faces(inference("face-rfb320"))


RAW_HEADS = """
[decoder]
step = "box_anchors"
boxes = ["460"]
scores = ["459"]
clip = true
activation = "softmax"
background = "first"
threshold = 0.7
nms_iou = 0.3
level = [
    { stride = 8, sizes_px = [[10, 10], [16, 16], [24, 24]] },
    { stride = 16, sizes_px = [[32, 32], [48, 48]] },
    { stride = 32, sizes_px = [[64, 64], [96, 96]] },
    { stride = 64, sizes_px = [[128, 128], [192, 192], [256, 256]] },
]
"""


def test_faces_are_found_by_the_raw_heads_too(tmp_path):
    """The same network cut before its own decoding: generated anchors give the same faces."""
    source = ROOT / "models" / "version-RFB-320.onnx"
    made = onnx.load(source)
    for _ in range(len(made.graph.output)):
        made.graph.output.pop()
    for name, width in (("459", 2), ("460", 4)):
        made.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4420, width]))
    onnx.save(made, tmp_path / "raw.onnx")
    text = (MANIFESTS / "face-rfb320" / "model.toml").read_text()
    text = text.replace('"scores"\nshape', '"459"\nshape').replace('"boxes"\nshape', '"460"\nshape')
    before, _, rest = text.partition("[decoder]")
    artifact = "[[artifact]]" + rest.partition("[[artifact]]")[2]
    sha256 = hashlib.sha256((tmp_path / "raw.onnx").read_bytes()).hexdigest()
    artifact = artifact.replace("models/version-RFB-320.onnx", "raw.onnx")
    artifact = artifact.replace("34cd7e60aeff28744c657de7a3dc64e872d506741de66987f3426f2b79f88017", sha256)
    (tmp_path / "model.toml").write_text(before + RAW_HEADS + artifact)
    manifest = load_manifest(tmp_path)
    check_faces(Inference(manifest, open_model(manifest)))


def test_vehicles_are_found_with_the_post_process_operator():
    """o14: of each of three frames the three best boxes, their class, score and place."""
    recorded, infer = case("o14-traffic-multi-io"), inference("traffic")
    expected = recorded["expected"]
    frames = expected["top3_per_frame [class,score,ymin xmin ymax xmax]"]
    for file, best in zip(recorded["inputs"], frames, strict=True):
        findings = seen(infer, file)[:3]
        assert [int(f.label) for f in findings] == [number for number, _, _ in best]
        assert [f.score for f in findings] == pytest.approx([s for _, s, _ in best], abs=expected["score_tol"])
        shares = np.array([[f.box[1], f.box[0], f.box[3], f.box[2]] for f in findings]) / 256
        assert shares == pytest.approx(np.array([box for _, _, box in best]), abs=expected["box_tol"])


def test_bottles_on_a_table_are_counted(tmp_path):
    """o10a through `limpet replay`: three, two and one bottle at frames 0, 240 and 540, and hardly a frame without."""
    recorded = case("o10a-video-bottles")["expected"]
    found = films.seen(films.replayed(tmp_path, "inputs/bottle-detection.mp4", 12))
    assert list(found) == list(range(0, recorded["frames"], 12))
    for frame, count in recorded["true_bottle_count_at_frame"].items():
        assert found[int(frame)].count("bottle") == count, frame
    share = np.mean(["bottle" in labels for labels in found.values()])
    assert share == pytest.approx(recorded["frac_sampled_frames_with_bottle"], abs=recorded["tol"])


def test_cars_are_no_persons(tmp_path):
    """o10b: in 377 frames of cars from above no person is found, within the recorded tolerance of one."""
    recorded = case("o10b-video-no-person")["expected"]
    found = films.seen(films.replayed(tmp_path, "inputs/car-detection.mp4", 6))
    assert list(found) == list(range(0, recorded["frames"], 6))
    assert sum(labels.count("person") for labels in found.values()) == recorded["person_detections"] == 0


def test_exactly_one_worker_is_seen(tmp_path):
    """o10c, a GIF: one person in as many frames as recorded."""
    recorded = case("o10c-gif-worker")["expected"]
    found = films.seen(films.replayed(tmp_path, "inputs/worker-zone-detection.gif", 2))
    assert list(found) == list(range(0, recorded["frames"], 2))
    share = np.mean([labels.count("person") == 1 for labels in found.values()])
    assert share == pytest.approx(recorded["frac_frames_with_exactly_1_person"], abs=recorded["tol"])


FOLLOWED = """
[[post]]
step = "keep_labels"
labels = ["person"]
[[post]]
step = "tracks"
[[post]]
step = "lines"
[[post.line]]
name = "lane"
start = [0.42, 1.0]
end = [0.42, 0.0]
[[rule]]
kind = "appears"
label = ["person#*", "lane:*"]
"""


def test_the_worker_is_one_track(tmp_path):
    """All 71 pictures: one number from the second on, also where the detector misses him.

    He arrives once and walks from right to left past a line once, and both are told once.
    """
    lines = films.replayed(tmp_path, "inputs/worker-zone-detection.gif", 1, FOLLOWED)
    found = films.seen(lines)
    assert {label for labels in found.values() for label in labels if "/" not in label} == {"person#1"}
    assert [len([label for label in labels if "/" not in label]) for labels in found.values()] == [0] + [1] * 70
    told = [line["body"]["label"] for line in lines if line["type"] == "event"]
    assert told == ["person#1", "lane:out/person#1"]


def test_a_bird_is_cut_out_of_its_picture():
    """o12: the class map overlaps the published mask as recorded, and the finding says what the map shows."""
    recorded, infer = case("o12-deeplab-dm05"), inference("deeplab")
    picture, mask_file = (ROOT / name for name in recorded["inputs"][:2])
    inferred = infer(image_view(decode_image(picture.read_bytes(), picture.name)))
    truth = palette_numbers(mask_file)
    numbers = class_map(inferred.outputs["map"], "numbers", "none")[0]
    bird, true = (numbers == 3) & (truth <= 20), truth == 3
    overlap = (bird & true).sum() / (bird | true).sum()
    assert overlap == pytest.approx(recorded["expected"]["iou_class3"], abs=recorded["expected"]["tol"])
    assert overlap >= recorded["expected"]["min"]
    (found,) = [f for f in inferred.findings if f.label == "bird"]
    assert found.value == pytest.approx((numbers == 3).mean())
    assert paired([found], [box_of(true)]) > 0.85


def palette_numbers(path):
    """The class numbers of a BMP with a palette, [height, width]: the bytes themselves, bottom row first."""
    data = path.read_bytes()
    start, width, height = (int.from_bytes(data[at : at + 4], "little") for at in (10, 18, 22))
    assert int.from_bytes(data[28:30], "little") == 8
    rows = np.frombuffer(data, np.uint8, (width + 3) // 4 * 4 * height, start).reshape(height, -1)
    return rows[::-1, :width].astype(int)


def box_of(mask):
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)


def test_the_pose_of_one_person_is_read():
    """o13: seventeen points, each within the recorded distance of its published place."""
    recorded, infer = case("o13-movenet"), inference("movenet")
    picture, reference = (ROOT / name for name in recorded["inputs"])
    view = image_view(decode_image(picture.read_bytes(), picture.name))
    found = {f.label: f.box for f in infer(view).findings}
    with reference.open() as file:
        rows = list(csv.DictReader(file))
    published = np.array([[float(row["keypoint_x"]), float(row["keypoint_y"])] for row in rows])
    made = np.array([found[label][:2] for label in infer.manifest.labels]) / view.size
    assert len(published) == 17
    assert np.abs(made - published).max() <= recorded["expected"]["max_abs_xy_error"]
    assert found["person"] == pytest.approx((*made.min(0) * view.size, *made.max(0) * view.size))
