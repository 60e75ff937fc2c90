"""What INPUT of `limpet models try` means: a file, a camera, a stream, or a source of the configuration.

Owns the reading of that one word. A file that exists wins over everything else; `camera` is /dev/video0 and
`camera:N` /dev/videoN.
"""

import os
import re
from pathlib import Path

from agent.cli.options import DEFAULT_CONFIG
from agent.config import load_config, load_sources
from agent.errors import ConfigError
from agent.settings.capture import SourceConfig, UrlConfig, V4l2Config
from agent.strict import build

_CAMERA = re.compile(r"camera(?::(\d{1,3}))?")
_STREAM = re.compile(r"[a-z]+://")


def input_of(word: str, config: Path) -> Path | SourceConfig:
    """The file, or how the source is opened. Raises ConfigError that says what INPUT may be."""
    path = Path(word)
    if os.path.lexists(path):
        return path
    if camera := _CAMERA.fullmatch(word):
        return V4l2Config(device=Path(f"/dev/video{camera[1] or 0}"))
    if _STREAM.match(word):
        if "@" in word.split("/", 3)[2]:
            advice = "make it a source of the configuration, with credentials_file (docs/capture.md)"
            raise ConfigError(f"INPUT: a URL with a password would be seen by every user of this machine: {advice}")
        made: UrlConfig = build(UrlConfig, {"url": word}, "INPUT")
        return made
    if "/" in word or path.suffix:
        raise ConfigError(f"{word}: there is no such file: look at the name")
    return _configured(word, config)


def _configured(name: str, config: Path) -> SourceConfig:
    ways = "a file, camera, camera:N, rtsp://... or the name of a configured source"
    if not os.path.lexists(config):
        where = "there is no configuration at" if config == DEFAULT_CONFIG else "there is no"
        raise ConfigError(f"INPUT '{name}' is no file, and for a source of that name {where} {config}: give {ways}")
    good, broken = load_sources(load_config(config), config)
    if name in broken:
        raise ConfigError(broken[name])
    if name not in good:
        there = ", ".join(sorted(good)) or "none"
        raise ConfigError(f"INPUT '{name}' is neither a file nor a source of {config}, which has {there}: give {ways}")
    return good[name]
