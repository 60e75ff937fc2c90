"""Prepared files by hand: `limpet models prepare`, and what `limpet bench memory` shows of them."""

import json
import shutil

import pytest

from agent.cli import main
from agent.runtime.prepared import files_of
from tests import prepared_files
from tests.prepared_files import FORMS, SIZE_MB, configured

any_pace = pytest.fixture(prepared_files.any_pace, autouse=True)
ready = pytest.fixture(prepared_files.ready, params=FORMS, scope="module")


def test_the_command_prepares_lists_and_removes(ready, tmp_path, capsys):
    """`limpet models prepare`, by name in a folder, by path, and --remove."""
    manifest, place, _ = ready
    config = configured(tmp_path, tmp_path / "prepared")
    shutil.copytree(place.folder, tmp_path / "prepared")
    words = ["models", "prepare", "--config", str(config), str(manifest.folder)]
    assert main(words) == 0
    assert "prepared already" in capsys.readouterr().out
    assert main([*words, "--remove"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not list((tmp_path / "prepared").glob("[!.]*/"))
    assert main(["models", "prepare", "--config", str(config)]) == 2
    assert "--all" in capsys.readouterr().err


def test_the_bench_shows_what_is_saved(ready, tmp_path, capsys):
    """Two processes share the mapped weights; plainly each has its own copy."""
    manifest, place, _ = ready
    config = configured(tmp_path, place.folder)
    words = ["bench", "memory", "--config", str(config), "--processes", "2", str(manifest.folder)]
    assert main([*words, "--json"]) == 0
    plain, mapped = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (plain["way"], mapped["way"]) == ("plain", files_of(manifest.artifacts[0].runs_on, place.folder).recipe)
    assert plain["private_bytes"] > 0.9e6 * SIZE_MB
    assert mapped["private_bytes"] < 0.4 * plain["private_bytes"]
    assert mapped["pss_bytes"] < plain["pss_bytes"]


def test_the_bench_says_why_a_model_is_not_mapped(ready, tmp_path, capsys):
    """And goes on with the others."""
    manifest, _, _ = ready
    config = configured(tmp_path, tmp_path / "none")
    assert main(["bench", "memory", "--config", str(config), str(manifest.folder)]) == 0
    assert "not mapped: there are none" in capsys.readouterr().out
