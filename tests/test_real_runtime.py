"""Public models and conformance vectors through the agent's own runners."""

import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from agent.errors import ModelError
from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.records import View
from agent.runtime import declared_ports
from agent.skeleton import skeleton
from pipelines.image import decode_image, image_view
from tests.realdata import MANIFESTS, REPO, ROOT, case, inference, needed

pytestmark = needed


def described(folder, path):
    """The manifest that the agent writes from the file itself."""
    folder.mkdir(exist_ok=True)
    (folder / "model.toml").write_text(skeleton(path))
    return load_manifest(folder)


def test_sixty_four_int16_models_are_exact(tmp_path):
    """o16: every golden output of the int16 operators, number for number."""
    folder, wrong, done = ROOT / "conformance" / "seanet_int16", [], 0
    for path in sorted(folder.glob("*.tflite")):
        runner = open_model(described(tmp_path, path), artifact_root=folder)
        fed = {}
        for index, port in enumerate(runner.inputs):
            (file,) = folder.glob(f"{path.stem}_input{index}_*.csv")
            fed[port.name] = np.loadtxt(file, delimiter=",").astype(port.dtype).reshape(port.shape)
        (made,) = runner.run(fed).values()
        (golden,) = folder.glob(f"{path.stem}_golden_*.csv")
        if made.ravel().tolist() != np.loadtxt(golden, delimiter=",").ravel().tolist():
            wrong.append(path.stem)
        runner.close()
        done += 1
    assert wrong == []
    assert done == case("o16-tflite-int16-golden")["expected"]["exact_matches"] == 64


def tensor(path):
    made = onnx.TensorProto()
    made.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(made)


def pinned(folder, path, inputs, outputs):
    """A manifest with the ports of the file, pinned to the shapes of the vectors."""
    text = 'schema = 1\nname = "vector"\nversion = "1.0.0"\nmodality = "tensor"\n'
    takes, gives = declared_ports(path, "onnxruntime")
    for table, ports, arrays in (("input", takes, inputs), ("output", gives, outputs)):
        for port, array in zip(ports, arrays, strict=True):
            text += f'[[{table}]]\nname = "{port.name}"\nshape = {list(array.shape)}\ndtype = "{array.dtype}"\n'
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    text += f'[[artifact]]\nfile = "{path.name}"\nsha256 = "{sha256}"\nformat = "onnx"\n'
    (folder / "model.toml").write_text(text)
    return load_manifest(folder)


def test_thirty_nine_onnx_models_agree_with_their_vectors(tmp_path):
    """o17: the ONNX backend vectors within rtol 1e-3 and atol 1e-4, several inputs and outputs included."""
    done = 0
    for path in sorted((ROOT / "conformance" / "onnx").glob("*/model.onnx")):
        vectors = path.parent / "test_data_set_0"
        inputs = [tensor(vectors / f"input_{n}.pb") for n in range(len(list(vectors.glob("input_*.pb"))))]
        outputs = [tensor(vectors / f"output_{n}.pb") for n in range(len(list(vectors.glob("output_*.pb"))))]
        runner = open_model(pinned(tmp_path, path, inputs, outputs), artifact_root=path.parent)
        made = runner.run({port.name: array for port, array in zip(runner.inputs, inputs, strict=True)})
        for name, array, expected in zip(made, made.values(), outputs, strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-4, err_msg=f"{path.parent.name} {name}")
        runner.close()
        done += 1
    assert done == case("o17-onnx-backend-vectors")["expected"]["models"] == 39


REFUSED = {"person_detect": "quantized_dimension must be in range", "model_invoking_error": "fake-op-double"}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_the_runtime_must_refuse_hurt_nothing_else(tmp_path, name):
    """o19: a ModelError with the runtime's reason; the process lives and another model keeps running."""
    infer = inference("micro-speech")
    yes = View(np.load(ROOT / "inputs" / "yes_features_int8.npy"))
    before = infer(yes).outputs["labels_softmax"].tolist()
    sha256 = case("o19-refused")["model_sha256"][f"models/{name}.tflite"]
    (tmp_path / "model.toml").write_text(
        f'schema = 1\nname = "refused"\nversion = "1.0.0"\nmodality = "tensor"\n[[input]]\nname = "x"\nshape = [1]\n'
        f'dtype = "float32"\n[[output]]\nname = "y"\nshape = [1]\ndtype = "float32"\n[[artifact]]\n'
        f'file = "models/{name}.tflite"\nsha256 = "{sha256}"\nformat = "tflite"\n'
    )
    for _ in range(3):
        with pytest.raises(ModelError, match=r"refused 1\.0\.0"):
            open_model(load_manifest(tmp_path), artifact_root=ROOT)
        assert infer(yes).outputs["labels_softmax"].tolist() == before
    with pytest.raises(ModelError, match=REFUSED[name]):
        skeleton(ROOT / "models" / f"{name}.tflite")


def test_a_first_manifest_is_written_from_every_public_model(tmp_path):
    """The skeleton of each file that can run opens it."""
    opened = []
    for path in sorted((ROOT / "models").glob("*.*")):
        if path.stem in REFUSED:
            continue
        open_model(described(tmp_path, path), artifact_root=path.parent).close()
        opened.append(path.name)
    assert len(opened) == 14


def test_the_example_of_the_documentation_sees_a_person(tmp_path):
    """The model.toml that docs/models.md shows is whole and right."""
    (example,) = re.findall(r"```toml\n(schema = 1.*?)```", (REPO / "docs" / "models.md").read_text(), re.DOTALL)
    (tmp_path / "model.toml").write_text(example)
    manifest = load_manifest(tmp_path)
    infer = Inference(manifest, open_model(manifest, artifact_root=ROOT / "models"))
    for file, expected in case("o01-vww-int8")["expected"].items():
        best = infer(image_view(decode_image((ROOT / file).read_bytes(), file))).findings[0]
        assert best.label == ("person" if expected["person"] else "no person"), file


def test_three_inputs_and_five_outputs_of_a_detector():
    """o14: vehicles in three frames, quantised LSTM state passed on, the three best boxes of each frame."""
    expected = case("o14-traffic-multi-io")["expected"]
    infer = inference("traffic")
    frames = expected["top3_per_frame [class,score,ymin xmin ymax xmax]"]
    for number, best in enumerate(frames, 1):
        file = ROOT / "inputs" / f"traffic_000{number}.bmp"
        made = infer(image_view(decode_image(file.read_bytes(), file.name))).outputs
        for place, (label, score, box) in enumerate(best):
            assert int(made["classes"][0, place]) == label
            assert made["scores"][0, place] == pytest.approx(score, abs=expected["score_tol"])
            assert made["boxes"][0, place].tolist() == pytest.approx(box, abs=expected["box_tol"])
    assert len(frames) == 3


FALLBACK_RUN = """
import json, sys
from pathlib import Path
import numpy
from agent.manifest import load_manifest
from agent.registry import verified
from agent.runtime import open_runner
from agent.settings.runtime import RuntimeOptions
manifest, root = load_manifest(Path(sys.argv[1])), Path(sys.argv[2])
with verified(manifest, manifest.artifacts[0], root) as path:
    runner = open_runner(manifest, manifest.artifacts[0], RuntimeOptions(), path)
out = {}
for name in ("yes", "no", "silence", "noise"):
    features = numpy.load(root / f"inputs/{name}_features_int8.npy").reshape(1, 1960)
    out[f"inputs/{name}_features_int8.npy"] = runner.run({"Reshape_1": features})["labels_softmax"].ravel().tolist()
info = runner.info
print(json.dumps([numpy.__version__, info.runtime, [f.asked for f in info.fallbacks], out]))
"""


def _run(python, *words):
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [python, "-P", *map(str, words)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def fallback_python(tmp_path_factory):
    """Python of the second environment: tflite-runtime, numpy 1 and what the agent needs besides, from its own lock."""
    lock = REPO / "tools" / "locks" / "tflite-fallback.txt"
    if sys.version_info[:2] != (3, 11):
        pytest.skip("tflite-runtime 2.14 has no wheel for this Python; its environment is made with 3.11")
    home = tmp_path_factory.mktemp("fallback")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    pip = [sys.executable, "-m", "pip", "--python", home, "install", "-q", "--no-deps", "--no-compile"]
    install = [*pip, "--require-hashes", "--only-binary=:all:", "-r", lock]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the locked packages cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    return home / "bin" / "python"


def test_tflite_runtime_takes_over_where_litert_is_not_installed(fallback_python):
    """The second locked environment (numpy 1, tflite-runtime) runs the same model to the recorded numbers."""
    answer = _run(fallback_python, "-c", FALLBACK_RUN, MANIFESTS / "micro-speech", ROOT)
    numpy_version, runtime, asked, made = json.loads(answer)
    assert numpy_version.startswith("1.")
    assert (runtime, asked) == ("tflite-runtime", ["ai-edge-litert"])
    expected = case("o05-micro-speech-int8")["expected"]
    assert len(expected) == 4
    for file, answer in expected.items():
        assert np.abs(np.array(made[file]) - answer["int8_out_ref"]).max() <= answer["tol"], file


def test_the_agent_itself_hears_words_in_the_fallback_environment(fallback_python):
    """Sensor and audio pipelines need neither OpenCV nor ONNX Runtime: `limpet infer` works there on raw sound."""
    words = ("-m", "agent", "infer", MANIFESTS / "kws-ref", ROOT / "inputs" / "yes.wav", "--artifacts", ROOT, "--json")
    line = json.loads(_run(fallback_python, *words))
    assert line["findings"][0]["label"] == "Yes"
    heavy = "import importlib.util as u; print([m for m in ('cv2', 'onnxruntime', 'ai_edge_litert') if u.find_spec(m)])"
    assert _run(fallback_python, "-c", heavy).strip() == "[]"
