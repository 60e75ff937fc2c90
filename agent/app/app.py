"""The running agent: builds every part from its configuration, hands each what it needs, and runs them until told.

Whatever is broken but not essential is left out and said: the agent starts degraded rather than not at all. At the
stop the lanes that bring samples leave first and finish the one in hand, then the uplink gets its time for
acknowledgements and the store writes what is pending. A lane that hangs in C is left behind.
"""

import gc
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent import codec
from agent.app.assembly import Assembled, examine
from agent.app.errands import Errands
from agent.app.report import Report, running
from agent.app.upkeep import Upkeep
from agent.backoff import Backoff
from agent.clock import SystemClock
from agent.control import ControlServer
from agent.envelope import Topics
from agent.envelope.atrest import load_store_key
from agent.envelope.setup import batch_zip
from agent.health import Health, judge
from agent.layers.effective import Effective
from agent.logs import configure as configure_logs
from agent.meters import Meters, numbers
from agent.metrics import Registry
from agent.mqtt.protect import password
from agent.notify import Notifier
from agent.papers import Papers
from agent.process import costs
from agent.reconfigure import Now, Reconfiguration, start
from agent.release.standing import Watcher
from agent.store import Store
from agent.store.looking import handlers
from agent.supervisor import Lane, Supervisor
from agent.updaterchild import UpdaterChild
from agent.uplink import Uplink
from agent.uplink.conversation import Subject

log = logging.getLogger(__name__)

TURN_S = 1.0
"""How often the lanes are looked at, seconds."""
KEEP_DEADLINE_S = 120.0
"""Store or uplink that says nothing for longer is stuck, seconds: an SD card may stall, and a restart mends nothing."""
IDENTITY_DEADLINE_S = 600.0
"""The same for renewing certificates: an EST server may take its time, seconds."""


class App:
    """One agent. `run` is called once, from the main thread."""

    def __init__(self, path: Path) -> None:
        """Read limpet.toml at `path`. Raises ConfigError."""
        self._clock, self._path = SystemClock(), path
        self._started = start(path, os.environ, self._clock.wall_s())
        self.config, self._sources = self._started.effective.config, self._started.effective.sources
        redactor = configure_logs(self.config.log, sys.stderr, os.environ)
        if self.config.uplink.password_file is not None:
            redactor.hide(password(self.config.uplink.password_file))
        self._start_s = self._clock.mono_s()
        self._broken = dict(self._started.effective.broken)
        self._registry = Registry(self.config.metrics.series_limit)
        self._meters = Meters(self._registry)
        self._meters.watch_numbers("process", "The agent's process, since the start.", costs)
        self._alarms: dict[str, str] = {}
        self._papers = Papers(self.config, self._clock, self._alarm)
        self._errands = Errands(self.config, self._clock, self._alarm, redactor)
        self._uplink: Uplink | None = None
        self._release = Watcher(
            self.config.updates, self.config.store.folder.with_name("connected"), self._clock.mono_s
        )
        self._upkeep = Upkeep(self.config, self._clock, self._meters, self._alarm)
        self._leave = threading.Event()
        self.again = ""
        """Why the process should start anew after `run`; empty when it should end."""
        self.reconfiguration = Reconfiguration(
            self._started, self._examine, self._clock, self._alarm, self.start_anew
        )

    def start_anew(self, why: str) -> None:
        """End in good order and start again. May be called from any thread; returns at once."""
        log.info("starts-anew reason=%r", why)
        self.again = why
        self._leave.set()

    def run(self, notifier: Notifier) -> tuple[str, ...]:
        """Run until SIGTERM or SIGINT; returns the names of lanes that could not be stopped."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_leave)
        made = self._assemble()
        with self._open_store() as store:
            report = Report(
                self.config, self._meters, made, store, self._broken, self._alarms, self._up_s,
                self.reconfiguration.status, self._upkeep.shelf.residency.numbers,
            )  # fmt: skip
            uplink = self._uplink = self._make_uplink(store, report)
            for name, text in self._started.alarms.items():
                self._alarm(name, text)
            keepers = self._supervisor(
                Lane("store", store.run, KEEP_DEADLINE_S, essential=True),
                Lane("uplink", uplink.run, KEEP_DEADLINE_S, essential=True),
            )
            lookers = self._supervisor(*self._looking(store))
            services = self._supervisor(*self._serving(report, store, uplink, (keepers, lookers)))
            self._upkeep.follow(store.accept, services, lookers)
            gc.freeze()  # modules and models stay to the end: no collection stops the lanes to look through them
            gc.enable()
            self._watch(made, (keepers, lookers, services), notifier)
            notifier.stopping()
            half_s = self.config.supervisor.stop_s / 2
            stuck = lookers.stop(half_s) + services.stop(1.0) + keepers.stop(half_s)
        log.info("stopped stuck=%s", ",".join(stuck) or "none")
        return stuck

    # --- making the parts -----------------------------------------------------------------------------------------

    def _assemble(self) -> Assembled:
        made = self._upkeep.assembled(self._started.effective.pipelines, self._sources)
        self._broken |= {f"pipeline {name}": why for name, why in made.broken.items()}
        self._broken = {_encodable(part): _encodable(why) for part, why in self._broken.items()}
        for part, why in self._broken.items():
            log.error("part=%r left-out reason=%r", part, why)
        return made

    def _examine(self, changed: Effective) -> dict[str, str]:
        """What a changed configuration would leave out of its pipelines, and why."""
        return examine(changed.pipelines, changed.sources, self._upkeep.shelf)

    def _open_store(self) -> Store:
        key = load_store_key(self.config.store.key_file)
        return Store.open(self.config.store, key, codec.encode, self._clock, self._alarm)

    def _make_uplink(self, store: Store, report: Report) -> Uplink:
        """Raises ConfigError for keys that cannot be used: an agent that could never publish does not start."""
        config, device = self.config, self.config.device

        self._papers.sealer()
        topics = Topics(device.site, device.name)
        errands = self._errands
        subject = Subject(
            topics, lambda: {**report.facets(), **errands.facets()}, batch_zip(config.envelope), errands.requests
        )
        delivered = self._registry.summary(
            "limpet_delivery_seconds", "From the sample to the broker's acknowledgement, live events.", ["stream"]
        )
        uplink = Uplink(
            config.uplink, subject, store, self._papers.sealer, self._clock,
            lambda stream, s: delivered.at(stream).observe(s), open_link=self._papers.open_link,
        )  # fmt: skip
        self._meters.watch_numbers("uplink", "Uplink, since the start.", lambda: numbers(uplink.stats()))
        self._meters.watch_numbers("outbox", "Outbox; bytes unless named otherwise.", lambda: numbers(store.stats()))
        return uplink

    def _up_s(self) -> float:
        return self._clock.mono_s() - self._start_s

    def _alarm(self, name: str, text: str | None) -> None:
        """Raise an alarm, or clear it with None; until then it stands in status and health. Readers are told too."""
        if text is None:
            self._alarms.pop(name, None)
            log.info("alarm=%s cleared", name)
        else:
            self._alarms[name] = text = _encodable(text)
            log.error("alarm=%s reason=%r", name, text)
        if self._uplink is not None:
            body = {"active": text is not None, "text": text or "", "t_wall_s": self._clock.wall_s()}
            self._uplink.post("alarm", name, body)

    def _supervisor(self, *lanes: Lane) -> Supervisor:
        settings, rng = self.config.supervisor, random.Random()
        return Supervisor(
            lanes, lambda: Backoff(rng, settings.revive_first_s, settings.revive_cap_s), self._clock.mono_s
        )

    def _looking(self, store: Store) -> Iterator[Lane]:
        return self._upkeep.lanes(self._sources, store.accept, self._errands.shutter)

    def _serving(
        self, report: Report, store: Store, uplink: Uplink, supervisors: tuple[Supervisor, ...]
    ) -> Iterator[Lane]:
        def status(_request: Mapping[str, Any]) -> dict[str, Any]:
            return report.status((s for it in supervisors for s in it.states()), uplink.stats(), self._papers.status())

        yield from self._errands.open(lambda: status({}), store.accept, self.start_anew, self.reconfiguration)
        answers = {"status": status, **handlers(store), **self.reconfiguration.handlers(), **self._errands.questions()}
        yield Lane("control", ControlServer(self.config.paths.socket, answers).run)
        yield Lane("identity", self._papers.renewal.run, IDENTITY_DEADLINE_S)
        if self.config.metrics.listen is not None:
            from agent.exposition import Exposition

            yield Lane("metrics", Exposition(self.config.metrics, self._registry).run)
        if self.config.updates.updater == "child":
            yield Lane("updater", UpdaterChild(self._path, self.config.updates.spool).run)

    # --- running --------------------------------------------------------------------------------------------------

    def _told_to_leave(self, *_: object) -> None:
        self.again = ""
        self._leave.set()

    def _watch(self, made: Assembled, supervisors: tuple[Supervisor, ...], notifier: Notifier) -> None:
        """Reconcile, judge, tell systemd, until told to leave."""
        said: Health | None = None
        fed_s = -1e9
        while not self._leave.is_set():
            states = [s for it in supervisors for s in it.reconcile()]
            health = judge(states, self._broken | self._alarms)
            if health != said:
                self._tell(health, notifier, first=said is None)
                said = health
            now_s = self._clock.mono_s()
            if notifier.feed_s and health.status != "unhealthy" and now_s - fed_s >= notifier.feed_s - TURN_S:
                notifier.watchdog()
                fed_s = now_s
            self._upkeep.turn()
            self.reconfiguration.look(Now(health, running(states, made), self._connected()))
            self._release.turn(health, self._connected())
            self._leave.wait(TURN_S)

    def _connected(self) -> bool:
        return self._uplink is not None and bool(self._uplink.stats()["connected"])

    def _tell(self, health: Health, notifier: Notifier, *, first: bool) -> None:
        words = f"{health.status}: {'; '.join(health.reasons) or 'all lanes run'}"
        (notifier.ready if first else notifier.status)(words)
        log.log(logging.INFO if health.status == "ok" else logging.WARNING, "health=%s", words)


def _encodable(text: str) -> str:
    """`text` with the bytes of file names that are not UTF-8 escaped: nothing else could be sent or sealed."""
    return text.encode(errors="backslashreplace").decode()
