"""The running agent answers near-duplicate pictures alike, and says so to whoever asks."""

import re
import urllib.request

import cv2

from tests.agents import limpet, running, site, status
from tests.eyes import make_eyes, scene

PIPELINE = """
schema = 1
name = "eyes"
source = "film"
[[pre]]
step = "colour"
to = "grey"
[model]
name = "model"
similar = true
[[rule]]
kind = "every"
period_s = 1.0
"""
CONFIG = """
[cache.similar]
max_error = 0.1
"""


def scraped(log):
    """What /metrics says, at the address that the log names."""
    address = re.search(r"metrics listen=(\S+)", log.read_text())[1]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_the_agent_says_how_similar_pictures_are_answered(tmp_path):
    """`limpet status` and /metrics name reused pictures, rechecks, the bound and the threshold of the pipeline."""
    make_eyes(tmp_path / "model")
    (tmp_path / "film").mkdir()
    for n in range(400):
        assert cv2.imwrite(str(tmp_path / "film" / f"{n:03}.png"), scene(n))
    (tmp_path / "eyes.toml").write_text(PIPELINE)
    with site(tmp_path) as place:
        place.add("film", tmp_path / "eyes.toml", kind="replay", path=str(tmp_path / "film"), fps=50.0, loop=True)
        place.extra = CONFIG
        config, _ = place.write()
        with running(config, tmp_path / "agent.log"):
            told = status(place.socket, lambda s: s["pipelines"]["eyes"]["similar"]["rechecks"] > 5)
            asked = limpet("status", "--config", config)
            words, _ = asked.communicate(timeout=20)
            text = scraped(tmp_path / "agent.log")
    similar = told["pipelines"]["eyes"]["similar"]
    assert 0 < similar["error_bound"] <= 0.1
    assert similar["disagreements"] == 0
    assert similar["hits"] > 5 * similar["rechecks"]
    assert "similar pictures: " in words
    assert "reused up to " in words
    for key in similar:
        assert f'limpet_similar_{key}{{pipeline="eyes"}} ' in text
