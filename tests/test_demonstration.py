"""A model that is only a demonstration says so wherever an operator meets it; no installed configuration runs one."""

import json
import re
import tomllib

import jsonschema
import pytest

from agent.app.shelf import FACTORY_MODELS
from agent.cli import main
from agent.cli.check import look
from agent.config import load_pipelines
from agent.demo.board import Board, Lines, model_words
from agent.manifest import load_manifest
from tests.agents import MODELS, PIPELINES, ROOT, limpet, running, site, status, write_rows
from tests.tiny_models import make_model

WHY = "it reads 61 of 100 of what it was measured on; 85 are asked of it"
PIPELINE = """
schema = 1
name = "show"
source = "rows"
[window]
step = "rows"
length = 4
[[pre]]
step = "flatten"
[model]
name = "shown"
[[rule]]
kind = "every"
period_s = 0.05
"""


@pytest.fixture
def models(tmp_path):
    """A folder with a model that is a demonstration and one that is not."""
    make_model(tmp_path / "models" / "shown", "copy", "onnx", name="shown", extra=f'demonstration = "{WHY}"')
    make_model(tmp_path / "models" / "used", "copy", "onnx", name="used")
    return tmp_path / "models"


def test_the_manifest_keeps_the_reason(models):
    """Empty for a model that is meant for use."""
    assert load_manifest(models / "shown").demonstration == WHY
    assert load_manifest(models / "used").demonstration == ""


@pytest.mark.parametrize("verb", ["list", "verify"])
def test_the_list_and_the_verification_say_it(models, capsys, verb):
    """In words beside "ok", in JSON as a key of its own that other models do not have; the exit status is 0."""
    schema = json.loads((ROOT / "docs" / "models.schema.json").read_text())
    assert main(["models", verb, "--folder", str(models)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["shown"].endswith(f"ok, a demonstration: {WHY}")
    assert lines["used"].endswith("ok")
    assert main(["models", verb, "--folder", str(models), "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (rows["shown"]["demonstration"], rows["shown"]["state"]) == (WHY, "ok")
    assert "demonstration" not in rows["used"]
    for row in rows.values():
        jsonschema.validate(row, schema)


def test_check_status_and_log_say_it(models, tmp_path):
    """The agent runs it all the same, healthy, and nobody can miss what it is."""
    (tmp_path / "show.toml").write_text(PIPELINE)
    with site(tmp_path) as place:
        place.add("rows", tmp_path / "show.toml", kind="replay", path=str(write_rows(tmp_path)), loop=True)
        config, _ = place.write()
        config.write_text(config.read_text().replace(str(MODELS), str(models)))
        with running(config, tmp_path / "agent.log"):
            said = status(place.socket, lambda s: s["pipelines"]["show"]["results"] > 3)
            asked = limpet("status", "--config", config)
            words, _ = asked.communicate(timeout=20)
        checked = {one.what: one for one in look(config)}
        told, _ = limpet("check", "--config", config).communicate(timeout=30)
        rows = limpet("check", "--config", config, "--json").communicate(timeout=30)[0].splitlines()
    assert said["pipelines"]["show"]["demonstration"] == WHY
    assert f"    a demonstration: {WHY}" in words.splitlines()
    assert checked["pipeline show with shown 1.0.0"].note == f"a demonstration: {WHY}"
    assert f"ok      pipeline show with shown 1.0.0\n        a demonstration: {WHY}\n" in told
    assert [row["note"] for row in map(json.loads, rows) if "note" in row] == [f"a demonstration: {WHY}"]
    schema = json.loads((ROOT / "docs" / "cli.schema.json").read_text())
    for row in rows:
        jsonschema.validate(json.loads(row), schema)
    assert f"is a demonstration: {WHY}" in (tmp_path / "agent.log").read_text()


def test_the_board_of_the_demo_says_it(capsys):
    """Beside the model on the page; once, with the reason, in lines."""
    board = Board("demo/here", "a broker", "sealed")
    shown = {"model": {"name": "shown", "version": "1.0.0"}, "demonstration": WHY}
    board.status = {"pipelines": {"show": shown, "machine": {}}}
    assert model_words(shown) == "shown 1.0.0, a demonstration"
    assert model_words({"model": {"name": "used", "version": "2.0.0"}}) == "used 2.0.0"
    with Lines(board) as lines:
        lines.refresh()
    told = [line for line in capsys.readouterr().out.splitlines() if "demonstration" in line]
    assert told == [f"show       shown 1.0.0, a demonstration: {WHY}"]


def test_the_installed_configuration_enables_no_demonstration(tmp_path):
    """Neither the configuration that is installed nor the pipelines that the instructions put beside it name one."""
    installed = tomllib.loads((ROOT / "systemd" / "limpet.toml").read_text())
    assert "pipelines" not in installed.get("paths", {}), "it would enable more than is copied"
    instructions = (ROOT / "docs" / "install.md").read_text()
    copied = re.findall(r"share/limpet/pipelines/(\w+\.toml) /etc/limpet/pipelines", instructions)
    assert copied
    enabled, broken = load_pipelines(tuple(PIPELINES / name for name in copied))
    assert not broken
    named = [file.config.model.name for file in enabled if file.config.model]
    assert [name for name in named if load_manifest(FACTORY_MODELS / name).demonstration] == []
