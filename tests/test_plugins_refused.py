"""Plugins that do not fit: refused with the reason, before they are imported where that shows before."""

import sys

import pytest

from agent.errors import ConfigError
from agent.plugins import adopt
from pipelines import make_step
from tests import plugins
from tests.plugins import ENTRY, STEP, allow, install

forget = pytest.fixture(plugins.forget, autouse=True)
place = pytest.fixture(plugins.place)


def why(place, entries=ENTRY, text=STEP, name="extra"):
    """Why a package like that may not be used, as far as that shows without importing it."""
    install(place, name, entries, text)
    return adopt(allow(place, name))[name]


def why_not(place, text):
    """Why its step cannot be made."""
    install(place, "extra", ENTRY, text)
    assert adopt(allow(place, "extra")) == {}
    with pytest.raises(ConfigError) as told:
        make_step("pre", {"step": "same"}, "p.toml [pre]")
    return str(told.value)


def test_one_that_is_not_installed_says_so(place):
    """And whoever names its step is told."""
    config = allow(place, "nowhere")
    remedy = f"put it into [plugins] folder ({config.folder}), or take it out"
    assert adopt(config) == {"nowhere": f"[plugins] allow: 'nowhere' is not installed: {remedy}"}
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
    assert adopt(allow(place, "extra", "other")) == {
        "other": "the name of its pre same is taken by extra: nothing of it is used until it is renamed"
    }
    assert make_step("pre", {"step": "same"}, "p.toml [pre]").__class__.__module__ == "extra"


def test_files_that_others_may_write_are_refused(place):
    """Who may write a plugin may do what the agent may: everybody, a group, a link that leads elsewhere."""
    install(place, "extra", ENTRY, STEP)
    module = place / "extra" / "__init__.py"
    module.chmod(0o666)
    assert f"everybody may write to it: chmod o-w {module}" in adopt(allow(place, "extra"))["extra"]
    module.chmod(0o644)
    module.parent.chmod(0o777)
    assert f"chmod o-w {module.parent}" in adopt(allow(place, "extra"))["extra"]
    module.parent.chmod(0o755)
    assert adopt(allow(place, "extra")) == {}
    module.rename(place / "elsewhere.py")
    assert "is missing: install the package again" in adopt(allow(place, "extra"))["extra"]
    module.symlink_to(place / "elsewhere.py")
    assert "is a link" in adopt(allow(place, "extra"))["extra"]


def test_a_link_on_the_way_to_the_packages_hides_nobody(place, tmp_path):
    """A folder of plugins that is reached by a link, as lib64 of many environments is."""
    install(place, "extra", ENTRY, STEP)
    (tmp_path / "way").symlink_to(place)
    assert adopt(allow(tmp_path / "way", "extra")) == {}
    assert make_step("pre", {"step": "same"}, "p.toml [pre]").__class__.__module__ == "extra"
    module = place / "extra" / "__init__.py"
    module.chmod(0o666)
    assert f"everybody may write to it: chmod o-w {module}" in adopt(allow(tmp_path / "way", "extra"))["extra"]


def test_a_package_without_a_list_of_its_files_is_refused(place):
    """Nobody could say whose they are: an editable installation, for one."""
    install(place, "extra", ENTRY, STEP)
    (place / "extra-1.0.dist-info" / "RECORD").unlink()
    assert "it has no list of its files (RECORD)" in adopt(allow(place, "extra"))["extra"]


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
