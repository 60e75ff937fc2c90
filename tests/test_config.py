"""limpet.toml, conf.d and sources: read strictly, merged in order, secrets only by file."""

from pathlib import Path

import pytest

from agent.config import FILE_LIMIT, load_config, load_pipelines, load_sources
from agent.errors import ConfigError

PLAIN = """
schema = 1
[device]
site = "plant"
name = "pump-3"
[envelope]
mode = "plain"
[sources.load]
kind = "load"
[sources.film]
kind = "replay"
path = "films/a.mp4"
"""


def _write(tmp_path, text=PLAIN, **more):
    path = tmp_path / "limpet.toml"
    path.write_text(text)
    for name, extra in more.items():
        (tmp_path / "conf.d").mkdir(exist_ok=True)
        (tmp_path / "conf.d" / f"{name}.toml").write_text(extra)
    return path


def test_a_file_is_read_with_paths_counted_from_its_folder(tmp_path):
    """Relative paths do not depend on where the agent was started."""
    path = _write(tmp_path, PLAIN + '\n[paths]\npipelines = ["p"]\nruntime = "run"\n')
    config = load_config(path)
    assert (config.device.site, config.device.name) == ("plant", "pump-3")
    assert config.paths.pipelines == (tmp_path / "p",)
    assert config.paths.socket == tmp_path / "run" / "control.sock"
    sources, broken = load_sources(config, path)
    assert sources["film"].path == tmp_path / "films" / "a.mp4"
    assert broken == {}


def test_conf_d_is_laid_over_in_order(tmp_path):
    """The later file wins, key by key, and the rest stays."""
    path = _write(tmp_path, a='[device]\nname = "first"\n', b='[device]\nname = "second"\n[log]\nlevel = "debug"\n')
    config = load_config(path)
    assert (config.device.site, config.device.name, config.log.level) == ("plant", "second", "debug")


def test_a_wrong_word_in_conf_d_names_that_file(tmp_path):
    """The operator opens the right file at once."""
    path = _write(tmp_path, a='[device]\nnam = "x"\n')
    with pytest.raises(ConfigError, match=r"conf\.d/a\.toml \[device\]: unknown key 'nam': did you mean 'name'"):
        load_config(path)


def test_a_wrong_source_does_not_hide_the_good_ones(tmp_path):
    """Sources are judged one by one."""
    path = _write(tmp_path, PLAIN + '\n[sources.eye]\nkind = "v4l2"\nwidht = 3\n[sources.odd]\nkind = "webcam"\n')
    sources, broken = load_sources(load_config(path), path)
    assert set(sources) == {"load", "film"}
    assert "[sources.eye]: unknown key 'widht': did you mean 'width'" in broken["eye"]
    assert "'webcam'" in broken["odd"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema = 2\n", "key 'schema'"),
        ("", "key 'schema' is missing"),
        ("schema = 1\nfoo = 1\n[envelope]\nmode='plain'\n", "unknown key 'foo'"),
        ("schema = \n", "is not TOML"),
        ("x" * (FILE_LIMIT + 1), "larger than"),
        ('schema = 1\n[device]\nname = "a/b"\n', "letters, digits"),
        ('schema = 1\n[device]\nname = "gap"\n', "not 'gap'"),
        ("schema = 1\n[supervisor]\nstop_s = 0\n", r"[supervisor]: key 'stop_s'"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path, text, words):
    """Every refusal names file and place."""
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, text))
    assert "limpet.toml" in str(caught.value)
    assert words in str(caught.value)


def test_a_missing_file_is_said_plainly(tmp_path):
    """No traceback for a typing error in a path."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "no.toml")


def test_pipeline_files_may_be_named_one_by_one(tmp_path):
    """A place is a folder or a file."""
    file = tmp_path / "one.toml"
    file.write_text('schema = 1\nname = "one"\nsource = "load"\n[detector]\nstep = "streaming_zscore"\n')
    files, broken = load_pipelines([file])
    assert [f.path for f in files] == [Path(file)]
    assert broken == {}
