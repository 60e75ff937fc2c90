"""The real agent as a contender: `limpet run` with outbox, sealing and a real broker, measured from outside.

What it costs is read while it runs: CPU of the process and its children between two looks at its own counters, so that
neither the start nor the stop is part of it.
"""

import contextlib
import datetime as dt
import re
import ssl
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from agent.demo import stage
from agent.demo.broker import Broker, BrokerPlan, choose
from agent.demo.pki import DemoKeys, make_keys
from tests.agents import running, status
from tools.bench.processes import cpu_s, own_cpu_s

PIPELINE = """schema = 1
name = "{name}"
source = "{source}"
{extra}
[model]
name = "{model}"
[[rule]]
kind = "every"
period_s = 0.001
"""
"""One event per view: each view ends the period of the one before."""
NO_CACHE = "\n[cache]\nenabled = false\n"
"""For limpet.toml: every picture is computed."""
LOOK_S = 0.5
"""How often a running agent is asked how far it is, seconds: asking costs it up to two milliseconds."""


@dataclass(slots=True)
class Ground:
    """Keys and a broker, which every contender of a section shares."""

    folder: Path
    keys: DemoKeys
    broker: Broker
    count: int = 0

    @property
    def account(self) -> dict[str, Any]:
        """How a script reaches the broker as the device does."""
        return self.account_of("device")

    def account_of(self, name: str) -> dict[str, Any]:
        """The same as another of the broker's users: "reader"."""
        pair = self.keys.clients[name]
        return {
            "port": self.broker.port, "ca_file": str(self.keys.authority), "certificate": str(pair.certificate),
            "key": str(pair.key), "folder": str(self.folder), "topic": "limpet/v1/demo/here/e/script",
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Watched:
    """A source, as its table in TOML, and the files of the pipelines that look at it."""

    table: str
    pipelines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One agent: its sources by name, its models' folder, and further tables of limpet.toml."""

    sources: dict[str, Watched]
    models: Path
    extra: str = ""


@dataclass(slots=True)
class Agent:
    """A running agent."""

    pid: int
    socket: Path
    folder: Path
    started_s: float = field(default_factory=time.monotonic)

    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        return status(self.socket)

    def looked(self) -> int:
        """Views that its pipelines looked at or their gates held back."""
        told = self.status()["pipelines"].values()
        return sum(one["results"] + one["gated"] for one in told)

    def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels, as they stand in the exposition."""
        found = re.search(r"metrics listen=\(?'?([\d.]+)'?[:,] ?(\d+)", (self.folder / "log").read_text())
        assert found, f"the agent does not say where its metrics are: see {self.folder}/log"
        with urllib.request.urlopen(f"http://{found[1]}:{found[2]}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (li.rsplit(" ", 1) for li in lines if not li.startswith("#"))}

    def until(self, views: int, limit_s: float = 60.0) -> int:
        """Wait until so many views were looked at; how many they are then."""
        end_s = time.monotonic() + limit_s
        while (seen := self.looked()) < views:
            if time.monotonic() > end_s:
                where = f"see {self.folder}/log"
                raise TimeoutError(f"the agent looked at {seen} of {views} views in {limit_s:g} s: {where}")
            time.sleep(LOOK_S)
        return seen


def connected(account: dict[str, Any], client_id: str) -> Client:
    """A paho client on the broker, its loop in a thread; give it back with `disconnected`."""
    client = Client(CallbackAPIVersion.VERSION2, client_id)
    context = ssl.create_default_context(cafile=account["ca_file"])
    context.load_cert_chain(account["certificate"], account["key"])
    client.tls_set_context(context)
    client.connect("localhost", account["port"])
    client.loop_start()
    return client


def disconnected(client: Client) -> None:
    """End what `connected` began."""
    client.disconnect()
    client.loop_stop()


@contextlib.contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """A broker with the demo's accounts."""
    keys = make_keys(folder / "keys", dt.datetime.now(dt.UTC))
    with choose(BrokerPlan(folder / "broker", keys, stage.accounts())) as broker:
        yield Ground(folder, keys, broker)


@contextlib.contextmanager
def agent(at: Ground, plan: Plan) -> Iterator[Agent]:
    """A running agent, stopped at the end."""
    at.count += 1
    folder = at.folder / f"agent-{at.count}"
    folder.mkdir()
    config = configured(folder, at, plan)
    with running(config, folder / "log") as child:
        made = Agent(child.pid, folder / "run" / "control.sock", folder)
        status(made.socket, lambda told: told["uplink"]["connected"])
        yield made


def spent(one: Agent, warm: int, views: int) -> dict[str, float]:
    """CPU per view over the next `views` views, after `warm` of them."""
    before, begun_s = one.until(one.looked() + warm), time.perf_counter()
    all_before, own_before = cpu_s(one.pid), own_cpu_s(one.pid)
    after = one.until(before + views)
    all_after, own_after = cpu_s(one.pid), own_cpu_s(one.pid)
    return {
        "cpu_s": all_after - all_before, "own_cpu_s": own_after - own_before, "frames": after - before,
        "wall_s": time.perf_counter() - begun_s,
    }  # fmt: skip


def film_source(film: Path, speed: str = "max") -> str:
    """A recording that begins again when it ends."""
    return f'kind = "replay"\npath = "{film}"\nspeed = "{speed}"\nloop = true'


def configured(folder: Path, at: Ground, plan: Plan) -> Path:
    """Write limpet.toml and the pipelines of `plan` into `folder`."""
    parts = []
    for source, watched in plan.sources.items():
        home = folder / source
        home.mkdir()
        for number, text in enumerate(watched.pipelines):
            (home / f"{number}.toml").write_text(text)
        parts.append(stage.Part(source, home, watched.table, ""))
    path = stage.write_agent(folder, at.keys, at.broker, tuple(parts), plan.models)
    path.write_text(path.read_text() + plan.extra)
    return path
