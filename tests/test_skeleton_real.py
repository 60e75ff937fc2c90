"""The guess held against the manifests that people wrote for the public models, and against what they must answer."""

import shutil

import numpy as np
import pytest

from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.skeleton import guessed, skeleton
from agent.views import views
from pipelines.segment import class_map
from tests.realdata import MANIFESTS, REPO, ROOT, case, needed
from tests.test_real_detection import palette_numbers
from tools.truth_rows import least_overlap

pytestmark = needed

WRITTEN = {
    "deeplab": "deeplabv3_mnv2_dm05_pascal_quant.tflite", "face-rfb320": "version-RFB-320.onnx",
    "fastestdet": "FastestDet.onnx", "kws-ref": "kws_ref_model.tflite",
    "micro-speech-sound": "micro_speech_quantized.tflite", "mnist-lstm": "trained_lstm_int8.tflite",
    "mobilenet-onnx": "mobilenet_v1_0.5_160_qdq.onnx", "mobilenet-tflite": "mobilenet_v1_0.5_160_quant.tflite",
    "movenet": "movenet_single_pose_lightning_ptq.tflite", "silero-vad": "silero_vad.onnx",
    "traffic": "traffic_model.tflite", "vww": "vww_96_int8.tflite", "wakeword": "str_ww_ref_model.tflite",
}  # fmt: skip
"""Manifest in tests/manifests -> model file."""

OTHERWISE = {
    "mnist-lstm": {"pre"},  # a resize first, which a picture of the right size passes through
    "kws-ref": {"window"},  # a view every half second instead of every second
    "silero-vad": set[str](),
}
"""What is guessed in another way that gives the same answers."""


def opened(folder, name):
    manifest = guessed(ROOT / "models" / WRITTEN[name], folder)
    return Inference(manifest, open_model(manifest, artifact_root=ROOT / "models"))


def ports(manifest, graph_names):
    """What a port is, whatever it is called; outputs that the written manifest leaves out do not count."""
    return {p.graph_name: (p.shape, p.dtype, round(p.scale, 9), p.zero_point)
            for p in (*manifest.inputs, *manifest.outputs) if p.graph_name in graph_names}  # fmt: skip


def plain(steps):
    """Steps with their defaults left out, as far as the guess and the manifests differ in them."""
    usual = {"label_offset": 0, "mean": [0.0], "std": [1.0]}
    made = []
    for step in steps:
        if step == {"step": "colour", "to": "bgr"}:  # as cameras deliver it: the guess says so in words
            continue
        keys = {k: [float(x) for x in v] if isinstance(v, list | tuple) and k in ("mean", "std") else v
                for k, v in step.items() if usual.get(k, ...) != v}  # fmt: skip
        made.append(keys)
    return made


@pytest.mark.parametrize("name", WRITTEN)
def test_ports_states_modality_and_steps_are_those_of_the_written_manifest(tmp_path, name):
    """Ports always; modality, states and steps but for what OTHERWISE names."""
    written, made = load_manifest(MANIFESTS / name), guessed(ROOT / "models" / WRITTEN[name], tmp_path)
    names = set(ports(written, {p.graph_name for p in (*written.inputs, *written.outputs)}))
    assert ports(made, names) == ports(written, names)
    assert made.modality == written.modality
    pairs = [{(i.graph_name, o.graph_name) for s in m.states for i in m.inputs for o in m.outputs
              if (i.name, o.name) == (s.input, s.output)} for m in (made, written)]  # fmt: skip
    assert pairs[0] == pairs[1]
    assert made.decoder["step"] == written.decoder["step"]
    other = OTHERWISE.get(name, set())
    if "pre" not in other:
        assert plain(made.pre) == plain(written.pre)
    if "window" not in other:
        assert made.window == written.window


@pytest.mark.parametrize("path", sorted((REPO / "models").glob("*/*.[ot][nf]*")), ids=lambda path: path.name)
def test_the_factory_models_are_guessed_so_that_they_load(tmp_path, path):
    """Ports, modality and decoder of the models that come with the agent."""
    written, made = load_manifest(path.parent), guessed(path, tmp_path)
    open_model(made, artifact_root=path.parent).close()
    artifact = next(a for a in written.artifacts if a.file == path.name)
    inputs, outputs = written.inputs_of(artifact), written.outputs_of(artifact)
    names = {p.graph_name for p in (*inputs, *outputs)}
    there = {p.graph_name: (p.shape, p.dtype) for p in (*inputs, *outputs)}
    assert {n: (s, d) for n, (s, d, _, _) in ports(made, names).items()} == there
    assert made.modality == written.modality


def test_persons_are_told_without_an_edit(tmp_path):
    """o01."""
    infer = opened(tmp_path, "vww")
    for file, want in case("o01-vww-int8")["expected"].items():
        (view,) = views(infer.manifest, ROOT / file)
        p = {f.label: f.score for f in infer(view).findings}["person"]
        assert abs(p - want["p_ref"]) <= want["p_tol"], file


@pytest.mark.parametrize(("name", "of"), [("mobilenet-tflite", "o02-mobilenetv1-uint8"),
                                          ("mobilenet-onnx", "o02b-mobilenetv1-qdq-onnx")])  # fmt: skip
def test_things_are_named_by_the_labels_in_the_file_or_beside_it(tmp_path, name, of):
    """o02, o02b: TFLite's labels are attached, ONNX's lie beside a copy of the file."""
    source = ROOT / "models" / WRITTEN[name]
    shutil.copy(source, tmp_path)
    shutil.copy(ROOT / "inputs" / "imagenet_labels.txt", tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "model.toml").write_text(skeleton(tmp_path / source.name))
    manifest = load_manifest(tmp_path)
    assert len(manifest.labels) == 1001
    infer = Inference(manifest, open_model(manifest))
    for file, want in case(of)["expected"].items():
        (view,) = views(manifest, ROOT / file)
        best = infer(view).findings[0]
        assert manifest.labels.index(best.label) in want["top1_in"], file
        assert abs(best.score - want["score_ref"]) <= want["score_tol"], file


def test_things_are_found_without_an_edit(tmp_path):
    """o09a: FastestDet, its labels COCO's."""
    infer = opened(tmp_path, "fastestdet")
    for file, want in case("o09a-fastestdet")["expected"].items():
        (view,) = views(infer.manifest, ROOT / file)
        found = [f for f in infer(view).findings if f.score >= want["threshold"]]
        for label, number in want["must_count"].items():
            mine = [f for f in found if f.label == label]
            assert len(mine) == number, file
            assert least_overlap(mine, [box for _, box in want["boxes_ref"][label]]) >= want["iou_tol"]


def test_faces_are_found_without_an_edit(tmp_path):
    """o11."""
    infer = opened(tmp_path, "face-rfb320")
    for file, want in case("o11-face-rfb320")["expected"].items():
        (view,) = views(infer.manifest, ROOT / file)
        found = list(infer(view).findings)
        assert len(found) == want["faces"], file
        assert least_overlap(found, [box for _, box in want["boxes_ref"]]) >= want["iou_tol"]
        assert {f.label for f in found} <= {"face"}


def test_a_bird_is_segmented_without_an_edit(tmp_path):
    """o12."""
    infer, entry = opened(tmp_path, "deeplab"), case("o12-deeplab-dm05")
    (view,) = views(infer.manifest, ROOT / entry["inputs"][0])
    seen = infer(view)
    truth = palette_numbers(ROOT / entry["inputs"][1])
    numbers = class_map(next(iter(seen.outputs.values())), "numbers", "none")[0]
    mine, true = (numbers == 3) & (truth <= 20), truth == 3
    assert (mine & true).sum() / (mine | true).sum() >= entry["expected"]["min"]
    assert seen.findings[0].label == "bird"


def test_a_body_is_found_without_an_edit(tmp_path):
    """o13."""
    infer, entry = opened(tmp_path, "movenet"), case("o13-movenet")
    picture, reference = entry["inputs"]
    (view,) = views(infer.manifest, ROOT / picture)
    places = {f.label: f.box for f in infer(view).findings}
    published = np.loadtxt(ROOT / reference, delimiter=",", skiprows=1)[:, 4:6]
    made = np.array([places[label][:2] for label in infer.manifest.labels]) / view.size
    assert np.abs(made - published).max() <= entry["expected"]["max_abs_xy_error"]


def test_vehicles_are_followed_with_the_state_carried(tmp_path):
    """o14: three pictures of one stream; classes have numbers, since nothing names them."""
    infer, entry = opened(tmp_path, "traffic"), case("o14-traffic-multi-io")
    assert len(infer.manifest.states) == 2
    want = entry["expected"]
    for file, best in zip(entry["inputs"], want["top3_per_frame [class,score,ymin xmin ymax xmax]"], strict=True):
        (view,) = views(infer.manifest, ROOT / file)
        found = infer(view).findings[:3]
        assert [int(f.label) for f in found] == [number for number, _, _ in best]
        assert [f.score for f in found] == pytest.approx([score for _, score, _ in best], abs=want["score_tol"])


def test_digits_are_read_without_an_edit(tmp_path):
    """o15."""
    infer = opened(tmp_path, "mnist-lstm")
    for file, digit in case("o15-mnist-lstm-int8")["expected"].items():
        (view,) = views(infer.manifest, ROOT / file)
        assert infer(view).findings[0].value == str(digit)


def test_speech_is_heard_without_an_edit(tmp_path):
    """o07: as many utterances as the reference, in the same places."""
    infer = opened(tmp_path, "silero-vad")
    for file, want in case("o07-silero-vad")["expected"].items():
        infer.reset()
        told = [f.interval for view in views(infer.manifest, ROOT / file) for f in infer(view).findings]
        told += [f.interval for f in infer.finish()]
        reference = want["segments_ref_s"]
        assert len(told) == len(reference), file
        assert np.abs(np.subtract(told, reference)).max(initial=0) <= want["edge_tol_s"], file


def test_words_are_heard_without_an_edit(tmp_path):
    """o04: every word that must be heard, in its second, where the file fills it."""
    infer, entry, count = opened(tmp_path, "kws-ref"), case("o04-kws-raw"), 0
    for file in entry["inputs"]:
        infer.reset()
        heard = {view.t0_s: infer(view).findings for view in views(infer.manifest, ROOT / file)}
        for second in range(60):
            want = entry["expected"].get(f"{file}@{second}s")
            if want is not None and want["required"] and second in heard:
                assert heard[second][0].label == want["word_spoken"].lower(), (file, second)
                count += 1
    assert count >= 4


def test_a_wake_word_is_heard_without_an_edit(tmp_path):
    """o06."""
    infer, entry = opened(tmp_path, "wakeword"), case("o06-streaming-wakeword")
    (file,) = entry["inputs"]
    times = [f.interval[1] for view in views(infer.manifest, ROOT / file) for f in infer(view).findings]
    spoken = entry["expected"]["true_windows_s"]
    assert sum(any(a <= t <= b + 0.5 for t in times) for a, b in spoken) >= entry["expected"]["tp"]
    assert not [t for t in times if not any(a <= t <= b + 1.0 for a, b in spoken)]
