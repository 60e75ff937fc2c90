"""A source's mask is burned in before anything else of the agent has the picture, and cannot be got around."""

import base64
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from agent.capture import file_samples, open_source
from agent.clock import SystemClock
from agent.commands.snapshot import Shutter, media
from agent.errors import CaptureError, ConfigError
from agent.settings.capture import ExecConfig, MaskConfig, ReplayConfig, SourceConfig
from agent.strict import build_any
from pipelines.image import decode_image

MASK = MaskConfig(polygons=(((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)),))
"""The right half."""


def pictures(folder, count=3, width=80, height=60):
    folder.mkdir()
    for i in range(count):
        assert cv2.imwrite(str(folder / f"{i}.png"), np.full((height, width, 3), 150 + i, np.uint8))
    return folder


def check_hidden(image, width=80):
    assert (image[:, width // 2 :] == 0).all()
    assert (image[:, : width // 2] >= 149).all()


def test_every_picture_of_a_source_is_masked(tmp_path):
    """Recorded pictures and raw frames of a command, the first one too; samples stay read-only."""
    folder = pictures(tmp_path / "pictures")
    frame = "import sys; sys.stdout.buffer.write(bytes([150]) * (80 * 60 * 3) * 3)"
    command = ExecConfig(argv=(sys.executable, "-c", frame), width=80, height=60, on_exit="end", mask=MASK)
    for config in (ReplayConfig(path=folder, speed="max", mask=MASK), command):
        with open_source("door", config, SystemClock()) as source:
            seen = []
            while len(seen) < 3:
                seen += [sample for sample in (source.read(5.0),) if sample is not None]
        for sample in seen:
            check_hidden(sample.data)
            assert not sample.data.flags.writeable


def test_a_snapshot_shows_what_the_mask_leaves(tmp_path):
    """What leaves the device as a picture was masked where it was made."""
    config = ReplayConfig(path=pictures(tmp_path / "pictures"), speed="max", mask=MASK)
    shutter = Shutter()
    shutter.open(1.0)
    with open_source("door", config, SystemClock()) as source:
        shutter.put(source.read(5.0))
    image = decode_image(base64.b64decode(media(shutter.taken(), 640)["base64"]), "snapshot")
    assert image[:, 44:].max() < 20  # JPEG rings a little at the seam
    assert image[:, :36].min() > 130


def test_two_pictures_that_differ_behind_the_mask_are_the_same_picture(tmp_path):
    """What is hidden reaches no digest, so a cache cannot tell either."""
    folder = pictures(tmp_path / "pictures", 2)
    for i in range(2):
        image = np.full((60, 80, 3), 150, np.uint8)
        image[:, 41:] = 10 + 90 * i
        assert cv2.imwrite(str(folder / f"{i}.png"), image)
    settings = ReplayConfig(path=folder, mask=MASK)
    one, two = (sample.data for sample in file_samples(folder, "auto", SystemClock(), settings))
    assert one.tobytes() == two.tobytes()


def test_what_is_no_picture_cannot_pass_a_mask(tmp_path):
    """An array or a sound from a source that has a mask is an error, not a sample."""
    np.save(tmp_path / "x.npy", np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(CaptureError, match="has a mask but delivers tensor: take the mask out"):
        list(file_samples(tmp_path / "x.npy", "auto", SystemClock(), ReplayConfig(path=tmp_path, mask=MASK)))


CAMERA = {"kind": "url", "url": "rtsp://camera/1", "mask": {"polygons": [[[0, 0], [1, 0], [1, 1]]]}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modality": "audio"}, "a mask needs modality = 'image'"),
        ({"mask": {"polygons": []}}, "1 to 64"),
        ({"mask": {"polygons": [[[0, 0], [1, 0]]]}}, "3 to 64"),
        ({"mask": {"polygons": [[[0, 0], [9, 0], [9, 9]]]}}, "corners .* from 0 to 1"),
        ({"mask": {"polygons": [[[0, 0], [0.5, 0.5], [1, 1]]]}}, "has no area"),
        ({"kind": "exec", "argv": ["x"], "output": "pcm"}, "has no pictures that a mask could be painted on"),
        ({"kind": "microphone"}, "unknown key 'mask'"),
    ],
)
def test_masks_that_would_hide_nothing_are_refused(change, words):
    """By `limpet check`, before the camera is opened."""
    assert build_any(SourceConfig, CAMERA, "limpet.toml [sources.door]").mask.fill == 0
    table = {**CAMERA, **change}
    if table["kind"] != "url":
        del table["url"]
    with pytest.raises(ConfigError, match=words):
        build_any(SourceConfig, table, "limpet.toml [sources.door]")


PIPELINE = """
schema = 1
name = "still"
source = "door"
[detector]
step = "streaming_zscore"
"""


def test_a_recording_is_replayed_through_the_mask_of_the_camera(tmp_path):
    """`limpet replay` of a pipeline whose camera has a mask: the recording is masked as the camera is."""
    from agent.cli.replay import _settings_of
    from agent.config import load_config, load_pipeline

    (tmp_path / "limpet.toml").write_text(
        'schema = 1\n[sources.door]\nkind = "v4l2"\n[sources.door.mask]\npolygons = [[[0,0],[1,0],[1,1]]]\n'
    )
    (tmp_path / "still.toml").write_text(PIPELINE)
    path = tmp_path / "limpet.toml"
    settings = _settings_of(load_pipeline(tmp_path / "still.toml"), load_config(path), path)
    (sample,) = file_samples(pictures(tmp_path / "p", 1), "auto", SystemClock(), replace(settings, path=tmp_path))
    assert sample.data[5, 70].tolist() == [0, 0, 0]
    assert sample.data[55, 5].tolist() == [150, 150, 150]
