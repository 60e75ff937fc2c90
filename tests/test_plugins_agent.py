"""Plugins in a real agent, in `limpet check` and in `limpet replay`."""

import json

import cv2
import numpy as np
import pytest

from tests import plugins
from tests.agents import limpet, running, site, status
from tests.plugins import install_example
from tests.tiny_models import make_model

place = pytest.fixture(plugins.place)

WAVE = """
schema = 1
name = "wave"
source = "sea"
[detector]
step = "streaming_zscore"
warm_rows = 2
always = true
[[post]]
step = "streak"
views = 3
[[rule]]
kind = "every"
period_s = 0.2
"""


def test_a_real_agent_runs_with_a_plugin(place, tmp_path):
    """A plugin's source feeds a pipeline with a plugin's step; `status` and `check` name the package; a pipeline that
    names what is not allowed is left out, and the others run."""
    install_example(place)
    (tmp_path / "wave.toml").write_text(WAVE)
    (tmp_path / "bad.toml").write_text(WAVE.replace('"wave"', '"bad"').replace("streak", "other_streak"))
    with site(tmp_path) as made:
        made.add("sea", tmp_path / "wave.toml", kind="wave", rows_hz=50)
        made.add("more", tmp_path / "bad.toml", kind="wave")
        made.extra = f'[plugins]\nallow = ["limpet-example", "nowhere"]\nfolder = "{place}"\n'
        config, _ = made.write()
        with running(config, tmp_path / "agent.log"):
            told = status(made.socket, lambda s: s["pipelines"]["wave"]["events"] > 3)
            words = limpet("status", "--config", config).communicate(timeout=30)[0]
    assert told["plugins"] == {"limpet-example": "1.2.0"}
    assert "plugin limpet-example 1.2.0" in words
    assert told["health"] == "degraded"
    assert any("plugin nowhere" in reason and "is not installed" in reason for reason in told["reasons"])
    assert any("'other_streak' is no post step" in reason for reason in told["reasons"])
    out = limpet("check", "--config", config, "--json").communicate(timeout=60)[0]
    looked = {line["what"]: line["ok"] for line in map(json.loads, out.splitlines())}
    assert looked["plugin limpet-example 1.2.0: decoder brightest, follow streak, pre negative, source wave"]
    assert looked["pipeline wave"]
    assert not looked["plugin nowhere"]
    assert not looked["pipeline bad"]


def test_check_names_what_is_installed_and_not_allowed(place, tmp_path):
    """It is no problem, but somebody may have forgotten to allow it."""
    install_example(place)
    with site(tmp_path) as made:
        made.extra = f'[plugins]\nfolder = "{place}"\n'
        config, _ = made.write()
        out = limpet("check", "--config", config, "--json").communicate(timeout=60)[0]
    looked = {line["what"]: line["ok"] for line in map(json.loads, out.splitlines())}
    assert looked["plugin limpet-example 1.2.0: installed and not allowed, so none of it is used"]


def test_a_replay_goes_through_a_plugins_step_and_decoder(place, tmp_path):
    """A dark spot on a bright picture: its negative's brightest cell is where it was."""
    install_example(place)
    steps = """
[[pre]]
step = "negative"
[[pre]]
step = "colour"
to = "grey"
[[pre]]
step = "resize"
width_px = 8
height_px = 6
interpolation = "area"
[[pre]]
step = "normalise"
divide_by = 255.0
[decoder]
step = "brightest"
min_score = 0.9
"""
    make_model(tmp_path / "map", "copy", "onnx", shape=(1, 6, 8))
    text = (tmp_path / "map" / "model.toml").read_text().replace('"tensor"', '"image"\nlabels = ["spot"]')
    (tmp_path / "map" / "model.toml").write_text(text.replace("[[artifact]]", steps + "[[artifact]]"))
    (tmp_path / "look.toml").write_text('schema = 1\nname = "look"\nsource = "eye"\n[model]\nname = "map"\n')
    (tmp_path / "limpet.toml").write_text(
        f'schema = 1\n[plugins]\nallow = ["limpet-example"]\nfolder = "{place}"\n[sources.eye]\nkind = "load"\n'
    )
    picture = np.full((48, 64, 3), 255, np.uint8)
    picture[8:16, 40:48] = 0
    cv2.imwrite(str(tmp_path / "spot.png"), picture)
    words = ["--pipeline", tmp_path / "look.toml", tmp_path / "spot.png", "--config", tmp_path / "limpet.toml"]
    out, err = limpet("replay", *words, "--json").communicate(timeout=60)
    found = [line["findings"] for line in map(json.loads, out.splitlines()) if "findings" in line]
    assert found == [[{"label": "spot", "score": 1.0, "box": [40.0, 8.0, 48.0, 16.0]}]], (out, err)
