"""Every entry of the shipped catalogue, added from a mirror made of the real data, gives the recorded answers."""

import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.catalogue import PinnedFile, entries, load_entry, names
from agent.cli import main
from agent.cli.modelscatalogue import latency_class
from agent.errors import ConfigError
from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.views import views
from tests.fault_server import FaultServer
from tests.realdata import ROOT, case, needed
from tests.test_fetch import certificate
from tools import catalogue_inputs, check_catalogue, truth, truth_others, truth_rows, truth_vision
from tools.check_catalogue import CATALOGUE

CASES = {
    "deeplab-v3-voc": "o12-deeplab-dm05", "fastestdet-coco": "o09a-fastestdet", "kws-ds-cnn": "o04-kws-raw",
    "mnist-lstm": "o15-mnist-lstm-int8", "movenet-lightning": "o13-movenet", "silero-vad": "o07-silero-vad",
    "traffic-ssd-lstm": "o14-traffic-multi-io", "ultraface-320": "o11-face-rfb320", "visual-wake-words": "o01-vww-int8",
    "wake-word-marvin": "o06-streaming-wakeword",
}  # fmt: skip
"""Entry -> the case of the real data that it must pass as a whole."""
OTHERS = {"micro-speech", "mobilenet-v1-imagenet", "person-detector"}
"""Those with a test of their own below: their labels or inputs are not the case's."""


class Added(truth_rows.Model):
    """A model as `limpet models add` left it, put to a case."""

    def __init__(self, folder):
        manifest = load_manifest(folder)
        self.infer = Inference(manifest, open_model(manifest))
        self._forgets = not manifest.states and not manifest.post
        self.view_ms, self.model_ms = [], []


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """A folder with every entry, added over https from a server that has what the origins have."""
    folder = tmp_path_factory.mktemp("added")
    context, pem = certificate(tmp_path_factory.mktemp("tls"))
    with FaultServer(context) as server:
        for file, known in json.loads((ROOT / "index.json").read_text())["files"].items():
            if found := re.fullmatch(r"github:(.+)@([0-9a-f]{40}):(.+)", known["source"]):
                server.files["/".join(found.groups())] = (ROOT / file).read_bytes()
        for name in names(CATALOGUE):
            words = ["models", "add", name, "--into", folder, "--mirror", server.url, "--ca", pem]
            assert main([str(word) for word in words]) == 0, name
    return folder


def findings(folder, file):
    """What the added model says of the last view of a file."""
    manifest = load_manifest(folder)
    inference = Inference(manifest, open_model(manifest))
    return [inference(view) for view in views(manifest, ROOT / file)][-1].findings


def configured(tmp_path, added, more=""):
    """A configuration that finds the added models and has a source for each kind of them."""
    (tmp_path / "pipelines").mkdir()
    config = tmp_path / "limpet.toml"
    config.write_text(
        f'schema = 1\n[models]\nfolders = []\nadded = "{added}"\n{more}[updates]\nfolder = "{tmp_path}/depot"\n'
        '[sources.image]\nkind = "v4l2"\n[sources.audio]\nkind = "microphone"\n'
    )
    return config


def test_every_entry_is_put_to_a_case():
    """A new entry needs a recorded answer."""
    assert set(names(CATALOGUE)) == CASES.keys() | OTHERS


@needed
@pytest.mark.parametrize("name", CASES)
def test_an_added_model_answers_as_recorded(added, monkeypatch, name):
    """All rows of the case, by the model's own folder and nothing else."""
    for module in (truth_vision, truth_others):
        monkeypatch.setattr(module, "Model", lambda _manifest: Added(added / name))
    rows = list(truth.CASES[CASES[name]](case(CASES[name])))
    assert [(row.of, row.expected, row.got) for row in rows if not row.good] == []
    assert rows


@needed
def test_the_classifier_names_what_it_sees(added):
    """With the labels that came along with it."""
    recorded = case("o02-mobilenetv1-uint8")["expected"]
    labels = load_manifest(added / "mobilenet-v1-imagenet").labels
    for file, want in recorded.items():
        best = findings(added / "mobilenet-v1-imagenet", file)[0]
        assert labels.index(best.label) in want["top1_in"], file
        assert best.score == pytest.approx(want["score_ref"], abs=want["score_tol"])


@needed
def test_the_person_detector_tells_persons_and_nothing_else(added):
    """The very persons that the detector of 80 kinds tells, with the recorded box."""
    recorded = case("o09a-fastestdet")["expected"]
    for file, want in recorded.items():
        found = findings(added / "person-detector", file)
        assert found == tuple(f for f in findings(added / "fastestdet-coco", file) if f.label == "person")
        boxes = [box for _, box in want["boxes_ref"].get("person", [])]
        assert truth_rows.least_overlap(list(found), boxes) >= want["iou_tol"], file
    assert findings(added / "person-detector", "inputs/cat.bmp") == ()


@needed
def test_one_command_and_a_camera_tell_each_person_with_a_box(capsys, tmp_path, added):
    """The pipeline that `add --pipeline` writes, on a film of one worker: events of somebody, each with a box."""
    config = configured(tmp_path, added)
    assert main(["models", "add", "person-detector", "--config", str(config), "--pipeline", "image"]) == 0
    capsys.readouterr()
    film = ROOT / "inputs" / "worker-zone-detection.gif"
    assert main(["replay", "--pipeline", "person-detector", str(film), "--config", str(config), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [line for line in lines if line["type"] == "event" and line["kind"] == "appears"]
    assert {line["body"]["label"].partition("#")[0] for line in told} == {"person"}
    assert all(len(line["body"]["box"]) == 4 for line in told)
    assert 1 <= len(told) <= 3, "one worker, who may be lost and found again"


@needed
@pytest.mark.parametrize("word", ["yes", "no"])
def test_yes_and_no_are_heard(added, word):
    """From the sound itself, in the view that holds the whole word."""
    manifest = load_manifest(added / "micro-speech")
    inference = Inference(manifest, open_model(manifest))
    heard = [inference(view).findings[0] for view in views(manifest, ROOT / "inputs" / f"{word}_1000ms.wav")]
    assert max(heard, key=lambda finding: finding.score * (finding.label == word)).label == word


@needed
def test_entries_agree_with_where_the_real_data_came_from():
    """Origin, sha256, size and licence, byte for byte."""
    known = {file["source"]: file for file in json.loads((ROOT / "index.json").read_text())["files"].values()}
    for entry in entries(CATALOGUE):
        for file in entry.table.file:
            there = known[file.origin]
            assert (file.sha256, file.size_bytes) == (there["sha256"], there["bytes"])
            assert there["licence"] == entry.table.licence.id


@needed
def test_a_large_model_is_prepared_where_it_is_added(capsys, tmp_path):
    """Its weights are packed once, at the time when somebody waits anyway, if that helps on this machine."""
    place = PinnedFile.parse(load_entry(CATALOGUE / "mobilenet-v1-imagenet").table.file[0].origin).file_name
    stick = tmp_path / "stick"
    stick.mkdir()
    for file in (f"models/{place}", "inputs/imagenet_labels.txt"):
        shutil.copy(ROOT / file, stick)
    config = configured(tmp_path, tmp_path / "added", f'prepared = "{tmp_path}/prepared"\nprepare_from_mb = 0.1\n')
    words = ("add", "mobilenet-v1-imagenet", "--config", config, "--mirror", stick)
    assert main(["models", *map(str, words)]) == 0
    said = r"^(prepared: .* MB are mapped instead of copied|not prepared, it would not help here: .*)$"
    assert re.search(said, capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "prepared").is_dir()


def test_every_pipeline_of_the_catalogue_is_accepted_by_check(capsys, tmp_path, request):
    """Written as `--pipeline` writes it, for a source of the model's own kind."""
    if not (ROOT / "index.json").exists():
        pytest.skip(f"no real data at {ROOT}: set LIMPET_REALDATA")
    config = configured(tmp_path, request.getfixturevalue("added"))
    for entry in entries(CATALOGUE):
        main(["models", "add", entry.name, "--config", str(config), "--pipeline", entry.model.modality])
    capsys.readouterr()
    main(["check", "--config", str(config)])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("WRONG   pipeline")] == []
    for name in names(CATALOGUE):
        assert f"ok      pipeline {name} with {name} 1.0.0" in out


@needed
def test_the_tool_draws_and_answers_the_same_again(capsys, monkeypatch, tmp_path):
    """Goldens are made by a script from nothing, and it makes the same once more; then they prove the model."""
    copied, stick = tmp_path / "catalogue", ROOT / "models"
    shutil.copytree(CATALOGUE / "mnist-lstm", copied / "mnist-lstm")
    shutil.rmtree(copied / "mnist-lstm" / "model" / "golden")
    for more, said in ((["--goldens"], "golden/seven.png: 7 "), ([], "1 of 1 golden inputs as expected")):
        words = ["check_catalogue", *more, "--catalogue", str(copied), "--mirror", str(stick)]
        monkeypatch.setattr(sys, "argv", words)
        assert check_catalogue.main() == 0
        assert said in capsys.readouterr().out
    made, kept = (folder / "mnist-lstm" / "model" / "golden" for folder in (copied, CATALOGUE))
    assert (made / "seven.npz").read_bytes() == (kept / "seven.npz").read_bytes()


def test_an_input_of_ones_own_stays_and_a_missing_one_is_told(tmp_path):
    """Who writes an entry for their own catalogue may bring a photograph; a name that nobody drew is no traceback."""
    own = tmp_path / "street.jpg"
    own.write_bytes(b"mine")
    check_catalogue.draw_input(own)
    assert own.read_bytes() == b"mine"
    with pytest.raises(ConfigError, match=r"stret\.jpg is not there, and nothing of that name is drawn \(face, "):
        check_catalogue.draw_input(tmp_path / "stret.jpg")


def test_golden_inputs_are_what_the_script_draws():
    """No foreign picture or sound is among them."""
    inputs = [path for path in CATALOGUE.glob("*/model/golden/*") if path.suffix != ".npz"]
    assert len(inputs) >= len(names(CATALOGUE))
    for path in inputs:
        drawn, kept = catalogue_inputs.make(path.name), path.read_bytes()
        if path.suffix == ".png":
            one, other = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (drawn, kept))
            assert np.abs(one.astype(int) - other).mean() < 0.5, path
        else:
            one, other = (np.frombuffer(data[44:], "<i2").astype(int) for data in (drawn, kept))
            assert np.abs(one - other).max() <= 1, path


def test_the_catalogue_holds_no_weights_and_every_licence_is_known():
    """Manifests, labels, golden inputs: small files that were made here."""
    for path in CATALOGUE.rglob("*"):
        assert path.suffix not in {".tflite", ".onnx", ".ort"}, path
        assert path.is_dir() or path.stat().st_size < 100_000, path
    assert {load_entry(CATALOGUE / name).table.licence.id for name in names(CATALOGUE)} == {
        "Apache-2.0", "BSD-3-Clause", "MIT",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("latency_ms", "said"), [(0.05, "< 0.3 ms"), (0.3, "< 1 ms"), (31.5, "< 100 ms"), (2000, "> 1 s")]
)
def test_latency_classes_step_by_about_three(latency_ms, said):
    """For people who choose a model for a small machine."""
    assert latency_class(latency_ms) == said


def test_the_page_names_every_entry():
    """docs/catalogue.md lists what the catalogue has, with its licence."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "catalogue.md").read_text()
    for entry in entries(CATALOGUE):
        assert f"| `{entry.name}` |" in page, entry.name
