"""A source is described by a table whose key `kind` decides what else it may hold."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.settings.capture import ExecConfig, LineFormat, ReplayConfig, SerialConfig, SourceConfig, UrlConfig
from agent.strict import build


@dataclass(frozen=True, slots=True)
class _File:
    sources: dict[str, SourceConfig] = field(default_factory=dict)


def _build(**table):
    return build(_File, {"sources": {"x": table}}, "limpet.toml").sources["x"]


def test_kind_chooses_the_table():
    """The same key means what its kind says, and every kind has its own defaults."""
    assert _build(kind="replay", path="a.mp4", loop=True) == ReplayConfig(path=Path("a.mp4"), loop=True)
    assert _build(kind="url", url="rtsp://camera/stream") == UrlConfig(url="rtsp://camera/stream")
    serial = _build(kind="serial", port="/dev/ttyUSB0", lines={"columns": ["t"], "units": {"t": "Cel"}})
    assert serial == SerialConfig(port=Path("/dev/ttyUSB0"), lines=LineFormat(columns=("t",), units={"t": "Cel"}))


def test_an_unknown_kind_lists_the_kinds():
    """A typing error in `kind` is answered with what there is."""
    with pytest.raises(ConfigError, match=r"'webcam' is not allowed.*'v4l2'.*'replay'"):
        _build(kind="webcam")
    with pytest.raises(ConfigError, match="None is not allowed"):
        _build(path="a.mp4")


def test_a_wrong_key_is_judged_by_the_chosen_kind():
    """An error speaks of the table the operator meant, not of the first that exists."""
    with pytest.raises(ConfigError, match=r"sources.x.*unknown key 'lop'.*did you mean 'loop'"):
        _build(kind="replay", path="a.mp4", lop=True)


def test_a_password_in_the_url_is_refused():
    """Credentials have a file of their own: the configuration may be shown to anyone."""
    with pytest.raises(ConfigError, match="a URL without credentials"):
        _build(kind="url", url="rtsp://user:secret@camera/stream")


def test_raw_frames_need_a_size():
    """Nobody can cut a stream of bytes into pictures of unknown size."""
    with pytest.raises(ConfigError, match="needs 'width' and 'height'"):
        _build(kind="exec", argv=["cat"])
    assert _build(kind="exec", argv=["cat"], output="y4m") == ExecConfig(argv=("cat",), output="y4m")


@pytest.mark.parametrize("channel", ["mix", 0, 3])
def test_a_channel_is_a_number_or_the_mix(channel):
    """Both spellings are understood."""
    assert _build(kind="replay", path="a.wav", channel=channel).channel == channel
