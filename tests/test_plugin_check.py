"""`limpet plugin`: what a package offers, and whether it keeps what steps, decoders and sources promise."""

import re

import pytest

from agent.promises import check
from pipelines import STEPS, make_step
from tests.agents import limpet
from tests.plugins import install, install_example

HEAD = """
import random, socket, time
from dataclasses import dataclass, replace
from typing import ClassVar, Literal
import numpy as np
from agent.capture.source import Closing
from agent.errors import ModelError
from agent.records import Finding, Sample, View
LIMPET_API = 1
kept = []
"""
PRE = "@dataclass(frozen=True, slots=True)\nclass It:\n    def __call__(self, view, /):\n        "
FOLLOW = """
@dataclass(frozen=True, slots=True)
class It:
    def initial(self):
        return START
    def __call__(self, state, findings, view, /):
        """
DECODER = "@dataclass(frozen=True, slots=True)\nclass It:\n    def __call__(self, outputs, view, labels, /):\n        "
SOURCE = """
@dataclass(frozen=True, slots=True)
class It:
    kind: Literal["it"]
    modality: ClassVar = "series"
    def open(self, stamp):
        return Opened(stamp)
class Opened(Closing):
    def __init__(self, stamp):
        self.stamp = stamp
        self.row = np.zeros(1)
    def counts(self):
        return {}
    def read(self, timeout_s):
        """


def told(place, kind, text, *more, status=1):
    """The lines that `limpet plugin check` prints of a package with that one offer: promise -> what is wrong."""
    group = {"decoder": "limpet.decoders", "source": "limpet.sources"}.get(kind, "limpet.steps")
    name = "it" if kind in ("decoder", "source") else f"{kind}.it"
    install(place, "extra", {group: {name: "extra:It"}}, HEAD + text)
    child = limpet("plugin", "check", place, *more)
    out, err = child.communicate(timeout=120)
    assert child.returncode == status, out + err
    assert "Traceback" not in err
    return dict(re.findall(r"^  BROKEN  (.*?): (.*)$", out, re.MULTILINE))


def test_the_example_keeps_every_promise(tmp_path):
    """And list, show and check say so."""
    site = install_example(tmp_path / "site")
    config = tmp_path / "limpet.toml"
    config.write_text(f'schema = 1\n[plugins]\nallow = ["limpet-example"]\nfolder = "{site}"\n')
    listed = limpet("plugin", "list", "--config", config).communicate(timeout=60)[0]
    assert "allowed      limpet-example 1.2.0: decoder brightest, follow streak, pre negative, source wave" in listed
    shown = limpet("plugin", "show", "limpet-example", "--config", config).communicate(timeout=60)[0]
    assert 'pre: step = "negative"\n  Pre: a picture as its negative.' in shown
    assert "  white: a whole number (1 to 255); default 255\n      What black becomes.\n" in shown
    assert 'source: kind = "wave"' in shown
    checked = limpet("plugin", "check", "limpet-example", "--config", config)
    out = checked.communicate(timeout=120)[0]
    assert checked.returncode == 0, out
    assert "BROKEN" not in out
    assert out.count("  kept    ") > 35
    assert out.endswith("every promise was kept\n")


def test_a_package_that_is_not_allowed_is_listed_and_not_imported(tmp_path):
    """`list` and `check` are how somebody decides; `list` runs nothing of it."""
    install(tmp_path / "site", "extra", {"limpet.steps": {"pre.it": "extra:It"}}, "import sys\nsys.exit('imported')\n")
    config = tmp_path / "limpet.toml"
    config.write_text(f'schema = 1\n[plugins]\nfolder = "{tmp_path / "site"}"\n')
    child = limpet("plugin", "list", "--config", config)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "not allowed  extra 1.0: pre it" in out


def test_a_package_that_is_not_found_was_looked_for_somewhere(tmp_path):
    """Which the message says, because `[plugins] folder` may be another's."""
    config = tmp_path / "limpet.toml"
    config.write_text('schema = 1\n[plugins]\nfolder = "mine"\n')
    child = limpet("plugin", "check", "./nosuch", "--config", config)
    _, err = child.communicate(timeout=60)
    said = f"./nosuch: it is no folder, and no package of that name in {tmp_path}/mine"
    assert (child.returncode, said in err) == (2, True), err


# --- broken promises --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "promise", "words"),
    [
        ("return replace(view, data=view.data + np.uint8(random.getrandbits(8)))", "the same input", "two runs"),
        ("return replace(view, t1_s=time.time())", "the same input", "no chance, no clock"),
        ("view.data[0] = 0\n        return view", "it takes some kind of input", "read-only"),
        ("view.data.flags.writeable = True\n        view.data[0] = 1\n        return view", "it writes into nothing",
         "return a new one"),
        ("open('/dev/null').close()\n        return view", "it opens no file", "open /dev/null"),
        ("socket.socket().close()\n        return view", "it opens no file", "socket"),
        ("return view.data", "what it returns", "a pre step returns a View, not ndarray"),
        ("kept.append(view); return replace(view, t0_s=float(len(kept)))", "the same input", "two runs"),
        ("raise ModelError('never')", "it takes some kind of input", "image: never"),
        ("return nothing", "it takes some kind of input", "NameError"),
    ],
)  # fmt: skip
def test_a_step_that_is_not_pure_is_found_out(tmp_path, body, promise, words):
    """Chance, clocks, memory of its own, writing, files, sockets, a wrong kind of answer."""
    broken = told(tmp_path / "site", "pre", PRE + body)
    reasons = {why for name, why in broken.items() if name.startswith(promise)}
    assert any(words in why for why in reasons), reasons


@pytest.mark.parametrize(
    ("start", "body", "promise", "words"),
    [
        ("()", "return (*state, view.t0_s), findings", "its state stays bounded", "give it a limit"),
        ("[]", "state.append(1)\n        return state, findings", "it writes into nothing", "return a new one"),
        ("None", "return (lambda: 1), findings", "its state can be put aside", "pickle"),
        ("0", "kept.append(1)\n        return state, findings[: len(kept) % 2]", "its state can be put aside",
         "keep everything that counts in the state"),
        ("0", "return state, list(findings)", "what it returns", "a tuple of Finding, not list"),
    ],
)  # fmt: skip
def test_a_step_that_remembers_wrongly_is_found_out(tmp_path, start, body, promise, words):
    """A state that grows, is changed in place, cannot be put aside, or is not all there is."""
    broken = told(tmp_path / "site", "follow", FOLLOW.replace("START", start) + body)
    [why] = {why for name, why in broken.items() if name.startswith(promise)}
    assert words in why


@pytest.mark.parametrize(
    ("body", "promise", "words"),
    [
        ("return (Finding(labels[0], 2.0),)", "it returns a tuple of findings with scores", "is 2.0"),
        ("return [Finding(labels[0], 0.5)]", "it returns a tuple of findings", "list"),
        ("return (Finding(labels[0], 0.5, (0, 0, 700, 10)),)", "its boxes lie inside the picture", "640 x 480"),
        ("return (Finding(labels[0], 0.5, (0, 0, 640, 480)),)", "in a view of a part", "use its scale and offset"),
        ("return (Finding('nobody', 0.5),)", "its labels are the model's", "'nobody' is none of the model's"),
        ("return (Finding(labels[0], float(outputs['scores'][0, 0]) % 1),)", "what is not finite", "gave Finding"),
        ("outputs['scores'].flags.writeable = True; outputs['scores'][0] = 0; return ()", "it writes into nothing",
         "not what they were"),
        ("return outputs['other']", "it reads a model's outputs", "say which outputs it reads"),
    ],
)  # fmt: skip
def test_a_decoder_that_is_wrong_is_found_out(tmp_path, body, promise, words):
    """Scores, boxes, labels, NaN, and what it writes."""
    broken = told(tmp_path / "site", "decoder", DECODER + body)
    [why] = {why for name, why in broken.items() if name.startswith(promise)}
    assert words in why


def test_a_decoder_is_told_which_outputs_it_gets(tmp_path):
    """What is not among the usual shapes is said by --set."""
    body = "assert outputs['odd'].shape == (3, 1)\n        return ()"
    assert told(tmp_path / "site", "decoder", DECODER + body, "--set", "outputs = { odd = [3, 1] }", status=0) == {}


@pytest.mark.parametrize(
    ("body", "promise", "words"),
    [
        ("time.sleep(0.9); return self.stamp.sample('series', np.zeros(1))", "a read returns within", "took 0.9 s"),
        ("return Sample('x', 7, 0, 0, 0, 'series', self.row)", "numbers go up by one", "number 7 follows 7"),
        ("return Sample('x', 7, 0, 0, 0, 'series', self.row)", "opened again", "began at 7"),
        ("return Sample('x', 7, 0, 0, 0, 'series', self.row)", "they are of its", "can be written to"),
        ("return self.stamp.sample('series', self.row)", "no array is handed out twice", "share their memory"),
        ("return self.stamp.sample('audio', np.zeros(5, np.int16))", "they are of its", "its class says series"),
        ("return self.stamp.sample('series', np.zeros(1, np.float32))", "they are of its", "this is float32 [1]"),
        ("return self.stamp.sample('series', np.zeros(1), t_s=-float(self.stamp.seq))", "numbers go up", "is earlier"),
    ],
)
def test_a_source_that_is_wrong_is_found_out(tmp_path, body, promise, words):
    """Deadlines, numbers, times, arrays."""
    broken = told(tmp_path / "site", "source", SOURCE + body)
    [why] = {why for name, why in broken.items() if name.startswith(promise)}
    assert words in why


# --- the agent's own --------------------------------------------------------------------------------------------------

MEL = {"frame_length": 400, "frame_step": 160, "fft_length": 512, "mel_bins": 20, "f_min_hz": 20.0, "f_max_hz": 7000.0}
SIZE = {"width_px": 20, "height_px": 10, "interpolation": "linear"}
CORNER = [[0.0, 0.0], [0.5, 0.0], [0.5, 0.9]]
KEYS = {
    "cells": {**SIZE, "rows": 2, "columns": 2}, "colour": {"to": "grey"}, "crop": {"box": [0.1, 0.1, 0.9, 0.9]},
    "frames": {"length_s": 0.2, "hop_s": 0.1}, "interval": {"every_s": 3.0}, "keep_labels": {"labels": ["cat"]},
    "layout": {"order": "NCHW"}, "letterbox": SIZE, "log_mel": MEL, "log_mel_frames": {**MEL, "frames": 3},
    "lines": {"line": [{"name": "gate", "start": [0.5, 0.0], "end": [0.5, 1.0]}]}, "mask": {"polygons": [CORNER]},
    "mfcc": {**MEL, "coefficients": 10}, "micro_frames": {"frames": 3}, "min_score": {"score": 0.5}, "resize": SIZE,
    "rows": {"length": 16, "hop": 8}, "running_rows": {"length": 16}, "seconds": {"length_s": 0.3},
    "select": {"channels": ["a"]}, "smooth": {"views": 3}, "top": {"n": 1}, "value_change": {"delta": 0.1},
    "value_level": {"above": 0.5}, "zones": {"zone": [{"name": "door", "polygon": CORNER}]},
}  # fmt: skip
"""Keys of steps that have required ones."""
OWN = [(kind, name) for kind, table in STEPS.items() for name in table if kind != "decoder"]


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_the_agents_own_steps_keep_the_same_promises(kind, name):
    """One suite for all: what is asked of a plugin is asked of the agent."""
    cls = type(make_step("post" if kind == "follow" else kind, {"step": name, **KEYS.get(name, {})}, "a test"))
    promises = check(kind, cls, dict(KEYS.get(name, {})), name)
    assert {one.text: one.problem for one in promises if one.problem} == {}


@pytest.mark.parametrize("name", ["classify", "boxes", "box_table", "segments", "sounds", "heatmaps"])
def test_the_agents_own_decoders_keep_the_same_promises(name):
    """Those that read the usual shapes without being told more."""
    cls = type(make_step("decoder", {"step": name}, "a test"))
    assert {one.text: one.problem for one in check("decoder", cls, {}, name) if one.problem} == {}
