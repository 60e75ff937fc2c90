"""The examples of docs/capture.md are configurations that the agent accepts."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.settings.capture import SourceConfig
from agent.strict import build

TEXT = (Path(__file__).resolve().parent.parent / "docs/capture.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@dataclass(frozen=True, slots=True)
class _File:
    sources: dict[str, SourceConfig]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_accepted(number):
    """Copied from the page, an example is a right configuration."""
    assert build(_File, tomllib.loads(EXAMPLES[number]), f"example {number}").sources


def test_every_kind_has_an_example():
    """No kind of source is left without one."""
    shown = {config.kind for text in EXAMPLES for config in build(_File, tomllib.loads(text), "page").sources.values()}
    assert shown == {"v4l2", "url", "exec", "microphone", "sysfs", "load", "lines", "serial", "replay"}
