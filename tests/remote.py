"""A device with one pipeline that may be changed from afar, for the tests of layers and safe mode."""

import contextlib
import json
import time

from agent.config import load_config
from agent.layerfiles import LayerFiles, folder_of
from tests.agents import COUNTING, site, status

QUICK = """
[remote]
settle_s = 1.0
deadline_s = 6.0
[updates]
folder = "depot"
spool = "spool"
"""


@contextlib.contextmanager
def device(folder, pipeline=COUNTING, extra=QUICK):
    """The site and its limpet.toml."""
    with site(folder) as made:
        made.count(pipeline)
        made.extra = extra
        config, _ = made.write()
        yield made, config


def fleet(folder, name, text):
    """What the updater puts into the depot: one layer, whole; None takes it away."""
    path = folder / "depot" / "config" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        path.unlink()
        return
    fresh = path.with_suffix(".new")
    fresh.write_text(f"schema = 1\n{text}")
    fresh.chmod(0o644)
    fresh.rename(path)


def files(config):
    """The agent's record and good copy."""
    return LayerFiles(folder_of(load_config(config)))


def record(config):
    return files(config).read()


def until(true, limit_s=30.0):
    """Wait for a condition."""
    end_s = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < end_s, "never came"
        time.sleep(0.05)
    return found


def in_mode(socket, mode, limit_s=30.0):
    """The agent's status once its configuration is in that mode and its pipeline has told something."""
    return status(
        socket,
        lambda s: s["configuration"]["mode"] == mode and all(p["results"] for p in s["pipelines"].values()),
        limit_s,
    )  # fmt: skip


def good_copy(config):
    """The last good copy once it is there."""
    folder = files(config).folder
    until((folder / "good.json").exists)
    return json.loads((folder / "good.json").read_text())
