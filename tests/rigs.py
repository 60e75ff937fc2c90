"""An agent's pipelines, supervisor and succession over a real depot; tests bring samples and take the turns.

A test file makes the fixture its own: `rig = pytest.fixture(rigs.rig)`.
"""

import random
import time

from agent.app.assembly import make_pipeline
from agent.app.shelf import Shelf
from agent.app.succession import Place, Succession
from agent.app.tidings import Tidings
from agent.backoff import Backoff
from agent.clock import SystemClock
from agent.config import load_pipeline
from agent.depot import read_state
from agent.inbox import Inbox
from agent.lanes import PipelineLane
from agent.settings.runtime import CacheConfig, ModelsConfig
from agent.settings.updates import UpdatesConfig
from agent.stock import Stock, first_token
from agent.supervisor import Lane, Supervisor
from agent.trial.seat import Seat
from agent.updates.jobs import Book, drop, waiting
from agent.updates.verdicts import judge
from tests.candidates import PIPELINE, sample, write_candidate


def rig(tmp_path):
    """Builds agents; they are closed after the test."""
    made = []

    def build(**how):
        made.append(Rig(tmp_path, **how))
        return made[-1]

    yield build
    for one in made:
        one.close()


class Rig:
    """One agent's models. Without a rate samples come as fast as they are looked at."""

    def __init__(self, folder, pipelines=("p",), more="", **updates):
        self.folder, self.depot, self.spool = folder, folder / "depot", folder / "spool"
        for made in (self.depot, self.spool):
            made.mkdir(exist_ok=True)
        write_candidate(folder / "factory" / "letters", "good", "1.0.0")
        given = {"probation_inferences": 20, "shadow_inferences": 20, **updates}
        self.config = UpdatesConfig(folder=self.depot, spool=self.spool, **given)
        self.clock, self.results, self.drafts, self.alarms, self.swaps = SystemClock(), [], [], {}, []
        self.token = first_token(self.config)
        self.stock = Stock(self.config)
        cache = CacheConfig(enabled=False)
        self.shelf = Shelf(ModelsConfig(folders=(folder / "factory",)), cache, self.clock, self.stock)
        self.files = [self._file(name, more) for name in pipelines]
        made = [make_pipeline(file, self.shelf) for file in self.files]
        self.seats = [Seat(one, lambda p: self.shelf.give_back(p.inference), self.swaps.append) for one in made]
        self.inboxes = [Inbox(1000, "block") for _ in self.seats]
        self.recent = {}
        self._start()

    def _file(self, name, more):
        path = self.folder / f"{name}.toml"
        path.write_text(PIPELINE.format(name=name, more=more))
        return load_pipeline(path)

    def _start(self):
        lanes = [PipelineLane(s, i, self.drafts.append, self) for s, i in zip(self.seats, self.inboxes, strict=True)]
        pairs = zip(self.files, lanes, strict=True)
        mono_s = self.clock.mono_s
        self.supervisor = Supervisor(
            [Lane(f"pipeline:{file.config.name}", lane.run) for file, lane in pairs],
            lambda: Backoff(random.Random(1), 0.01, 0.1), mono_s,
        )  # fmt: skip
        self.tidings = Tidings(lambda job: drop(self.spool, job), self.drafts.append, self._alarm, self.clock)
        places = [Place(file, seat) for file, seat in zip(self.files, self.seats, strict=True)]
        self.succession = Succession(
            self.config, self.stock, self.shelf, places, self.tidings, self.supervisor.add, mono_s, self.token,
            recent=lambda source: self.recent.get(source, ()),
            replace_thread=lambda name: self.supervisor.replace_thread(f"pipeline:{name}"),
        )  # fmt: skip
        self.supervisor.reconcile()

    def _alarm(self, name, text):
        self.alarms[name] = text

    # what a pipeline lane tells
    def looked(self, result):
        self.results.append((time.monotonic(), result))

    def refused(self, pipeline, reason):
        self.results.append((time.monotonic(), (pipeline, reason)))

    def gated(self, _pipeline):
        raise AssertionError("there is no gate")

    def accepted(self, draft):
        pass

    def turn(self):
        """One turn of the main thread."""
        self.supervisor.reconcile()
        self.succession.turn()

    def feed(self, samples, rate_hz=0.0):
        for one in samples:
            for inbox in self.inboxes:
                assert inbox.put(one, 5.0)
            if rate_hz:
                time.sleep(1 / rate_hz)

    def until(self, holds, limit_s=20.0, first=0, rate_hz=100.0, largest=lambda i: (i // 5) % 4, high=0.8):
        """Feed samples and take turns until `holds()`; returns the number of the next sample."""
        end_s, i = time.monotonic() + limit_s, first
        while not holds():
            assert time.monotonic() < end_s, (self.alarms, self.versions()[-3:], read_state(self.depot))
            self.feed([sample(i, largest(i), high)], rate_hz)
            i += 1
            if i % 5 == 0:
                self.turn()
        return i

    def versions(self):
        return [result.model.version for _, result in self.results]

    def jobs(self):
        return [job for _, job in waiting(self.spool)]

    def settle(self):
        """Do what the updater does with verdicts."""
        for path, job in list(waiting(self.spool)):
            judge(self.depot, Book(self.depot), job)
            path.unlink()

    def drained(self):
        end_s = time.monotonic() + 10
        while any(inbox.counts().waiting for inbox in self.inboxes):
            assert time.monotonic() < end_s
            time.sleep(0.005)
        time.sleep(0.05)

    def close(self):
        for inbox in self.inboxes:
            inbox.close()
        self.supervisor.stop(5.0)
        self.shelf.close()
