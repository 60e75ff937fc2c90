"""A folder in which models are tried: a picture, a detector that finds a dog in it, films, sounds, a live source.

A test file makes the fixture its own: `here = pytest.fixture(trying.here)`.
"""

import json
import sys

import cv2
import numpy as np

from agent.skeleton import skeleton
from tests.console import limpet
from tests.skeleton_models import BOX_IN_640, columns, write_fixed

DOG = {4000: (BOX_IN_640, 16)}
"""A planted dog of score 0.9."""


def here(tmp_path, monkeypatch):
    """A working folder of the test's own, with street.png, and a detector in model/."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.png", np.full((480, 640, 3), 128, np.uint8))
    write_fixed(tmp_path / "model", {"output0": columns(8400, 80, DOG).T[None]}, name="yolo")
    (tmp_path / "model").chmod(0o755)
    return tmp_path


def strict(here):
    """The same, with a manifest whose threshold is above the only dog."""
    text = skeleton(here / "model" / "yolo.onnx")
    text = text.replace('step = "box_table"\n', 'step = "box_table"\nthreshold = 0.95\n')
    (here / "model" / "model.toml").write_text(text)
    return here


def tried(capsys, *words):
    """`limpet models try WORDS`: exit status, standard output, standard error."""
    return limpet(capsys, "try", *words)


def write_film(path, count=20):
    """Grey pictures, each a little brighter than the one before, ten a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    for i in range(count):
        writer.write(np.full((240, 320, 3), 10 * i, np.uint8))
    writer.release()


def write_door(folder):
    """A limpet.toml whose source `door` is a command that gives black pictures for ever."""
    code = "import sys, time\nwhile True:\n sys.stdout.buffer.write(bytes(9216)); sys.stdout.flush(); time.sleep(0.02)"
    source = f"kind = \"exec\"\nargv = {json.dumps([sys.executable, '-c', code])}\nwidth = 64\nheight = 48\n"
    (folder / "limpet.toml").write_text(f"schema = 1\n[sources.door]\n{source}")
