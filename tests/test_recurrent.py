"""Models that remember inside: a runner gives the same answer to the same input, whatever was asked before."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from agent.errors import ModelError
from agent.inference import Inference
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.records import View
from agent.settings.runtime import RuntimeOptions
from agent.skeleton import skeleton
from tests.realdata import ROOT, case, inference, needed
from tests.recurrent_models import make_recurrent
from tools import open_state


@pytest.mark.parametrize("xnnpack", [True, False])
def test_a_recurrent_cell_begins_anew_at_every_run(tmp_path, xnnpack):
    """What one run leaves in the cell must not reach the next, which may be another stream's."""
    runner = open_model(make_recurrent(tmp_path, "cell"), RuntimeOptions(xnnpack=xnnpack))
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    for _ in range(3):
        assert runner.run({"x": x})["y"].tolist() == x.tolist()
    runner.close()


def test_a_model_with_variables_of_its_own_is_refused(tmp_path):
    """They cannot be set back, so two streams would hear each other: the message says what to do."""
    with pytest.raises(ModelError, match=r"keeps its state in variables of its own.*as inputs and outputs"):
        open_model(make_recurrent(tmp_path, "variable"))


@needed
def test_a_handwritten_digit_is_read_the_same_in_any_order():
    """o15: every picture after every other gives the raw numbers that it gives alone."""
    from pipelines.image import decode_image, image_view

    files = case("o15-mnist-lstm-int8")["inputs"]
    seen = [image_view(decode_image((ROOT / file).read_bytes(), file)) for file in files]
    alone = []
    for view in seen:
        infer = inference("mnist-lstm")
        alone.append(next(iter(infer(view).outputs.values())).tolist())
        infer.runner.close()
    infer = inference("mnist-lstm")
    for a, b in itertools.permutations(range(len(seen)), 2):
        infer(seen[a])
        assert next(iter(infer(seen[b]).outputs.values())).tolist() == alone[b]
    infer.runner.close()


# ---- the tool that opens variables


def _opened(folder, kind, capsys):
    """The model with a variable inside, opened, described by the skeleton and by what the tool prints."""
    make_recurrent(folder, kind)
    source, target = folder / f"{kind}.tflite", folder / "opened.tflite"
    assert open_state.main([str(source), str(target)]) == 0
    target.chmod(0o644)
    text, tables = skeleton(target), capsys.readouterr().out
    (folder / "model.toml").write_text(text if "[[state]]" in text else text + tables)
    return load_manifest(folder)


@pytest.mark.parametrize(("kind", "state", "more"), [("variable", "y", 0), ("apart", "v_next", 1)])
def test_an_opened_model_carries_its_state_per_stream(tmp_path, capsys, kind, state, more):
    """The sums that the variable held are the stream's now: two streams of one runner, and a gap, each by itself."""
    manifest = _opened(tmp_path, kind, capsys)
    assert [(pair.input, pair.output) for pair in manifest.states] == [("v", state)]
    runner = open_model(manifest)
    first, second = Inference(manifest, runner), Inference(manifest, runner)
    one, ten = (View(np.full((1, 4), n, np.float32)) for n in (1, 10))
    for n in (1, 2, 3):
        assert first(one).outputs["y"].tolist() == [[n + more] * 4]
        assert second(ten).outputs["y"].tolist() == [[10 * (n + more)] * 4]
    assert first(replace(one, gap=True)).outputs["y"].tolist() == [[1.0 + more] * 4]
    runner.close()


def test_a_model_without_variables_needs_no_opening(tmp_path, capsys):
    """It says so, and writes nothing."""
    make_recurrent(tmp_path, "cell")
    assert open_state.main([str(tmp_path / "cell.tflite"), str(tmp_path / "out.tflite")]) == 1
    assert "has no variables" in capsys.readouterr().err
    assert not (tmp_path / "out.tflite").exists()


def test_a_variable_that_begins_elsewhere_than_at_zero_is_refused(tmp_path, capsys):
    """The agent's state begins at zeros: opened, such a model would give other answers."""
    make_recurrent(tmp_path, "variable", begins=0.5)
    assert open_state.main([str(tmp_path / "variable.tflite"), str(tmp_path / "out.tflite")]) == 1
    assert "does not begin at zero" in capsys.readouterr().err
