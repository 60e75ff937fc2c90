"""`limpet models try`: every kind of input through the agent's own steps, drawn, told and shown."""

import json
import sys
import wave

import cv2
import numpy as np
import pytest

from agent.cli import main
from agent.cli.tryinput import input_of
from agent.drawing.colours import colour_of
from agent.errors import ConfigError
from agent.manifest import load_manifest
from agent.records import Finding, View
from agent.settings.capture import V4l2Config
from agent.skeleton import skeleton
from agent.skeleton.known import COCO
from agent.tryout import over_source, smells, variants
from tests.realdata import MANIFESTS, REPO, ROOT, needed
from tests.skeleton_models import columns, write_fixed

DOG = {4000: ((320, 240, 100, 50), 16)}
"""A planted dog, centre and size in the letterboxed picture of 640 x 640."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder of the test's own, with a picture and a detector in it."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.png", np.full((480, 640, 3), 128, np.uint8))
    write_fixed(tmp_path / "model", {"output0": columns(8400, 80, DOG).T[None]}, name="yolo")
    (tmp_path / "model").chmod(0o755)
    return tmp_path


def limpet(capsys, *words):
    status = main(["models", "try", *map(str, words)])
    out = capsys.readouterr()
    return status, out.out, out.err


def write_sound(path, seconds, rate=16000):
    t = np.arange(round(seconds * rate)) / rate
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((8000 * np.sin(2 * np.pi * 440 * t)).astype("<i2").tobytes())


def test_a_bare_model_file_is_tried_on_a_picture_at_once(here, capsys):
    """The guess in memory: a box on the PNG, a line in the table, times; nothing is written beside the model."""
    status, out, err = limpet(capsys, "model/yolo.onnx", "street.png")
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
    status, out, err = limpet(capsys, "model", "street.png", "--out", "there.png")
    assert (status, "hound  0.900" in out, err) == (0, True, "")
    assert (here / "there.png").exists()
    (here / "roots").mkdir()
    (here / "model").rename(here / "roots" / "yolo")
    status, out, _ = limpet(capsys, "yolo", "street.png", "--folder", here / "roots")
    assert (status, "hound" in out) == (0, True)


def test_the_terminal_shows_it_when_asked(here, capsys):
    """Half blocks in 24-bit colour; none without a terminal."""
    assert "▀" in limpet(capsys, "model/yolo.onnx", "street.png", "--show")[1]
    assert "▀" not in limpet(capsys, "model/yolo.onnx", "street.png")[1]


def film(path, count=20):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    for i in range(count):
        writer.write(np.full((240, 320, 3), 10 * i, np.uint8))
    writer.release()


def test_a_film_becomes_a_sheet_of_pictures_spread_over_it(here, capsys):
    """As many as asked, first and last among them; on a terminal each is drawn over the one before."""
    film("street.avi")
    status, out, _ = limpet(capsys, "model/yolo.onnx", "street.avi", "--frames", "4", "--show")
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
    film("street.avi")
    (here / "p.toml").write_text(PIPELINE)
    status, out, _ = limpet(capsys, "model/yolo.onnx", "street.avi", "--frames", "3", "--pipeline", "p.toml")
    assert (status, "20 views" in out) == (0, True)
    assert "dog#1" in out
    assert "yard/dog#1" in out
    yard = cv2.imread("street.limpet.png")
    assert (np.abs(yard.astype(int) - colour_of("yard")).max(axis=2) < 30).sum() > 200


def test_a_live_source_of_the_configuration_is_tried(here, capsys):
    """Some pictures, half a second apart, of a command's endless frames; then the command is gone."""
    code = "import sys, time\nwhile True:\n sys.stdout.buffer.write(bytes(9216)); sys.stdout.flush(); time.sleep(0.02)"
    source = f"kind = \"exec\"\nargv = {json.dumps([sys.executable, '-c', code])}\nwidth = 64\nheight = 48\n"
    (here / "limpet.toml").write_text(f"schema = 1\n[sources.door]\n{source}")
    status, out, _ = limpet(capsys, "model/yolo.onnx", "door", "--config", "limpet.toml", "--frames", "2")
    assert (status, "2 views" in out) == (0, True)
    assert (here / "door.limpet.png").exists()


def test_a_sound_becomes_a_plot_with_its_spans(here, capsys):
    """Windows as in a pipeline, at the rate that the window is for; findings with their seconds."""
    write_sound("bell.wav", 3.0)
    scores = np.full((1, 521), 0.01, np.float32)
    scores[0, 7] = 0.8
    write_fixed(here / "bells", {"scores": scores}, shape=(1, 15600), name="sounds")
    status, out, _ = limpet(capsys, "bells/sounds.onnx", "bell.wav")
    assert status == 0
    assert "  7  0.800  0.00-0.97 s" in out
    made = cv2.imread("bell.limpet.png")
    labels = [str(i) for i in range(521)]
    assert (np.abs(made.astype(int) - colour_of("7", labels)).max(axis=2) < 3).sum() > 1000


def test_sound_is_read_at_the_rate_of_the_models_window(here, capsys):
    """44,032 samples are one second at 44.1 kHz, whatever the file's own rate is."""
    write_sound("bell.wav", 2.5, rate=8000)
    write_fixed(here / "bells", {"scores": np.array([[0.1, 0.9]])}, shape=(1, 44032), name="browser")
    status, out, _ = limpet(capsys, "bells/browser.onnx", "bell.wav")
    assert (status, "  1  0.900  0.00-1.00 s" in out) == (0, True)


def test_rows_become_a_plot_per_channel(capsys, here):
    """A factory model on a table: the anomaly is told with its time, and tinted."""
    status, out, _ = limpet(capsys, "series", REPO / "models" / "series" / "golden" / "spike.csv")
    assert status == 0
    assert "anomaly" in out
    assert cv2.imread("spike.limpet.png").shape[1] == 1400


def test_what_cannot_be_tried_is_told_with_what_to_do(here, capsys):
    """Model, input, options: which, and what to do instead; nothing is drawn."""
    write_sound("bell.wav", 1.0)
    (here / "notes.txt").write_text("hello")
    (here / "bad.onnx").write_bytes(b"no model")
    (here / "empty").mkdir()
    model = "model/yolo.onnx"
    cases = [
        (1, ("bad.onnx", "street.png"), "refuses the model"),
        (2, ("empty", "street.png"), "there is no model.toml in it: it holds no model either"),
        (2, ("model", "street.png"), "write one: limpet models new model/yolo.onnx --write"),
        (1, ("nosuch", "street.png"), "model 'nosuch' is in none of"),
        (2, (model, "nosuch.png"), "nosuch.png: there is no such file"),
        (1, (model, "notes.txt"), "notes.txt"),
        (1, (model, "bell.wav"), "bell.wav: is audio, but image is wanted"),
        (2, (model, "door"), "INPUT 'door' is neither a file nor a source"),
        (1, (model, "camera:99"), "/dev/video99: there is no such camera: plug it in"),
        (2, (model, "rtsp://me:secret@cam/x"), "credentials_file"),
        (2, (model, "street.png", "--out", "x.jpg"), "it must end with .png"),
        (2, (model, "street.png", "--out", "no/x.png"), "there is no folder no"),
        (2, (model, "street.png", "--frames", "0"), "--frames 0: it must be 1 to 64"),
        (2, (model, "street.png", "--threads", "0"), "--threads 0"),
        (2, (model, "street.png", "--seconds", "0"), "--seconds 0"),
    ]
    for status, words, told in cases:
        got, _, err = limpet(capsys, *words)
        assert (got, told in err) == (status, True), (words, err)
        assert "secret" not in err
    assert not list(here.glob("*.limpet.png"))


def test_a_drawing_that_cannot_be_written_is_told(here, capsys):
    """The folder of that name is not overwritten."""
    (here / "street.limpet.png").mkdir()
    status, _, err = limpet(capsys, "model/yolo.onnx", "street.png")
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


# ---- other ways to prepare a picture


def brightness(folder):
    """A classifier that calls a picture bright or dark by the mean of its numbers, taken for 0..1."""
    import onnx
    from onnx import TensorProto, helper

    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    number = lambda name, value: helper.make_tensor(name, TensorProto.FLOAT, [], [value])  # noqa: E731
    one = [number("one", 1.0), number("zero", 0.0), helper.make_tensor("shape", TensorProto.INT64, [2], [1, 1])]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1),
        helper.make_node("Clip", ["mean", "zero", "one"], ["m"]),
        helper.make_node("Reshape", ["m", "shape"], ["bright"]), helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["bright", "dark"], ["y"], axis=1),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "brightness", [takes], [gives], one)
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "b.onnx")
    return folder / "b.onnx"


def test_one_picture_is_compared_in_all_the_ways_models_want(here, capsys):
    """A line for each of 16, the surest first, the manifest's own marked; a sheet of as many drawings."""
    cv2.imwrite("grey.png", np.full((64, 64, 3), 77, np.uint8))
    status, out, _ = limpet(capsys, brightness(here / "b"), "grey.png", "--compare")
    lines = [line for line in out.splitlines() if line.startswith("  ")]
    assert (status, len(lines)) == (0, 16)
    (now,) = [line for line in lines if "(as it is now)" in line]
    assert "stretched, rgb, 0..1" in now
    assert "1 0.698, 0 0.302" in now
    scores = [float(line.rsplit(" ", 3)[-3].rstrip(",")) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert cv2.imread("grey.limpet.png").shape[1] > 1000


def test_what_takes_no_picture_is_not_compared(here, capsys):
    """And it says so."""
    write_sound("bell.wav", 1.0)
    path = write_fixed(here / "bells", {"scores": np.array([[0.1, 0.9]])}, shape=(1, 16000))
    status, _, err = limpet(capsys, path, "bell.wav", "--compare")
    assert (status, "--compare is for models that take a picture" in err) == (2, True)


def test_ports_of_whole_numbers_vary_in_colour_and_fit_alone():
    """Their range stands in scale and zero point; the steps of other inputs and other kinds stay."""
    ways = dict(variants(load_manifest(MANIFESTS / "traffic")))
    pairs = [(fit, colour) for fit in ("letterbox", "stretched") for colour in ("bgr", "rgb")]
    assert sorted(ways) == [f"{fit}, {colour}, as it is" for fit, colour in pairs]
    steps = ways["letterbox, bgr, as it is"].pre
    assert [step["step"] for step in steps] == ["letterbox", "colour"]
    fastest = dict(variants(load_manifest(MANIFESTS / "fastestdet")))
    assert fastest["stretched, rgb, -1..1"].pre[1:] == (
        {"step": "colour", "to": "rgb"}, {"step": "normalise", "mean": [127.5], "std": [127.5]})  # fmt: skip
    assert not list(variants(load_manifest(MANIFESTS / "silero-vad")))


# ---- what looks wrong


def smelt(manifest, fed=None, outputs=(), found=()):
    return "\n".join(smells(manifest, (fed or {}, found[0][0] if found else None), outputs, found))


def described(name, **decoder):
    """A written manifest with another decoder."""
    import dataclasses

    return dataclasses.replace(load_manifest(MANIFESTS / name), decoder=decoder)


def test_logits_told_as_scores_are_smelt():
    """The words name the key to set; scores between 0 and 1 are in order."""
    manifest = described("vww", step="classify")
    assert 'activation = "softmax"' in smelt(manifest, outputs=[{"Identity_int8": np.array([[-3.0, 7.0]])}])
    assert smelt(manifest, outputs=[{"Identity_int8": np.array([[0.2, 0.8]])}]) == ""


def test_a_range_that_saturates_the_input_is_smelt():
    """Pixels of a grey picture that all became the largest value; a black picture may be black."""
    manifest, grey = described("vww", step="classify"), View(np.full((9, 9, 3), 99, np.uint8), size=(9, 9))
    full = np.full((1, 9, 9, 3), 127, np.int8)
    full[0, 0] = 5
    assert "is the largest value of int8, of the picture only 0%" in smelt(manifest, {"x": full}, found=[(grey, ())])
    black = View(np.zeros((9, 9, 3), np.uint8), size=(9, 9))
    dark = np.full((1, 9, 9, 3), -128, np.int8)
    dark[0, 0, 0] = 3
    assert smelt(manifest, {"x": dark}, found=[(black, ())]) == ""
    assert "every number of input 'x' is 127" in smelt(manifest, {"x": np.full((1, 4), 127, np.int8)})


def test_scores_that_are_all_alike_or_never_change_are_smelt():
    """In one view, and over several."""
    manifest = described("vww", step="classify")
    assert "all scores" in smelt(manifest, outputs=[{"Identity_int8": np.full((1, 2), 0.5)}])
    views = [{"Identity_int8": np.array([[0.3, 0.7]])}] * 3
    assert "3 views gave the same scores" in smelt(manifest, outputs=views)


def test_boxes_of_no_size_or_of_the_whole_picture_are_smelt():
    """Which unit to set; and more boxes than are told at most."""
    manifest, view = described("traffic", step="boxes"), View(np.zeros((9, 9, 3), np.uint8), size=(300, 200))
    tiny = tuple(Finding("a", 0.9, (0.1, 0.1, 0.9, 0.9)) for _ in range(3))
    assert 'unit = "fraction"' in smelt(manifest, found=[(view, tiny)])
    whole = tuple(Finding("a", 0.5 + i / 10, (0, 0, 300, 200)) for i in range(3))
    assert 'unit = "px"' in smelt(manifest, found=[(view, whole)])
    crowd = tuple(Finding("a", 0.9, (0, 0, 50, 50)) for _ in range(100))
    assert "raise threshold" in smelt(manifest, found=[(view, crowd)])
    assert "100 boxes, all 'a' and all with one score" in smelt(manifest, found=[(view, crowd)])
    assert "scores lie outside of 0 to 1" in smelt(manifest, found=[(view, (Finding("a", 3.0, (0, 0, 50, 50)),))])
    good = (Finding("a", 0.9, (0, 0, 50, 50)),)
    assert smelt(manifest, found=[(view, good)]) == ""


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
    status, out, _ = limpet(capsys, ROOT / "models" / model, ROOT / "inputs" / file)
    assert (status, told in out, "looks wrong" in out) == (0, True, False), out
    assert len(list(tmp_path.glob("*.limpet.png"))) == (not file.endswith(".npy"))
