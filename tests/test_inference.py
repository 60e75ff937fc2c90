"""One stream's way through a model: steps, quantising, cache, state, decoding; and the golden check."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from agent.cache import ResultCache
from agent.errors import ModelError
from agent.feed import Feed, fit
from agent.golden import selftest
from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import Input, Port, load_manifest
from agent.records import Finding, View
from agent.runtime import dequantise, quantise
from agent.runtime.quant import to_port, zeros
from agent.settings.runtime import CacheConfig
from pipelines.pixels import Normalise
from tests.tiny_models import ADD_IN, ADD_OUT, FORMATS, make_model

INT8 = Input("x", (1, 4), "int8", scale=1 / 255, zero_point=-128)


def view(*numbers, dtype=np.float32, **more):
    return View(np.array([numbers], dtype), **more)


def reading(outputs, seen, labels):
    """A decoder that tells what it was given."""
    names = labels or tuple(outputs)
    return tuple(Finding(name, float(array.ravel()[0])) for name, array in zip(names, outputs.values(), strict=False))


def opened(folder, kind, form="onnx", cache=None, **how):
    manifest = make_model(folder, kind, form, **how)
    return Inference(manifest, open_model(manifest), cache, decoder=reading)


def caching(**config):
    return ResultCache(CacheConfig(**config), lambda: 0.0)


# ---- numbers


@pytest.mark.parametrize(
    ("rounding", "raw"),
    [("nearest", [-2, -2, 0, 0, 2, 2]), ("trunc", [-2, -1, 0, 0, 1, 2]), ("floor", [-3, -2, -1, 0, 1, 2])],
)
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_rounding_is_the_one_of_the_manifest(rounding, raw, dtype):
    """Halves and signs: nearest goes to even, trunc towards zero, floor down."""
    port = Input("x", (6,), dtype, scale=0.5, rounding=rounding)
    real = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]) * 0.5
    assert quantise(real, port).tolist() == raw
    assert quantise(real.astype(np.float32), port).tolist() == raw


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64"])
def test_numbers_beyond_the_dtype_are_clipped(dtype):
    """Nothing wraps around, infinities included."""
    limits = np.iinfo(dtype)
    made = quantise(np.array([-np.inf, -1e30, 1e30, np.inf]), Port("x", (4,), dtype, scale=1.0))
    assert made[:2].tolist() == [limits.min] * 2
    assert (made[2:].astype(float) >= 0.999 * limits.max).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_every_raw_value_survives_the_way_to_real_and_back(dtype):
    """dequantise and quantise are each other's inverse on the raw side."""
    limits = np.iinfo(dtype)
    port = Port("x", (limits.max - limits.min + 1,), dtype, scale=0.0078125, zero_point=3)
    raw = np.arange(limits.min, limits.max + 1).astype(dtype)
    assert (quantise(dequantise(raw, port), port) == raw).all()
    assert dequantise(raw, port).dtype == np.float32


def test_nan_is_refused_before_it_becomes_a_number():
    """A NaN cast to an integer would be any number."""
    with pytest.raises(ModelError, match="input 'x' contains NaN"):
        quantise(np.array([0.0, np.nan]), INT8)


def test_raw_and_real_numbers_are_not_confused():
    """The port's own dtype passes, floats are quantised, other integers are refused when the port has a scale."""
    raw = np.array([1, 2], np.int8)
    assert to_port(raw, INT8) is raw
    assert to_port(np.array([0.0, 1.0]), INT8).tolist() == [-128, 127]
    with pytest.raises(ModelError, match=r"takes int8 with scale 0\.0039.*the last step made uint8"):
        to_port(np.array([0, 255], np.uint8), INT8)
    plain = replace(INT8, scale=0.0, zero_point=0)
    assert to_port(np.array([0, 127], np.uint8), plain).dtype == np.int8
    with pytest.raises(ModelError, match=r"numbers beyond -128 \.\. 127 do not fit"):
        to_port(np.array([0, 255], np.uint8), plain)
    assert to_port(np.array([0, 255], np.uint8), Input("x", (2,), "float32")).tolist() == [0.0, 255.0]
    assert zeros(INT8).tolist() == [[-128] * 4]


# ---- pixels through a table


@pytest.mark.parametrize("port_dtype", ["int8", "uint8", "int16", "float32", "float16"])
@pytest.mark.parametrize("rounding", ["nearest", "trunc", "floor"])
@pytest.mark.parametrize("step", [
    Normalise(divide_by=255.0),
    Normalise(divide_by=127.5, mean=(1.0,)),
    Normalise(255.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)),
])  # fmt: skip
def test_the_table_is_the_slow_way_on_all_pixel_values(port_dtype, rounding, step):
    """Folding the last step and the quantiser into a table changes no single number, per channel or not."""
    scale = 1 / 255 if port_dtype[0] in "iu" else 0.0
    zero_point = -128 if port_dtype == "int8" else 0
    port = Input("x", (1, 16, 16, 3), port_dtype, scale=scale, zero_point=zero_point, rounding=rounding)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([every, every.T, every[::-1]], axis=-1)
    slow = quantise(step(View(pixels)).data, port) if scale else step(View(pixels)).data.astype(port_dtype)
    (fast,) = Feed(port, (step,))(View(pixels)).tensors
    assert fast.dtype == port_dtype
    assert (fast[0] == slow).all()


@pytest.mark.parametrize("step", [
    Normalise(divide_by=255.0),
    Normalise(127.5, (1.0,)),
    Normalise(255.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)),
])  # fmt: skip
def test_a_tensor_with_channels_first_is_filled_with_the_same_numbers(step):
    """Writing channel by channel into one tensor changes no bit, and a second picture leaves nothing of the first."""
    port = Input("x", (1, 3, 12, 20), "float32", layout="NCHW")
    feeding = Feed(port, (step,))
    for seed in (1, 2):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), np.uint8)
        fed = feeding(View(pixels))
        assert fed.tensors[0].tobytes() == fit(step(View(pixels)).data, port).tobytes()
        assert fed.view.data is fed.hashed[0] is pixels


def test_values_for_the_wrong_number_of_channels_are_refused_on_every_way():
    """Also where the step fills the tensor itself."""
    port = Input("x", (1, 3, 4, 4), "float32", layout="NCHW")
    with pytest.raises(ModelError, match="mean has 4 values for 3 channels"):
        Feed(port, (Normalise(255.0, (0.1, 0.2, 0.3, 0.4)),))(View(np.zeros((4, 4, 3), np.uint8)))


def test_a_step_that_looks_at_neighbours_is_not_folded():
    """Only steps that say `pointwise` are, and only on uint8 pictures."""

    @dataclass(frozen=True)
    class Mirror:
        def __call__(self, seen, /):
            return replace(seen, data=seen.data[:, ::-1] / 255.0)

    @dataclass(frozen=True)
    class Double:
        pointwise: ClassVar[bool] = True

        def __call__(self, seen, /):
            return replace(seen, data=seen.data * 2.0)

    port = Input("x", (1, 2, 2), "float32")
    (mirrored,) = Feed(port, (Mirror(),))(View(np.array([[0, 255], [255, 0]], np.uint8))).tensors
    assert mirrored[0].tolist() == [[1, 0], [0, 1]]
    (doubled,) = Feed(port, (Double(),))(View(np.full((2, 2), 0.25))).tensors
    assert doubled[0].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_arrays_are_fitted_to_the_port_or_refused():
    """Missing batch, NCHW, one long row; anything else is named with both shapes."""
    picture = np.arange(24).reshape(2, 4, 3)
    assert fit(picture, Input("x", (1, 2, 4, 3), "int64", layout="NHWC")).shape == (1, 2, 4, 3)
    turned = fit(picture, Input("x", (1, 3, 2, 4), "int64", layout="NCHW"))
    assert turned[0, 1].tolist() == picture[:, :, 1].tolist()
    assert turned.flags.c_contiguous
    assert fit(turned[0], Input("x", (1, 3, 2, 4), "int64", layout="NCHW")).tolist() == turned.tolist()
    assert fit(picture, Input("x", (1, 24), "int64")).tolist() == [list(range(24))]
    with pytest.raises(ModelError, match=r"takes shape \[1, 4, 2, 3\], \[\[pre\]\] ends with \[2, 4, 3\]"):
        fit(picture, Input("x", (1, 4, 2, 3), "int64"))


# ---- a stream


@pytest.mark.parametrize("form", FORMATS)
def test_a_view_becomes_findings_with_timings_and_digest(tmp_path, form):
    """Real numbers in, real numbers to the decoder, raw numbers in `outputs`."""
    infer = opened(tmp_path, "add", form, extra='labels = ["twice"]')
    made = infer(view(0.0, 1.0, 2.0, 3.0))
    assert made.outputs["y"].dtype == np.int8
    assert dequantise(made.outputs["y"], infer.runner.outputs[0]).tolist() == [[0.0, 2.0, 4.0, 6.0]]
    assert made.findings == (Finding("twice", 0.0),)
    assert made.cache == "miss"
    assert set(made.timings_ms) == {"pre", "run", "post"}
    assert all(ms >= 0 for ms in made.timings_ms.values())
    assert len(made.input_digest) == 32
    assert infer(view(0.0, 1.0, 2.0, 3.0)).input_digest == made.input_digest
    assert infer(view(0.0, 1.0, 2.0, 4.0)).input_digest != made.input_digest
    assert (ADD_IN, ADD_OUT) == ((0.5, -3), (1.0, 5))


@pytest.mark.parametrize("form", FORMATS)
def test_state_is_carried_from_view_to_view(tmp_path, form):
    """hn = h + x: the sum grows, and starts again at a gap."""
    infer = opened(tmp_path, "total", form)
    sums = [infer(view(1, 2, 3, n)).outputs["hn"][0].tolist() for n in range(3)]
    assert sums == [[1, 2, 3, 0], [2, 4, 6, 1], [3, 6, 9, 3]]
    assert infer(view(1, 1, 1, 1, gap=True)).outputs["hn"][0].tolist() == [1, 1, 1, 1]
    infer.reset()
    assert infer(view(5, 5, 5, 5)).outputs["hn"][0].tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("form", FORMATS)
def test_streams_that_share_a_runner_keep_their_states_apart(tmp_path, form):
    """Two cameras, one loaded model."""
    manifest = make_model(tmp_path, "total", form)
    runner = open_model(manifest)
    one, two = Inference(manifest, runner), Inference(manifest, runner)
    for _ in range(3):
        one(view(1, 1, 1, 1))
        last = two(view(10, 10, 10, 10))
    assert last.outputs["hn"][0].tolist() == [30] * 4
    assert one(view(1, 1, 1, 1)).outputs["hn"][0].tolist() == [4] * 4


def test_after_an_error_the_state_starts_again(tmp_path):
    """NaN in, infinities that become NaN, a wrong shape: an error, and then the stream goes on from zero."""
    infer = opened(tmp_path, "total")
    for bad in (view(np.nan, 0, 0, 0), view(1, 2, 3)):
        infer(view(1, 1, 1, 1))
        with pytest.raises(ModelError):
            infer(bad)
        assert infer(view(2, 2, 2, 2)).outputs["hn"][0].tolist() == [2] * 4
    infer(view(np.inf, 0, 0, 0))
    with pytest.raises(ModelError, match=r"output '(y|hn)' contains NaN"):
        infer(view(-np.inf, 0, 0, 0))
    assert infer(view(2, 2, 2, 2)).outputs["hn"][0].tolist() == [2] * 4


def test_constants_fill_their_ports(tmp_path):
    """A port with a `value` is not fed by the view."""
    manifest = make_model(tmp_path, "total", "onnx")
    text = (tmp_path / "model.toml").read_text().replace('name = "h"', 'name = "h"\nvalue = 100')
    (tmp_path / "model.toml").write_text(text.replace('[[state]]\ninput = "h"\noutput = "hn"\n', ""))
    manifest = load_manifest(tmp_path)
    assert Inference(manifest, open_model(manifest))(view(1, 2, 3, 4)).outputs["hn"].tolist() == [[101, 102, 103, 104]]


def test_each_fed_port_has_its_own_steps(tmp_path):
    """Two inputs filled from one view, one of them through a step."""
    make_model(tmp_path, "total", "onnx", shape=(1, 2, 2))
    text = (tmp_path / "model.toml").read_text().replace('[[state]]\ninput = "h"\noutput = "hn"\n', "")
    (tmp_path / "model.toml").write_text(text + '[[pre]]\nstep = "normalise"\ndivide_by = 10.0\ninput = "h"\n')
    manifest = load_manifest(tmp_path)
    made = Inference(manifest, open_model(manifest))(View(np.array([[10, 20], [30, 40]], np.float32)))
    assert made.outputs["hn"].tolist() == [[[11, 22], [33, 44]]]


def test_cells_are_run_one_by_one_and_decoded_together(tmp_path):
    """A view with cells: outputs stacked in the order of the cells."""
    infer = opened(tmp_path, "copy", cache=caching())
    cells = ((0.0, 0.0, 1.0, 1.0), (1.0, 0.0, 2.0, 1.0))
    two = View(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), cells=cells)
    made = infer(two)
    assert made.outputs["y"].tolist() == [[[1, 2, 3, 4]], [[5, 6, 7, 8]]]
    assert made.cache == "miss"
    half_known = replace(two, data=np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.float32))
    assert infer(half_known).cache == "miss"
    assert infer(two).cache == "exact"
    with pytest.raises(ModelError, match="leave the step 'cells' out"):
        opened(tmp_path / "state", "total")(two)


def test_a_wrong_step_is_the_publishers_error(tmp_path):
    """A manifest whose step does not exist makes no inference."""
    make_model(tmp_path, "copy", "onnx")
    with (tmp_path / "model.toml").open("a") as file:
        file.write('[[pre]]\nstep = "nosuch"\n')
    manifest = load_manifest(tmp_path)
    with pytest.raises(ModelError, match="'nosuch' is no pre step"):
        Inference(manifest, open_model(manifest))


# ---- the cache


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_input_is_computed_once(tmp_path, form):
    """A hit gives the same outputs, is decoded afresh, says "exact" and has no run time."""
    held = caching()
    infer = opened(tmp_path, "copy", form, cache=held)
    first, again = infer(view(1, 2, 3, 4)), infer(view(1, 2, 3, 4))
    assert (first.cache, again.cache) == ("miss", "exact")
    assert "run" not in again.timings_ms
    assert again.outputs["y"].tolist() == first.outputs["y"].tolist()
    assert again.findings == first.findings
    assert infer(view(1, 2, 3, 5)).cache == "miss"
    assert (held.counts.hits, held.counts.misses) == (1, 2)
    assert held.counts.saved_ms > 0


def test_models_do_not_hit_each_others_results(tmp_path):
    """One cache serves all models: the artifact and the manifest are in the key."""
    held = caching()
    one = opened(tmp_path / "one", "copy", cache=held)
    two = opened(tmp_path / "two", "copy", cache=held, name="other")
    lite = opened(tmp_path / "three", "copy", form="tflite", cache=held)
    assert [infer(view(1, 2, 3, 4)).cache for infer in (one, two, lite)] == ["miss"] * 3
    assert one(view(1, 2, 3, 4)).cache == "exact"


def test_a_model_with_state_is_cached_only_on_demand_and_with_its_state(tmp_path):
    """Off by default; when on, the same input in another state is another question."""
    held = caching()
    infer = opened(tmp_path / "off", "total", cache=held)
    assert [infer(view(0, 0, 0, 0)).cache for _ in range(2)] == ["miss", "miss"]
    assert held.counts.entries == 0
    held = caching(stateful=True)
    infer = opened(tmp_path / "on", "total", cache=held)
    seen = [infer(view(1, 1, 1, 1)) for _ in range(3)]
    assert [one.cache for one in seen] == ["miss"] * 3
    assert seen[2].outputs["hn"][0].tolist() == [3] * 4
    infer.reset()
    replayed = [infer(view(1, 1, 1, 1)) for _ in range(3)]
    assert [one.cache for one in replayed] == ["exact"] * 3
    assert replayed[2].outputs["hn"][0].tolist() == [3] * 4


def test_a_cache_that_is_switched_off_says_miss(tmp_path):
    """`enabled = false` computes everything."""
    infer = opened(tmp_path, "copy", cache=caching(enabled=False))
    assert [infer(view(1, 2, 3, 4)).cache for _ in range(2)] == ["miss", "miss"]


# ---- golden inputs


def golden(folder, extra, *, form="onnx", kind="add", offset=0):
    manifest = make_model(folder, kind, form)
    np.savez(folder / "in.npz", x=np.array([[-3, -1, 1, 3]], np.int8))
    right = np.array([[5, 7, 9, 11]], np.int8)
    np.savez(folder / "out.npz", y=right + np.int8(offset))
    with (folder / "model.toml").open("a") as file:
        file.write(f'[[golden]]\ninput = "in.npz"\noutput = "out.npz"\n{extra}\n')
    manifest = load_manifest(folder)
    return selftest(manifest, open_model(manifest), lambda _, path: [View(np.load(path))])


@pytest.mark.parametrize("form", FORMATS)
def test_golden_outputs_are_compared_in_steps(tmp_path, form):
    """Within the tolerance it passes and tells the distance, beyond it the message names port and distance."""
    (exact,) = golden(tmp_path / "a", "tolerance = 0", form=form)
    assert exact.ok
    (near,) = golden(tmp_path / "b", "tolerance = 2", form=form, offset=2)
    assert (near.ok, near.worst) == (True, 2.0)
    (far,) = golden(tmp_path / "c", "tolerance = 2", form=form, offset=3)
    assert not far.ok
    assert "output 'y' is 3 steps from out.npz, at most 2 allowed" in far.reason


def test_golden_labels_are_compared(tmp_path):
    """A wrong label is a failure that says both."""
    (check,) = golden(tmp_path, 'label = "cat"')
    assert (check.ok, check.reason) == (False, "the model says 'nothing', not 'cat'")


def test_a_golden_recording_takes_the_way_of_a_live_one(tmp_path):
    """Views come from the loader; state is carried through them, and the last answer counts."""
    make_model(tmp_path, "total", "onnx")
    np.savez(tmp_path / "out.npz", y=np.full((1, 4), 4.0, np.float32), hn=np.full((1, 4), 3.0, np.float32))
    (tmp_path / "three.npy").touch()
    with (tmp_path / "model.toml").open("a") as file:
        file.write('[[golden]]\ninput = "three.npy"\noutput = "out.npz"\n')
    manifest = load_manifest(tmp_path)
    loader = lambda _, path: [view(1, 1, 1, 1)] * (3 if path.name == "three.npy" else 0)  # noqa: E731
    (check,) = selftest(manifest, open_model(manifest), loader)
    assert check.ok, check.reason


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "out.npz").unlink(), "cannot be read as npz"),
        (lambda folder: (folder / "out.npz").write_bytes(b"junk"), "cannot be read as npz"),
        (lambda folder: np.savez(folder / "out.npz", z=np.zeros(1)), "there is no array 'y'"),
        (lambda folder: np.savez(folder / "out.npz", y=np.zeros((1, 4))), "it must be int8"),
        (lambda folder: np.savez(folder / "out.npz", y=np.array([object()])), "cannot be read as npz"),
        (lambda folder: np.savez(folder / "in.npz", x=np.zeros((1, 4))), "takes int8, it was given float64"),
        (lambda folder: [(folder / "in.npz").unlink(), (folder / "in.npz").symlink_to("/etc/hosts")], "leads out of"),
    ],
)
def test_damaged_golden_files_fail_the_check_in_words(tmp_path, damage, words):
    """A golden check never passes because something was missing."""
    golden(tmp_path, "")
    damage(tmp_path)
    manifest = load_manifest(tmp_path)
    (check,) = selftest(manifest, open_model(manifest), lambda _, __: [])
    assert not check.ok
    assert words in check.reason
