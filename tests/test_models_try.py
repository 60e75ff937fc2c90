"""`limpet models try`: every kind of input through the agent's own steps, drawn, told and shown."""


import cv2
import numpy as np
import pytest

from agent.cli.tryinput import input_of
from agent.drawing.colours import colour_of
from agent.errors import ConfigError
from agent.records import View
from agent.settings.capture import V4l2Config
from agent.skeleton import skeleton
from agent.skeleton.label_sets import COCO
from agent.tryout import over_source
from tests import trying
from tests.realdata import REPO, ROOT, needed
from tests.recordings import write_tone
from tests.skeleton_models import write_fixed
from tests.trying import tried, write_door, write_film

here = pytest.fixture(trying.here)


def test_a_bare_model_file_is_tried_on_a_picture_at_once(here, capsys):
    """The guess in memory: a box on the PNG, a line in the table, times; nothing is written beside the model."""
    status, out, err = tried(capsys, "model/yolo.onnx", "street.png")
    assert status == 0
    assert "  dog  0.900  [270, 135, 370, 185]\n" in out
    assert "median ms: pre " in out
    assert "drawn in street.limpet.png\n" in out
    assert "guessed from yolo.onnx" in err
    made = cv2.imread("street.limpet.png")
    factor = made.shape[1] / 640
    at = made[round(160 * factor), round(270 * factor)]
    assert np.abs(at.astype(int) - colour_of("dog", COCO)).max() < 20
    assert [file.name for file in (here / "model").iterdir()] == ["yolo.onnx"]


def test_a_folder_and_an_installed_name_are_tried_with_their_own_manifest(here, capsys):
    """The manifest counts, not a guess; --out says where the drawing goes."""
    text = skeleton(here / "model" / "yolo.onnx").replace('"dog"', '"hound"')
    (here / "model" / "model.toml").write_text(text)
    status, out, err = tried(capsys, "model", "street.png", "--out", "there.png")
    assert (status, "hound  0.900" in out, err) == (0, True, "")
    assert (here / "there.png").exists()
    (here / "roots").mkdir()
    (here / "model").rename(here / "roots" / "yolo")
    status, out, _ = tried(capsys, "yolo", "street.png", "--folder", here / "roots")
    assert (status, "hound" in out) == (0, True)


def test_the_terminal_shows_it_when_asked(here, capsys):
    """Half blocks in 24-bit colour; none without a terminal."""
    assert "▀" in tried(capsys, "model/yolo.onnx", "street.png", "--show")[1]
    assert "▀" not in tried(capsys, "model/yolo.onnx", "street.png")[1]


def test_a_film_becomes_a_sheet_of_pictures_spread_over_it(here, capsys):
    """As many as asked, first and last among them; on a terminal each is drawn over the one before."""
    write_film("street.avi")
    status, out, _ = tried(capsys, "model/yolo.onnx", "street.avi", "--frames", "4", "--show")
    assert status == 0
    assert "4 views, 4 findings" in out
    times = [line.split()[-2] for line in out.splitlines() if line.startswith("  dog")]
    assert times == ["0.00", "0.60", "1.30", "1.90"]
    assert out.count("\x1b[22A") == 3
    values = cv2.imread("street.limpet.png")[:, :, 0]
    assert all((np.abs(values.astype(int) - level) <= 3).sum() > 10_000 for level in (0, 60, 130, 190))


PIPELINE = """
schema = 1
name = "p"
source = "s"
[model]
name = "m"
[[post]]
step = "tracks"
[[post]]
step = "zones"
[[post.zone]]
name = "yard"
polygon = [[0, 0], [1, 0], [1, 1], [0, 1]]
[[rule]]
kind = "appears"
label = "dog#*"
"""


def test_steps_of_a_pipeline_are_tried_with_the_model(here, capsys):
    """Tracks are numbered and zones told, although only some pictures of the film are drawn: it sees all of them."""
    write_film("street.avi")
    (here / "p.toml").write_text(PIPELINE)
    status, out, _ = tried(capsys, "model/yolo.onnx", "street.avi", "--frames", "3", "--pipeline", "p.toml")
    assert (status, "20 views" in out) == (0, True)
    assert "dog#1" in out
    assert "yard/dog#1" in out
    yard = cv2.imread("street.limpet.png")
    assert (np.abs(yard.astype(int) - colour_of("yard")).max(axis=2) < 30).sum() > 200


def test_a_live_source_of_the_configuration_is_tried(here, capsys):
    """Some pictures, half a second apart, of a command's endless frames; then the command is gone."""
    write_door(here)
    status, out, _ = tried(capsys, "model/yolo.onnx", "door", "--config", "limpet.toml", "--frames", "2")
    assert (status, "2 views" in out) == (0, True)
    assert (here / "door.limpet.png").exists()


def test_a_sound_becomes_a_plot_with_its_spans(here, capsys):
    """Windows as in a pipeline, at the rate that the window is for; findings with their seconds."""
    write_tone(here / "bell.wav", 3.0)
    scores = np.full((1, 521), 0.01, np.float32)
    scores[0, 7] = 0.8
    write_fixed(here / "bells", {"scores": scores}, shape=(1, 15600), name="sounds")
    status, out, _ = tried(capsys, "bells/sounds.onnx", "bell.wav")
    assert status == 0
    assert "  7  0.800  0.00-0.97 s" in out
    made = cv2.imread("bell.limpet.png")
    labels = [str(i) for i in range(521)]
    assert (np.abs(made.astype(int) - colour_of("7", labels)).max(axis=2) < 3).sum() > 1000


def test_sound_is_read_at_the_rate_of_the_models_window(here, capsys):
    """44,032 samples are one second at 44.1 kHz, whatever the file's own rate is."""
    write_tone(here / "bell.wav", 2.5, rate=8000)
    write_fixed(here / "bells", {"scores": np.array([[0.1, 0.9]])}, shape=(1, 44032), name="browser")
    status, out, _ = tried(capsys, "bells/browser.onnx", "bell.wav")
    assert (status, "  1  0.900  0.00-1.00 s" in out) == (0, True)


def test_rows_become_a_plot_per_channel(capsys, here):
    """A factory model on a table: the anomaly is told with its time, and tinted."""
    status, out, _ = tried(capsys, "series", REPO / "models" / "series" / "golden" / "spike.csv")
    assert status == 0
    assert "anomaly" in out
    assert cv2.imread("spike.limpet.png").shape[1] == 1400


def test_what_cannot_be_tried_is_told_with_what_to_do(here, capsys):
    """Model, input, options: which, and what to do instead; nothing is drawn."""
    write_tone(here / "bell.wav", 1.0)
    (here / "notes.txt").write_text("hello")
    (here / "bad.onnx").write_bytes(b"no model")
    (here / "empty").mkdir()
    (here / "roots" / "yolo").mkdir(parents=True)
    (here / "roots" / "yolo" / "model.toml").touch()
    model = "model/yolo.onnx"
    cases = [
        (1, ("bad.onnx", "street.png"), "refuses the model"),
        (2, ("empty", "street.png"), "there is no model.toml in it: it holds no model either"),
        (2, ("model", "street.png"), "write one: limpet models new model/yolo.onnx --write"),
        (2, ("roots", "street.png"), "name one of the models in it: roots/yolo"),
        (1, ("nosuch", "street.png"), "model 'nosuch' is in none of"),
        (2, (model, "nosuch.png"), "nosuch.png: there is no such file"),
        (1, (model, "notes.txt"), "notes.txt"),
        (1, (model, "bell.wav"), "bell.wav: is audio, but image is wanted"),
        (2, (model, "door"), "INPUT 'door' is no file, and for a source of that name there is no configuration"),
        (1, (model, "camera:99"), "/dev/video99: there is no such camera: plug it in"),
        (2, (model, "rtsp://me:secret@cam/x"), "credentials_file"),
        (2, (model, "street.png", "--out", "x.jpg"), "it must end with .png"),
        (2, (model, "street.png", "--out", "no/x.png"), "there is no folder no"),
        (2, (model, "street.png", "--frames", "0"), "--frames 0: it must be 1 to 64"),
        (2, (model, "street.png", "--threads", "0"), "--threads 0"),
        (2, (model, "street.png", "--seconds", "0"), "--seconds 0"),
    ]
    for status, words, told in cases:
        got, _, err = tried(capsys, *words)
        assert (got, told in err) == (status, True), (words, err)
        assert "secret" not in err
    assert not list(here.glob("*.limpet.png"))


def test_a_drawing_that_cannot_be_written_is_told(here, capsys):
    """The folder of that name is not overwritten."""
    (here / "street.limpet.png").mkdir()
    status, _, err = tried(capsys, "model/yolo.onnx", "street.png")
    assert status == 2
    assert "street.limpet.png: the drawing cannot be written" in err


def test_input_words_name_files_cameras_streams_and_sources(here):
    """A file wins, so that a file called camera is a file."""
    assert input_of("camera:3", here / "x.toml") == V4l2Config(device=V4l2Config().device.with_name("video3"))
    (here / "camera").write_bytes(b"x")
    assert input_of("camera", here / "x.toml").name == "camera"
    (here / "limpet.toml").write_text('schema = 1\n[sources.a]\nkind = "v4l2"\n[sources.b]\nkind = "wrong"\n')
    with pytest.raises(ConfigError, match=r"neither a file nor a source of .*, which has a: give"):
        input_of("c", here / "limpet.toml")
    with pytest.raises(ConfigError, match="kind"):
        input_of("b", here / "limpet.toml")


def test_a_map_of_a_letterboxed_picture_lies_over_the_source():
    """Rows that the letterbox added show nothing of the source, and the source is covered whole."""
    numbers = np.zeros((64, 64), int)
    numbers[8:56] = 1  # where the picture is
    view = View(np.zeros((640, 640, 3), np.uint8), size=(1280, 960), scale=(2.0, 2.0), offset=(0.0, -160.0))
    laid = over_source(numbers, view)
    assert laid.shape == (960, 1280)
    assert (laid == 1).all()


@needed
@pytest.mark.parametrize(("model", "file", "told"), [
    ("vww_96_int8.tflite", "man_in_red_jacket.png", "person  "),
    ("deeplabv3_mnv2_dm05_pascal_quant.tflite", "bird_segmentation.bmp", "bird  "),
    ("movenet_single_pose_lightning_ptq.tflite", "squat.bmp", "left knee"),
    ("version-RFB-320.onnx", "face.jpg", "face  1.000"),
    ("silero_vad.onnx", "short_wav_easy10s.wav", "speech"),
    ("micro_speech_quantized.tflite", "yes_features_int8.npy", "yes"),
])  # fmt: skip
def test_public_models_are_tried_from_their_bare_file(tmp_path, monkeypatch, capsys, model, file, told):
    """Nobody edited anything, and nothing looks wrong."""
    monkeypatch.chdir(tmp_path)
    status, out, _ = tried(capsys, ROOT / "models" / model, ROOT / "inputs" / file)
    assert (status, told in out, "looks wrong" in out) == (0, True, False), out
    assert len(list(tmp_path.glob("*.limpet.png"))) == (not file.endswith(".npy"))
