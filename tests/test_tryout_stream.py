"""What `limpet models try` remembers and says of a stream of views, and of a file that no runtime takes."""

import numpy as np
import pytest

from agent.loading import open_model
from agent.manifest import load_manifest
from agent.records import View
from agent.tryout import Tryout
from tests import trying
from tests.realdata import MANIFESTS, ROOT, needed
from tests.trying import strict, tried, write_film

here = pytest.fixture(trying.here)

TRACKED = """
schema = 1
name = "p"
source = "s"
[model]
name = "m"
[[post]]
step = "tracks"
[[rule]]
kind = "appears"
"""


def test_views_are_remembered_all_over_a_stream(here):
    """Few, whatever its length, and not its first second alone: many sounds begin with silence."""
    strict(here)
    manifest = load_manifest(here / "model")
    one = Tryout(manifest, open_model(manifest))
    picture = np.zeros((64, 64, 3), np.uint8)
    for i in range(75):
        one.look(View(picture, t0_s=float(i), size=(64, 64)))
        assert 1 <= len(one.kept) <= 8
    assert [seen.view.t0_s for seen in one.kept] == [0.0, 16.0, 32.0, 48.0, 64.0]


def test_findings_in_pictures_that_are_not_drawn_are_not_counted_as_none(here, capsys):
    """20 pictures, 3 drawn: the line says what its count is of."""
    write_film(here / "street.avi")
    (here / "p.toml").write_text(TRACKED)
    _, out, _ = tried(capsys, "model/yolo.onnx", "street.avi", "--frames", "3", "--pipeline", "p.toml")
    assert ": 20 views, 2 findings in those that are drawn\n" in out
    _, out, _ = tried(capsys, "model/yolo.onnx", "street.avi", "--frames", "3")
    assert ": 3 views, 3 findings\n" in out


@needed
def test_a_quiet_beginning_does_not_look_wrong(here, capsys):
    """A streaming wake word model, and words that are not its own: all is as it should be."""
    sound = ROOT / "inputs" / "right_left_up.wav"
    status, out, _ = tried(capsys, MANIFESTS / "wakeword", sound, "--artifacts", ROOT)
    assert (status, "nothing found: best 0.0" in out, "looks wrong" in out) == (0, True, False)


@needed
def test_a_refusal_fits_on_the_screen_and_says_what_to_do(here, capsys):
    """The runtime says the same of each of fifteen tensors."""
    status, _, err = tried(capsys, ROOT / "models" / "person_detect.tflite", "street.png")
    assert (status, "refuses the model: quantized_dimension must be in range" in err) == (1, True)
    assert err.endswith(" ...: convert it again for LiteRT, or take another\n")
    assert len(err) < 480 + len(str(ROOT))
