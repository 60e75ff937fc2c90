"""The documents are true: pages made from the code are current, links lead somewhere, examples are read."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

from agent.config import load_config, load_reader, load_sources
from agent.pipeline import make_steps
from agent.settings.core import PipelineConfig
from agent.strict import build
from tests.agents import ROOT, limpet

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_configuration_and_steps_pages_are_made_from_this_code():
    """Nobody edits them by hand, and nobody forgets to make them anew."""
    made = subprocess.run(
        [sys.executable, "tools/config_docs.py", "--check"], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False
    )
    assert made.returncode == 0, "run: python tools/config_docs.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_inside_the_repository_lead_to_a_file(page):
    """A link to a file that is not there is a broken promise."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_shows_a_pipeline_that_the_agent_accepts():
    """Its example is a whole pipeline file."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    tables = [tomllib.loads(block) for block in blocks]
    pipelines = [build(PipelineConfig, t, "README.md") for t in tables if "source" in t]
    assert pipelines
    assert all(make_steps(pipeline, "README.md", None).pre for pipeline in pipelines)


def test_the_pipeline_of_the_readme_sees_the_recording_that_it_names(tmp_path):
    """Copied into a file and run as the page says, it tells every new last digit of the shipped recording."""
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "meter.toml").write_text(block)
    child = limpet("replay", "--json", "--pipeline", tmp_path / "meter.toml", ROOT / "models/digits/demo.mp4")
    lines = [json.loads(line) for line in child.communicate(timeout=60)[0].splitlines()]
    events = [line["body"]["label"] for line in lines if line["type"] == "event"]
    assert events == ["4", "5", "9", "0", "8"]


def test_the_configuration_page_shows_files_that_are_read(tmp_path):
    """Copied as they stand, they are a device and a reader that believes it."""
    device, reader = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)
    (tmp_path / "limpet.toml").write_text(device)
    (tmp_path / "reader.toml").write_text(reader)
    config, trusted = load_config(tmp_path / "limpet.toml"), load_reader(tmp_path / "reader.toml")
    assert load_sources(config, tmp_path / "limpet.toml")[1] == {}
    (known,) = trusted.reader.device
    assert (known.site, known.device) == (config.device.site, config.device.name)
    assert trusted.broker.broker == config.uplink.broker
