"""Plugins: what is allowed is used, what is not is never imported, and what does not fit is refused with its reason."""

import json
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest

from agent.config import load_config, load_sources
from agent.errors import ConfigError
from agent.plugins import adopt, used
from agent.plugins.adopting import allowed
from agent.plugins.found import installed
from agent.settings.plugins import PluginsConfig
from pipelines import make_step
from tests.agents import ROOT, limpet, running, site, status
from tests.plugins import install, install_example
from tests.tiny_models import make_model

STEP = """
from dataclasses import dataclass
LIMPET_API = 1
@dataclass(frozen=True, slots=True)
class Same:
    def __call__(self, view, /):
        return view
"""
ENTRY = {"limpet.steps": {"pre.same": "extra:Same"}}


@pytest.fixture(autouse=True)
def forget():
    """Each test begins and ends without plugins and without their modules."""
    path = list(sys.path)
    yield
    adopt(PluginsConfig())
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] in {"extra", "other", "limpet_example"}]:
        del sys.modules[name]


@pytest.fixture
def place(tmp_path):
    return tmp_path / "site"


def plugins(place, *names):
    return PluginsConfig(allow=names, folder=place)


def why(place, entries=ENTRY, text=STEP, name="extra"):
    """Why a package like that may not be used, as far as that shows without importing it."""
    install(place, name, entries, text)
    return adopt(plugins(place, name))[name]


def why_not(place, text):
    """Why its step cannot be made."""
    install(place, "extra", ENTRY, text)
    assert adopt(plugins(place, "extra")) == {}
    with pytest.raises(ConfigError) as told:
        make_step("pre", {"step": "same"}, "p.toml [pre]")
    return str(told.value)


# --- what is allowed --------------------------------------------------------------------------------------------------


def test_an_allowed_step_is_made_like_the_agents_own(place):
    """Keys are checked by its dataclass; the package is named as its name may be spelt, and imported only now."""
    install_example(place)
    assert adopt(plugins(place, "Limpet_Example")) == {}
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
    adopt(plugins(place, "limpet-example"))
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
    adopt(plugins(place, "limpet-example"))
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


# --- what is refused without importing it -----------------------------------------------------------------------------


def test_one_that_is_not_installed_says_so(place):
    """And whoever names its step is told."""
    assert adopt(plugins(place, "nowhere")) == {
        "nowhere": "[plugins] allow: 'nowhere' is not installed: install it, or take it out"
    }
    with pytest.raises(ConfigError, match=r"plugin nowhere: .* is not installed"):
        make_step("pre", {"step": "far"}, "p.toml [pre]")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"limpet.steps": {"pre.resize": "extra:Same"}}, "the name of its pre resize is taken by the agent"),
        ({"limpet.steps": {"post.tracks": "extra:Same"}}, "the name of its post tracks is taken by the agent"),
        ({"limpet.decoders": {"boxes": "extra:Same"}}, "the name of its decoder boxes is taken by the agent"),
        ({"limpet.sources": {"replay": "extra:Same"}}, "the name of its source replay is taken by the agent"),
        ({"limpet.steps": {"post.a": "extra:A", "follow.a": "extra:B"}}, "a is taken by extra"),
        ({"limpet.steps": {"same": "extra:Same"}}, "it must be called KIND.NAME, KIND one of detector, follow, gate"),
        ({"limpet.steps": {"decoder.same": "extra:Same"}}, "it must be called KIND.NAME"),
        ({"limpet.steps": {"pre.Same": "extra:Same"}}, "a name is lower-case letters"),
        ({"limpet.steps": {"pre.same": "json:Same"}}, "module json is not the package's own"),
        ({"limpet.steps": {"pre.same": "agent.cache:Same"}}, "module agent.cache is not the package's own"),
    ],
)
def test_names_that_are_taken_or_mean_nothing_are_refused(place, entry, words):
    """The agent's names are the agent's, and nothing of such a package is used."""
    assert words in why(place, entry)


def test_the_first_of_two_plugins_with_one_name_keeps_it(place):
    """In the order of [plugins] allow."""
    install(place, "extra", ENTRY, STEP)
    install(place, "other", {"limpet.steps": {"pre.same": "other:Same"}}, STEP)
    assert adopt(plugins(place, "extra", "other")) == {
        "other": "the name of its pre same is taken by extra: nothing of it is used until it is renamed"
    }
    assert make_step("pre", {"step": "same"}, "p.toml [pre]").__class__.__module__ == "extra"


def test_files_that_others_may_write_are_refused(place):
    """Who may write a plugin may do what the agent may: everybody, a group, a link that leads elsewhere."""
    install(place, "extra", ENTRY, STEP)
    module = place / "extra" / "__init__.py"
    module.chmod(0o666)
    assert f"everybody may write to it: chmod o-w {module}" in adopt(plugins(place, "extra"))["extra"]
    module.chmod(0o644)
    module.parent.chmod(0o777)
    assert f"chmod o-w {module.parent}" in adopt(plugins(place, "extra"))["extra"]
    module.parent.chmod(0o755)
    assert adopt(plugins(place, "extra")) == {}
    module.rename(place / "elsewhere.py")
    assert "is missing: install the package again" in adopt(plugins(place, "extra"))["extra"]
    module.symlink_to(place / "elsewhere.py")
    assert "is a link" in adopt(plugins(place, "extra"))["extra"]


def test_a_link_on_the_way_to_the_packages_hides_nobody(place, tmp_path):
    """A folder of plugins that is reached by a link, as lib64 of many environments is."""
    install(place, "extra", ENTRY, STEP)
    (tmp_path / "way").symlink_to(place)
    assert adopt(plugins(tmp_path / "way", "extra")) == {}
    assert make_step("pre", {"step": "same"}, "p.toml [pre]").__class__.__module__ == "extra"
    module = place / "extra" / "__init__.py"
    module.chmod(0o666)
    assert f"everybody may write to it: chmod o-w {module}" in adopt(plugins(tmp_path / "way", "extra"))["extra"]


def test_a_package_without_a_list_of_its_files_is_refused(place):
    """Nobody could say whose they are: an editable installation, for one."""
    install(place, "extra", ENTRY, STEP)
    (place / "extra-1.0.dist-info" / "RECORD").unlink()
    assert "it has no list of its files (RECORD)" in adopt(plugins(place, "extra"))["extra"]


# --- what is refused when it is named ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("LIMPET_API = 1", ""), "it is made without saying for which API (LIMPET_API), this agent has 1"),
        (("LIMPET_API = 1", "LIMPET_API = 2"), "it is made for API 2, this agent has 1: install a version that fits"),
        (("frozen=True, ", ""), "is no dataclass with frozen=True and slots=True"),
        ((", slots=True", ""), "is no dataclass with frozen=True and slots=True"),
        (("@dataclass(frozen=True, slots=True)", ""), "is no dataclass"),
        (("__call__", "call"), "cannot be called"),
        (("def __call__", "def initial(self): return 0\n    def __call__"), "must not have a method initial()"),
        (("class Same", "class Other"), "cannot be imported: AttributeError: module 'extra' has no attribute 'Same'"),
        (("LIMPET_API = 1", "import nonsense_that_is_nowhere"), "cannot be imported: ModuleNotFoundError"),
        (("LIMPET_API = 1", "LIMPET_API = ="), "cannot be imported: SyntaxError"),
        (("LIMPET_API = 1", "1 / 0"), "cannot be imported: ZeroDivisionError"),
        (("LIMPET_API = 1", "raise SystemExit(3)"), "cannot be imported: SystemExit"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_packages_name(place, change, words):
    """A wrong class, another API, an error at import: a ConfigError, as for any other wrong step."""
    told = why_not(place, STEP.replace(*change))
    assert "plugin extra 1.0, pre same" in told
    assert words in told


def test_a_module_that_was_found_elsewhere_is_refused(place, tmp_path):
    """Another folder that comes first may hold a module of the same name: that is not what was looked at."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "extra.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{STEP}")
    sys.path.insert(0, str(tmp_path / "first"))
    assert f"was found at {tmp_path / 'first' / 'extra.py'}, which is not the package's" in why_not(place, STEP)
    assert not (tmp_path / "ran").exists(), "it was imported first and looked at then"


# --- in the agent -----------------------------------------------------------------------------------------------------

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
