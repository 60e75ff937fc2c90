"""Plugins: what is allowed is used like the agent's own, and what is not is never imported."""

import subprocess
import sys
import textwrap

import pytest

from agent.config import load_config, load_sources
from agent.errors import ConfigError
from agent.plugins import adopt, used
from agent.plugins.adopting import allowed
from agent.plugins.found import installed
from agent.settings.plugins import PluginsConfig
from pipelines import make_step
from tests import plugins
from tests.agents import ROOT
from tests.plugins import ENTRY, STEP, allow, install, install_example

forget = pytest.fixture(plugins.forget, autouse=True)
place = pytest.fixture(plugins.place)


def test_an_allowed_step_is_made_like_the_agents_own(place):
    """Keys are checked by its dataclass; the package is named as its name may be spelt, and imported only now."""
    install_example(place)
    assert adopt(allow(place, "Limpet_Example")) == {}
    assert "limpet_example" not in sys.modules, "nothing is imported before a configuration names it"
    step = make_step("pre", {"step": "negative", "white": 200}, "p.toml [pre]")
    assert step.white == 200
    assert used() == {"limpet-example": "1.2.0"}
    with pytest.raises(ConfigError, match=r"p.toml \[pre\] step 'negative': key 'white': 256 is out of range"):
        make_step("pre", {"step": "negative", "white": 256}, "p.toml [pre]")
    with pytest.raises(ConfigError, match="unknown key 'whit': did you mean 'white'"):
        make_step("pre", {"step": "negative", "whit": 1}, "p.toml [pre]")


def test_a_step_that_follows_stands_in_post(place):
    """Lists in TOML that may hold steps of two kinds hold a plugin's of both."""
    install_example(place)
    adopt(allow(place, "limpet-example"))
    assert make_step("post", {"step": "streak", "views": 2}, "p.toml [[post]]").views == 2
    with pytest.raises(ConfigError, match="'streak' is no pre step"):
        make_step("pre", {"step": "streak"}, "p.toml [[pre]]")


def test_what_is_not_allowed_is_never_imported(place):
    """It is installed, and importing it would be noticed; neither its step nor a look at what is installed does it."""
    (place.parent / "log").write_text("")
    install(place, "extra", ENTRY, f"open({str(place.parent / 'log')!r}, 'w').write('imported')\n{STEP}")
    assert adopt(PluginsConfig(folder=place)) == {}
    with pytest.raises(ConfigError, match="'same' is no pre step: it must be one of"):
        make_step("pre", {"step": "same"}, "p.toml [pre]")
    assert [(one.name, list(map(str, one.offers))) for one in installed(PluginsConfig(folder=place))
            if one.name == "extra"] == [("extra", ["pre same"])]  # fmt: skip
    assert allowed(PluginsConfig(allow=("nothing",), folder=place))[0] == ()
    assert (place.parent / "log").read_text() == ""
    assert "extra" not in sys.modules


def test_a_configuration_without_plugins_reads_no_metadata():
    """Start-up stays as it was for who uses none."""
    code = "import sys, agent.config; from agent.settings.plugins import PluginsConfig\n"
    code += "agent.config.adopt(PluginsConfig()); print('importlib.metadata' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_later_configuration_counts(place):
    """What one allowed is gone when the next one does not."""
    install_example(place)
    adopt(allow(place, "limpet-example"))
    adopt(PluginsConfig())
    assert used() == {}
    with pytest.raises(ConfigError, match="'negative' is no pre step"):
        make_step("pre", {"step": "negative"}, "p.toml [pre]")


def test_a_source_of_a_plugin_is_configured_strictly(place, tmp_path):
    """Its table is checked by its dataclass, and a kind that nobody has is refused as ever."""
    install_example(place)
    path = tmp_path / "limpet.toml"
    path.write_text(textwrap.dedent(f"""
        schema = 1
        [plugins]
        allow = ["limpet-example"]
        folder = "{place.name}"
        [sources.good]
        kind = "wave"
        hz = 5
        [sources.bad]
        kind = "wave"
        herz = 5
        [sources.none]
        kind = "ripple"
    """))
    good, broken = load_sources(load_config(path), path)
    assert (list(good), good["good"].hz) == (["good"], 5.0)
    assert "[sources.bad]: unknown key 'herz': did you mean 'hz'?" in broken["bad"]
    assert "kind = 'ripple' is not allowed" in broken["none"]
