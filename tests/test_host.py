"""A runner host beside its agent: it ends with it, and the agent goes on when it does not."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.errors import ModelError
from tests import hosts, vendors
from tests.agents import COUNTING, limpet, running, site, status
from tests.hosts import fed, gone, pids, works
from tests.vendors import vendor_model, vendor_python

ROOT = Path(__file__).resolve().parent.parent
vendor = pytest.fixture(hosts.vendor)


def test_closing_leaves_no_process(vendor):
    """Host and workers are gone when close returns, a second close does nothing, and a run says that it is closed."""
    runner = vendor(workers=2)
    assert works(runner)
    family = pids(runner)
    runner.close()
    runner.close()
    assert len(family) == 2
    assert all(gone(pid) for pid in family)
    with pytest.raises(ModelError, match="it is closed"):
        runner.run(fed(1))


@pytest.mark.parametrize("deed", [1, vendors.HANG])
def test_an_agent_that_is_killed_takes_its_hosts_along(tmp_path, deed):
    """The kernel sees to it, also while a run hangs in C, and whichever thread started them."""
    vendor_python(tmp_path)
    vendor_model(tmp_path / "model")
    code = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.settings.runtime import RuntimeOptions
folder, deed = Path(sys.argv[2]), float(sys.argv[3])
made = []
options = RuntimeOptions(isolation="process", python=folder / "python")
thread = threading.Thread(target=lambda: made.append(open_model(load_manifest(folder / "model"), options)))
thread.start()
thread.join()
made[0].run({"x": np.ones((1, 4), np.float32)})
top = made[0]._revival._hosting.pid
print(top, *Path(f"/proc/{top}/task/{top}/children").read_text().split(), flush=True)
made[0].run({"x": np.full((1, 4), deed, np.float32)})
sys.stdin.read()
"""
    agent = subprocess.Popen(
        [sys.executable, "-c", code, ROOT, tmp_path, str(deed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    family = [int(word) for word in agent.stdout.readline().split()]
    assert len(family) == 2
    time.sleep(0.2)
    assert all(Path(f"/proc/{pid}").exists() for pid in family)
    agent.kill()
    agent.communicate()
    assert all(gone(pid) for pid in family)


SHAKY = """
schema = 1
name = "shaky"
source = "rows"
[window]
step = "rows"
length = 4
hop = 4
[model]
name = "MODEL"
[model.runtime]
isolation = "process"
python = "PYTHON"
[[rule]]
kind = "every"
period_s = 0.05
"""
STEPS = '[[pre]]\nstep = "flatten"\n[decoder]\nstep = "reconstruction"\nthreshold = 0.1\n'


def test_the_agent_goes_on_while_a_model_crashes(tmp_path):
    """A model that takes its process along again and again: its pipeline misses views, comes back, and is counted; the
    other pipeline and the events of both go on, and the agent stays what it was."""
    python = vendor_python(tmp_path)
    vendor_model(tmp_path / "model")
    text = (tmp_path / "model" / "model.toml").read_text().replace('"tensor"', '"series"')
    (tmp_path / "model" / "model.toml").write_text(text.replace("[[artifact]]", STEPS + "[[artifact]]"))
    rows = [1] * 20 + [vendors.SEGFAULT] * 4 + [1] * 16
    (tmp_path / "rows.csv").write_text("t,x\n" + "".join(f"{i / 20:.2f},{x}\n" for i, x in enumerate(rows)))
    (tmp_path / "shaky.toml").write_text(
        SHAKY.replace("MODEL", str(tmp_path / "model")).replace("PYTHON", str(python))
    )
    (tmp_path / "count.toml").write_text(COUNTING)
    with site(tmp_path) as place:
        place.add("rows", tmp_path / "shaky.toml", kind="replay", path=str(tmp_path / "rows.csv"), loop=True)
        place.add("more", tmp_path / "count.toml", kind="replay", path=str(tmp_path / "rows.csv"), loop=True)
        config, _ = place.write()
        with running(config, tmp_path / "agent.log") as agent:
            told = status(place.socket, lambda s: s["pipelines"]["shaky"]["host"]["crashes"] >= 2, 60)
            events = [told["pipelines"][name]["events"] for name in ("shaky", "count")]
            again = status(
                place.socket,
                lambda s: s["health"] == "ok" and all(
                    s["pipelines"][n]["events"] > e for n, e in zip(("shaky", "count"), events, strict=True)
                ),
                60,
            )  # fmt: skip
            words = limpet("status", "--config", config).communicate(timeout=30)[0]
            assert agent.poll() is None
    assert again["pipelines"]["shaky"]["refused"] >= 2
    assert again["pipelines"]["shaky"]["host"]["starts"] == 1
    assert "in a process of its own: 1 start" in words
    assert "ended with SIGSEGV" in words
