"""docs/plugins.md, word by word: the package on it is built, tried, installed, allowed and used."""

import re
import subprocess
import sys

from tests.agents import ROOT, limpet

PAGE = (ROOT / "docs" / "plugins.md").read_text()
PIPELINE = """
schema = 1
name = "warm"
source = "machine"
[[pre]]
step = "celsius"
per_step = 0.01
[detector]
step = "streaming_zscore"
[[rule]]
kind = "appears"
"""
CONFIG = """
schema = 1
[paths]
runtime = "run"
[store]
folder = "outbox"
key_file = "store.key"
[envelope]
mode = "plain"
[sources.machine]
kind = "load"
"""


def block(language, named):
    """The first block of that language that begins with a comment of this name, without the comment."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(text for text in blocks if text.startswith(f"# {named}\n")).partition("\n")[2]


def install(source, target):
    """As the page says, but from what is installed here already."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", target, "."], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def said(*words):
    child = limpet(*words)
    out, err = child.communicate(timeout=60)
    return child.returncode, out + err


def test_the_ten_minutes_are_as_the_page_says(tmp_path):
    """Also the second installation, which the folder of the first must not be in the way of."""
    (tmp_path / "limpet_thermo").mkdir()
    (tmp_path / "limpet_thermo" / "__init__.py").write_text(block("python", "limpet_thermo/__init__.py"))
    (tmp_path / "pyproject.toml").write_text(block("toml", "pyproject.toml"))
    install(tmp_path, "./try")
    status, told = said("plugin", "check", tmp_path / "try")
    assert (status, "every promise was kept" in told) == (0, True), told
    install(tmp_path, "./plugins")
    config = tmp_path / "limpet.toml"
    config.write_text(CONFIG + re.sub("(?m)^# folder", "folder", block("toml", "limpet.toml")))
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "warm.toml").write_text(PIPELINE)
    status, told = said("check", "--config", config)
    assert "ok      plugin limpet-thermo 1.0.0: pre celsius" in told
    assert (status, "ok      pipeline warm" in told) == (0, True), told
    assert "allowed      limpet-thermo 1.0.0" in said("plugin", "list", "--config", config)[1]
    assert "per_step" in said("plugin", "show", "limpet-thermo", "--config", config)[1]
