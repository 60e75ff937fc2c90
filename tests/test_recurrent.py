"""Models that remember inside: a runner gives the same answer to the same input, whatever was asked before."""

import itertools

import numpy as np
import pytest

from agent.errors import ModelError
from agent.inference import open_model
from agent.settings.runtime import RuntimeOptions
from tests.realdata import ROOT, case, inference, needed
from tests.recurrent_models import make_recurrent


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
