"""Runs real agents for tests: keys, broker, configuration, and the process itself."""

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent.control import ask
from agent.demo import stage
from agent.demo.broker import Broker, BrokerPlan, choose
from agent.demo.pki import DemoKeys, make_keys
from agent.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
PIPELINES = ROOT / "pipelines"
COUNTING = """
schema = 1
name = "count"
source = "rows"
[detector]
step = "streaming_zscore"
warm_rows = 2
always = true
[[rule]]
kind = "every"
period_s = 0.05
"""
"""A pipeline that tells of rows that count, twenty times a second."""


@dataclass
class Site:
    """A folder with keys, a broker and what is needed to run one agent and one reader against it."""

    folder: Path
    keys: DemoKeys
    broker: Broker
    parts: list[stage.Part] = field(default_factory=list)
    extra: str = ""

    def add(self, source, pipeline, **table):
        """Add a pipeline file and its source's table."""
        text = "\n".join(f"{k} = {json.dumps(v)}" for k, v in table.items())
        self.parts.append(stage.Part(source, Path(pipeline), text, ""))

    def count(self, pipeline=COUNTING):
        """Add a pipeline over rows that count for ever."""
        (self.folder / "count.toml").write_text(pipeline)
        rows = write_rows(self.folder)
        self.add("rows", self.folder / "count.toml", kind="replay", path=str(rows), loop=True)

    def write(self):
        """Write limpet.toml and reader.toml; returns both paths."""
        agent = stage.write_agent(self.folder, self.keys, self.broker, tuple(self.parts), MODELS)
        if self.extra:
            agent.write_text(agent.read_text() + self.extra)
        return agent, stage.write_reader(self.folder, self.keys, self.broker)

    @property
    def socket(self):
        return self.folder / "run" / "control.sock"


def write_rows(folder):
    """rows.csv: five seconds of numbers from 0 to 6, a hundred a second. Returns its path."""
    path = folder / "rows.csv"
    path.write_text("t,x\n" + "".join(f"{i / 100:.2f},{i % 7}\n" for i in range(500)))
    return path


@contextlib.contextmanager
def site(folder, kind="mosquitto"):
    """A site with its broker running."""
    keys = make_keys(folder / "keys", dt.datetime.now(dt.UTC))
    with choose(BrokerPlan(folder / "broker", keys, stage.accounts()), kind) as broker:
        yield Site(folder, keys, broker)


def limpet(*words, **options):
    """Start `limpet WORDS`; the process is the caller's to stop."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "agent", *map(str, words)],
        env=environment, stdin=subprocess.DEVNULL, stdout=options.get("stdout", subprocess.PIPE),
        stderr=options.get("stderr", subprocess.PIPE), text=True,
    )  # fmt: skip


@contextlib.contextmanager
def running(config, log):
    """An agent that runs until the end of the block; its log goes to the file `log`."""
    with log.open("a") as sink:
        child = limpet("run", "--config", config, stdout=sink, stderr=sink)
        try:
            yield child
        finally:
            stop(child)


def stop(child, limit_s=15):
    """End a process, by force when it does not end by itself; returns its exit status and how long it took."""
    start_s = time.monotonic()
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return child.returncode, time.monotonic() - start_s


def status(socket, until=lambda _: True, limit_s=20.0):
    """The agent's status once `until` holds of it."""
    end_s = time.monotonic() + limit_s
    last = None
    while time.monotonic() < end_s:
        try:
            last = ask(socket, "status")
            if until(last):
                return last
        except ConfigError as exc:
            last = str(exc)
        time.sleep(0.05)
    raise AssertionError(f"never came: {last}")
