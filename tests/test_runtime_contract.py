"""What every Runner promises, run against every Runner: ONNX Runtime and LiteRT, here and in a process of their own, on
real little models."""

import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from agent.errors import ModelError
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.runtime import dequantise, quantise
from agent.settings.runtime import DelegateOptions, RuntimeOptions
from tests.tiny_models import FORMATS, artifact_text, make_model, manifest_text, write_model, write_ort

ROOT = Path(__file__).resolve().parent.parent
DTYPES = ("int8", "uint8", "int16", "int32", "int64", "float16", "float32", "bool")


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


@pytest.fixture(params=["none", "process"])
def isolation(request):
    return request.param


@pytest.fixture
def opened(isolation):
    """`open_model` in this process or in a process of its own; what it opened is closed after the test."""
    runners = []

    def open_one(manifest, options=RuntimeOptions(), **more):  # noqa: B008  it cannot change
        runners.append(open_model(manifest, replace(options, isolation=isolation), **more))
        return runners[-1]

    yield open_one
    for runner in runners:
        runner.close()


@pytest.fixture
def total(tmp_path, form, opened):
    """A runner of the model with two inputs, two outputs and a state."""
    return opened(make_model(tmp_path / "total", "total", form))


def ones(n=1.0):
    return np.full((1, 4), n, np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_dtype_pass_unchanged(tmp_path, form, dtype, opened):
    """Raw tensors go in and come out bit by bit, extremes included."""
    runner = opened(make_model(tmp_path / "m", "copy", form, dtype=dtype, shape=(2, 3)))
    kind = np.dtype(dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind) if kind.kind == "f" else None
    extremes = [limits.min, limits.max] if limits else [False, True]
    given = np.array([[*extremes, 1], [0, 1, 0]]).astype(kind)
    made = runner.run({"x": given})
    assert list(made) == ["y"]
    assert made["y"].dtype == kind
    assert made["y"].tobytes() == given.tobytes()


def test_quantised_arithmetic_agrees_with_the_real_numbers(tmp_path, form, opened):
    """y = x + x on int8 with two scales is right within one step, over the whole range of the input."""
    runner = opened(make_model(tmp_path / "m", "add", form, shape=(1, 256)))
    raw = np.arange(-128, 128, dtype=np.int8)[None]
    real = dequantise(raw, runner.inputs[0]) * 2
    made = runner.run({"x": raw})["y"].astype(int)
    assert np.abs(made - quantise(real, runner.outputs[0]).astype(int)).max() <= 1


def test_several_inputs_and_outputs_keep_the_order_of_the_manifest(total):
    """Ports are found by name whatever the order in which they are fed."""
    made = total.run({"h": ones(10), "x": ones(1)})
    assert list(made) == ["y", "hn"]
    assert made["hn"].tolist() == [[11.0] * 4]
    assert made["y"].tolist() == [[12.0] * 4]


def test_a_runner_keeps_nothing_between_calls(total):
    """State goes in and comes out; two streams can share a runner."""
    first = total.run({"x": ones(), "h": ones(0)})
    total.run({"x": ones(5), "h": ones(7)})
    again = total.run({"x": ones(), "h": ones(0)})
    assert first["hn"].tolist() == again["hn"].tolist() == [[1.0] * 4]


def test_outputs_belong_to_the_caller(total):
    """A later run does not change what an earlier one gave, and inputs are left as they were."""
    given = {"x": ones(3), "h": ones(4)}
    made = total.run(given)
    total.run({"x": ones(100), "h": ones(100)})
    made["y"][0, 0] = -1
    assert made["hn"].tolist() == [[7.0] * 4]
    assert given["x"].tolist() == [[3.0] * 4]
    assert total.run(given)["y"].tolist() == [[10.0] * 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": None}, r"missing: \['x'\]"),
        ({"z": ones()}, r"unknown: \['z'\]"),
        ({"x": np.ones((4,), np.float32)}, r"input 'x' takes shape \[1, 4\], it was given \[4\]"),
        ({"x": np.ones((1, 4), np.float64)}, "input 'x' takes float32, it was given float64"),
        ({"h": np.array([[0, np.nan, 0, 0]], np.float32)}, "input 'h' contains NaN"),
    ],
)
def test_wrong_inputs_are_refused_by_name_and_hurt_nothing(total, change, words):
    """A missing, unknown, misshapen or NaN input is a ModelError that names the port; the next run works."""
    given = {k: v for k, v in ({"x": ones(), "h": ones()} | change).items() if v is not None}
    with pytest.raises(ModelError, match=words):
        total.run(given)
    assert total.run({"x": ones(), "h": ones()})["y"].tolist() == [[3.0] * 4]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "x"', 'name = "q"', "names tensor 'q', the file has 'x'"),
        ("shape = [1, 4]", "shape = [1, 5]", r"'x': shape is \[1, 5\] in the manifest and \[1, 4\] in the file"),
        ('dtype = "int8"', 'dtype = "int16"', "'x': dtype is int16 in the manifest and int8 in the file"),
    ],
)
def test_a_manifest_that_disagrees_with_the_file_is_refused_with_both_sides(tmp_path, form, old, new, words, opened):
    """Name, shape and dtype are held against the graph before the first run."""
    path = write_model(tmp_path, "add", form)
    (tmp_path / "model.toml").write_text(manifest_text(path, "add").replace(old, new))
    (tmp_path / "model.toml").chmod(0o644)
    with pytest.raises(ModelError, match=words):
        opened(load_manifest(tmp_path))


@pytest.mark.parametrize(("old", "new", "words"), [
    ("scale = 0.5", "scale = 0.5001", "'x': scale is 0.5001 in the manifest and 0.5 in the file"),
    ("zero_point = 5", "zero_point = 6", "'y': zero_point is 6 in the manifest and 5 in the file"),
])  # fmt: skip
def test_a_scale_that_is_not_the_files_is_refused(tmp_path, old, new, words, opened):
    """A TFLite file carries its scales, so a manifest that says otherwise is wrong."""
    path = write_model(tmp_path, "add", "tflite")
    (tmp_path / "model.toml").write_text(manifest_text(path, "add").replace(old, new))
    (tmp_path / "model.toml").chmod(0o644)
    with pytest.raises(ModelError, match=words):
        opened(load_manifest(tmp_path))


def test_a_port_with_a_scale_per_channel_is_refused(tmp_path, opened):
    """One scale and one zero point per port is what the manifest can say, so anything else is refused, not guessed."""
    path = write_model(tmp_path, "copy", "tflite", dtype="int8", scales=(0.1, 0.2, 0.3, 0.4))
    (tmp_path / "model.toml").write_text(manifest_text(path, "copy", dtype="int8"))
    with pytest.raises(ModelError, match="tensor 'x' has 4 scales, one per channel"):
        opened(load_manifest(tmp_path))


def test_an_input_that_the_manifest_forgets_is_refused(tmp_path, form, opened):
    """Every input of the graph must be described."""
    path = write_model(tmp_path, "total", form)
    text = manifest_text(path, "copy").replace('name = "tiny"', 'name = "forgets"')
    (tmp_path / "model.toml").write_text(text)
    (tmp_path / "model.toml").chmod(0o644)
    with pytest.raises(ModelError, match="the file has input 'h', the manifest does not"):
        opened(load_manifest(tmp_path))


def test_open_dimensions_take_the_size_of_the_manifest(tmp_path, form, opened):
    """A batch that the graph leaves open runs with the manifest's size, and only with it."""
    runner = opened(make_model(tmp_path / "m", "copy", form, shape=(3, 4), open_batch=True))
    given = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert runner.run({"x": given})["y"].tolist() == given.tolist()
    with pytest.raises(ModelError, match=r"takes shape \[3, 4\], it was given \[2, 4\]"):
        runner.run({"x": given[:2]})


def test_a_closed_runner_says_so(tmp_path, form, opened):
    """Use after close is a ModelError, a second close does nothing."""
    runner = opened(make_model(tmp_path / "m", "copy", form))
    runner.close()
    runner.close()
    with pytest.raises(ModelError, match="closed"):
        runner.run({"x": ones()})


def test_many_threads_get_their_own_answers(total):
    """One runner serves eight threads at once; nobody gets another's result."""
    wrong = []

    def work(mine):
        for n in range(200):
            made = total.run({"x": ones(mine), "h": ones(n)})
            if made["y"].tolist() != [[2.0 * mine + n] * 4]:
                wrong.append((mine, n, made["y"]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_a_run_waits_for_a_compute_slot(tmp_path, form, opened):
    """Runners that share slots compute no more at once than there are slots."""
    slots = threading.BoundedSemaphore(1)
    runner = opened(make_model(tmp_path / "m", "copy", form), slots=slots)
    done = threading.Event()
    with slots:
        thread = threading.Thread(target=lambda: (runner.run({"x": ones()}), done.set()))
        thread.start()
        assert not done.wait(0.2)
    assert done.wait(10)
    thread.join(10)
    with pytest.raises(ModelError):
        runner.run({"x": ones().astype(np.float64)})
    assert slots.acquire(timeout=1), "a failed run gives its slot back"


def _accelerated(form, *, required):
    if form != "tflite":
        return RuntimeOptions(providers=("CUDAExecutionProvider",), required=required), "CUDAExecutionProvider"
    library = "libno-such-delegate.so"
    return RuntimeOptions(delegates=(DelegateOptions(Path(library)),), required=required), library


def test_a_missing_accelerator_falls_back_with_a_recorded_reason(tmp_path, form, opened):
    """Without `required` the CPU does the work, and the info says what was asked for and why it is not used."""
    options, asked = _accelerated(form, required=False)
    runner = opened(make_model(tmp_path / "m", "copy", form), options)
    assert runner.run({"x": ones()})["y"].tolist() == [[1.0] * 4]
    fallback = runner.info.fallbacks[-1]
    assert fallback.asked == asked
    assert len(fallback.reason) > 10
    assert asked not in runner.info.used


def test_a_missing_accelerator_that_is_required_is_an_error(tmp_path, form, opened):
    """With `required` the model is not loaded, and the message names what is missing."""
    options, asked = _accelerated(form, required=True)
    with pytest.raises(ModelError, match=asked):
        opened(make_model(tmp_path / "m", "copy", form), options)


def test_an_artifact_that_requires_a_missing_accelerator_gives_way_to_the_next(tmp_path, opened):
    """The file for the GPU is passed over where the GPU cannot be used, even if the configuration asks for it."""
    make_model(tmp_path / "m", "copy", "onnx")
    plain = write_model(tmp_path / "m", "copy", "tflite")
    with (tmp_path / "m" / "model.toml").open("a") as file:
        file.write('requires = ["CUDAExecutionProvider"]\n' + artifact_text(plain))
    options = RuntimeOptions(providers=("CUDAExecutionProvider",))
    runner = opened(load_manifest(tmp_path / "m"), options)
    assert runner.info.runtime == "ai-edge-litert"
    text = (tmp_path / "m" / "model.toml").read_text()
    (tmp_path / "m" / "model.toml").write_text(text.removesuffix(artifact_text(plain)))
    with pytest.raises(ModelError, match=r"copy\.onnx requires CUDAExecutionProvider, which cannot be used here"):
        opened(load_manifest(tmp_path / "m"), options)


REFUSING_DELEGATE = """
#include <stdint.h>
typedef struct Delegate {
    void *data; int (*prepare)(void *, struct Delegate *); void *copy_from, *copy_to, *release; int64_t flags;
    void *more[8];
} Delegate;
static int prepare(void *context, Delegate *delegate) { return 1; }
static Delegate one = {0, prepare};
Delegate *tflite_plugin_create_delegate(char **keys, char **values, int n, void (*say)(const char *)) { return &one; }
void tflite_plugin_destroy_delegate(Delegate *delegate) {}
"""


@pytest.fixture
def refusing_delegate(tmp_path):
    """A delegate library that loads and then refuses every graph."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to build a delegate")
    source, library = tmp_path / "refuses.c", tmp_path / "librefuses.so"
    source.write_text(REFUSING_DELEGATE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def test_a_delegate_that_refuses_the_graph_is_left_out(tmp_path, refusing_delegate, opened):
    """The model then runs without it, with the reason; or not at all when it is required."""
    manifest = make_model(tmp_path / "m", "add", "tflite")
    delegates = (DelegateOptions(refusing_delegate),)
    runner = opened(manifest, RuntimeOptions(delegates=delegates))
    assert runner.run({"x": np.array([[-3, 1, 5, 9]], np.int8)})["y"].tolist() == [[5, 9, 13, 17]]
    assert runner.info.fallbacks[0].asked == str(refusing_delegate)
    assert "refuses the model" in runner.info.fallbacks[0].reason
    with pytest.raises(ModelError, match="refuses the model"):
        opened(manifest, RuntimeOptions(delegates=delegates, required=True))


@pytest.mark.parametrize("xnnpack", [True, False])
@pytest.mark.parametrize("spin_us", [0, 50])
def test_threads_spinning_and_xnnpack_change_speed_only(tmp_path, form, xnnpack, spin_us, opened):
    """Every setting gives the same answer, and the info tells which ran."""
    options = RuntimeOptions(threads=2, spin_us=spin_us, xnnpack=xnnpack)
    runner = opened(make_model(tmp_path / "m", "add", form), options)
    assert runner.run({"x": np.array([[-3, 1, 5, 9]], np.int8)})["y"].tolist() == [[5, 9, 13, 17]]
    assert runner.info.threads == 2
    assert ("xnnpack" in runner.info.used) == (xnnpack and form == "tflite")


def test_the_info_names_model_and_runtime(total, form):
    """Which file ran, on what."""
    assert total.info.model.name == "tiny"
    assert len(total.info.model.sha256) == 64
    assert total.info.runtime == {"tflite": "ai-edge-litert"}.get(form, "onnxruntime")
    assert total.info.version[0].isdigit()
    assert [port.name for port in total.inputs] == ["x", "h"]


@pytest.mark.parametrize("junk", [b"", b"not a model", b"\x1c\x00\x00\x00TFL3" + bytes(64), bytes(4096)])
def test_a_file_that_is_no_model_is_refused_and_the_others_go_on(tmp_path, form, total, junk, opened):
    """Garbage is a ModelError with the runtime's reason; a runner that is open keeps working."""
    folder = tmp_path / "junk"
    folder.mkdir()
    path = write_model(folder, "copy", form)
    path.write_bytes(junk)
    (folder / "model.toml").write_text(manifest_text(path, "copy", name="junk"))
    (folder / "model.toml").chmod(0o644)
    with pytest.raises(ModelError, match=r"junk 1\.0\.0"):
        opened(load_manifest(folder))
    assert total.run({"x": ones(), "h": ones()})["y"].tolist() == [[3.0] * 4]


@pytest.mark.parametrize("form", ["tflite", "ort"])
def test_tflite_and_ort_files_are_memory_mapped(tmp_path, form):
    """The runtime's pages are those of the file, so that processes share them; it lets go of them when closed."""
    manifest = make_model(tmp_path / "mapped", "copy", form)
    runner = open_model(manifest)
    file = str(tmp_path / "mapped" / f"copy.{form}")
    assert file in Path("/proc/self/maps").read_text()
    assert runner.run({"x": ones(3)})["y"].tolist() == [[3.0] * 4]
    runner.close()
    assert file not in Path("/proc/self/maps").read_text()


def test_the_weights_of_an_ort_file_are_read_where_they_lie(tmp_path):
    """Loading the mapped file takes less private memory than parsing the same network."""
    private = [_private_mb_of_loading(tmp_path / form, form) for form in ("ort", "onnx")]
    assert private[0] < private[1] - 10, private


def _private_mb_of_loading(folder, form):
    """MB of private memory that a process takes to load 32 MB of weights that a Gather reads as they lie."""
    folder.mkdir()
    table = np.zeros((2_000_000, 4), np.float32)
    of, kinds = onnx.helper, onnx.TensorProto
    taken, given = of.make_tensor_value_info("i", kinds.INT64, [1]), of.make_tensor_value_info("y", kinds.FLOAT, [1, 4])
    weights = onnx.numpy_helper.from_array(table, "w")
    graph = of.make_graph([of.make_node("Gather", ["w", "i"], ["y"])], "table", [taken], [given], [weights])
    model = of.make_model(graph, ir_version=10, opset_imports=[of.make_opsetid("", 17)])
    path = folder / f"table.{form}"
    if form == "ort":
        write_ort(model.SerializeToString(), path)
    else:
        path.write_bytes(model.SerializeToString())
    ports = '[[input]]\nname = "i"\nshape = [1]\ndtype = "int64"\n'
    ports += '[[output]]\nname = "y"\nshape = [1, 4]\ndtype = "float32"\n'
    top = 'schema = 1\nname = "table"\nversion = "1.0.0"\nmodality = "tensor"\n'
    (folder / "model.toml").write_text(top + ports + artifact_text(path))
    for file in folder.iterdir():
        file.chmod(0o644)
    code = """
import sys
from pathlib import Path
import onnxruntime
from agent.loading import open_model
from agent.manifest import load_manifest
def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024
before = private()
runner = open_model(load_manifest(Path(sys.argv[1])))
print(private() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_an_artifact_with_renamed_and_requantised_ports_gives_the_manifests_names(tmp_path, opened):
    """Two files of one version: the second one's tensors have other names and dtypes."""
    first = make_model(tmp_path / "m", "add", "tflite")
    second = write_model(tmp_path / "m", "copy", "onnx")
    text = (tmp_path / "m" / "model.toml").read_text().replace('name = "x"', 'name = "image"\ntensor = "x"')
    more = manifest_text(second, "copy").split("[[artifact]]")[1]
    changes = '[artifact.ports.image]\ndtype = "float32"\n[artifact.ports.y]\ndtype = "float32"\n'
    (tmp_path / "m" / "model.toml").write_text(text + "[[artifact]]" + more + changes)
    manifest = load_manifest(tmp_path / "m")
    lite, onnx = (opened(manifest, only=artifact) for artifact in manifest.artifacts)
    assert first.name == manifest.name
    assert lite.run({"image": np.zeros((1, 4), np.int8)})["y"].dtype == np.int8
    assert onnx.run({"image": ones(2)})["y"].tolist() == [[2.0] * 4]
    assert onnx.outputs[0].scale == 0.0


def test_no_runtime_is_imported_before_a_model_needs_it():
    """Start-up stays light: neither runtime nor OpenCV comes with the modules, and an ONNX model brings no LiteRT."""
    code = "import sys, agent.inference, agent.skeleton; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["onnxruntime", "ai_edge_litert", "tflite_runtime", "cv2"]
    repo = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, cwd=repo)
    assert done.stdout.strip() == "[]"
