"""Works through what there is to do, one job at a time, under the depot's lock, with the repository open."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config import read_tables
from agent.depot import AGENT, Pick, State, Writer, read_state
from agent.depot.places import CONFIG, JOB_LOCK
from agent.durable import locked
from agent.errors import ConfigError, LimpetError, UpdateError
from agent.layers.allowed import TABLES, Layer
from agent.layers.effective import lay
from agent.manifest import MANIFEST_FILE, load_manifest
from agent.package import Kind, layer_paths
from agent.progress import Progress
from agent.release.follow import follow
from agent.release.place import Place
from agent.tomlfile import parse, read_plain
from agent.updates.choose import choose, offered
from agent.updates.floor import RELEASED_S
from agent.updates.flow import Flow, tidy
from agent.updates.jobs import Book, Do, Job, Track, over, taken
from agent.updates.papers import LAYER_LIMIT_BYTES
from agent.updates.probe import probe
from agent.updates.source import opened
from agent.updates.spool import work_local
from agent.updates.terms import Terms
from agent.updates.timer import in_window
from agent.updates.trial_run import Candidate
from agent.updates.verdicts import cut_off, judge
from agent.updates.wanted import Device

if TYPE_CHECKING:
    from agent.updates.preparing import Preparer

log = logging.getLogger(__name__)

Told = Callable[[Progress], None]
FORGOTTEN_S: Final = 2 * 86400.0
"""A candidate that nobody has judged so long after its probation goes back, seconds by the wall clock."""
TURN_S: Final = 0.5


class _ClosedError(UpdateError):
    """The repository cannot be opened at all."""

    def __init__(self, error: UpdateError) -> None:
        super().__init__(str(error), error.reason)
        self.error = error


class Worker:
    """One run of the updater."""

    def __init__(
        self, terms: Terms, book: Book, factory: Path | None, place: Path | None = None, releases: Place | None = None
    ) -> None:
        """`factory`: folder of the factory's models. `place`: a repository to take instead of the configured one.

        `releases`: where releases of the agent are installed.
        """
        self._releases = releases or Place()
        self._terms, self._book, self._factory, self._place = terms, book, factory, place
        self._folder, self._spool = terms.updates.folder, terms.updates.spool

    def work(self, told: Told = lambda _: None) -> list[Progress]:
        """Everything in the spool, and what an earlier run left undone; what became of it. Raises UpdateError."""
        ended: list[Progress] = []
        while self._local() or self._cut_off():
            with self._alone(patient=True):
                try:
                    with self._flow() as flow:
                        ended += self._recover(flow, told)
                        for job in self._local():
                            ended += self._one(flow, job, told)
                except _ClosedError as exc:
                    ended += self._refuse_all(exc.error)
        return ended

    def run(self, jobs: list[Job], told: Told = lambda _: None) -> list[Progress]:
        """These jobs, at once. Raises UpdateError: REJECTED_BUSY when another updater works."""
        with self._alone(patient=False), self._flow() as flow:
            self._recover(flow, told)
            return [flow.run(job, told) for job in jobs]

    def look(self, told: Told = lambda _: None, *, in_time: bool = False) -> list[Progress]:
        """Bring everything up to date that [updates] models names. `in_time`: in the maintenance window only.

        Raises UpdateError like `run`.
        """
        with self._alone(patient=in_time), self._flow() as flow:
            self._recover(flow, told)
            return self._look(flow, told, in_time=in_time)

    def _one(self, flow: Flow, job: Job, told: Told) -> list[Progress]:
        if job.do == "timer":
            taken(self._spool, job.id)
            return self._look(flow, told, in_time=True)
        progress = flow.run(job, told)
        taken(self._spool, job.id)
        over(self._spool, job.id)
        return [progress]

    def _look(self, flow: Flow, told: Told, *, in_time: bool) -> list[Progress]:
        """Trust and settings at any time; models, and the agent itself, in the window."""
        ended = [flow.run(Job(f"look-{time.time_ns():x}", "refresh"), told)]
        if ended[0].status == "failed":
            return ended
        device = self._device()
        if in_time and not in_window(device.config.window, time.localtime()):
            log.info("update look=done models=wait window=%s", device.config.window)
            return ended
        due = [self._due(device, flow, name) for name in device.config.models]
        return ended + [flow.run(job, told) for job in due if job]

    def _due(self, device: Device, flow: Flow, name: str) -> Job | None:
        """The job that brings `name` up to date, if there is anything to do."""
        kind: Kind = "agent" if name == AGENT else "model"
        do: Do = "release" if name == AGENT else "update"
        family = "agent" if name == AGENT else name
        try:
            offer = offered(flow.source.read, kind, family, device.config.channel, device.site, device.device)
        except UpdateError as exc:
            log.error("update model=%s refused=%s", name, exc)
            return None
        choice = choose(name, read_state(self._folder).model(name), offer, self._factory_version(name))
        log.info("update %s", choice.text)
        return Job(f"timer-{time.time_ns():x}", do, name, choice.version) if choice.version else None

    def _local(self) -> list[Job]:
        return work_local(self._folder, self._spool, self._book)

    def _cut_off(self) -> list[Progress]:
        return cut_off(read_state(self._folder), self._book)

    def _recover(self, flow: Flow, told: Told) -> list[Progress]:
        """Take up or end what an earlier run left undone. Nobody else works: we hold the lock."""
        _give_up_forgotten(self._folder, self._book, read_state(self._folder), self._terms.updates.probation_s)
        return [flow.resume(progress, told) for progress in self._cut_off()]

    @contextmanager
    def _alone(self, *, patient: bool) -> Iterator[None]:
        """Hold the job lock; `patient`: wait for it, and see to verdicts meanwhile. Raises UpdateError."""
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            while True:
                with locked(self._folder / JOB_LOCK) as free:
                    if free:
                        yield
                        self._tidy()
                        self._book.trim()
                        follow(self._folder, self._book)
                        return
                if not patient:
                    words = f"{self._folder}: another update is running"
                    raise UpdateError(f"{words}: try again when it is done", "REJECTED_BUSY")
                time.sleep(TURN_S)
                self._local()
        except OSError as exc:
            words = f"{exc.filename or self._folder}: {exc.strerror}"
            raise UpdateError(f"{words}: look at the disk, and run this as the user that owns {self._folder}") from exc

    @contextmanager
    def _flow(self) -> Iterator[Flow]:
        device = self._device()
        with ExitStack() as held:
            try:
                source = held.enter_context(opened(device.config, self._place))
            except UpdateError as exc:
                raise _ClosedError(exc) from exc
            yield Flow(device, self._book, source, self._probe, self._between, self._prepare)

    def _between(self) -> None:
        self._local()

    def _refuse_all(self, error: UpdateError) -> list[Progress]:
        """Without a repository no job gets further; an answer is better than waiting."""
        tracks = [Track(self._book, progress) for progress in self._cut_off()]
        for job in self._local():
            taken(self._spool, job.id)
            over(self._spool, job.id)
            if job.do != "timer":
                tracks.append(self._book.open(job))
        for track in tracks:
            track.fail(error)
        return [track.progress for track in tracks]

    def _device(self) -> Device:
        """With the fleet's layers as they are in the depot now; layers that cannot be used change nothing."""
        terms, path = self._terms, self._terms.path
        try:
            names = [Path(one).name for one in layer_paths(terms.site, terms.device, terms.updates.group)]
            layers = [layer for name in names if (layer := _layer(self._folder / CONFIG / name))]
            laid = lay(path, read_tables(path), layers).updates if layers else terms.updates
            config = replace(terms.updates, **{key: getattr(laid, key) for key in TABLES["updates"]})
        except ConfigError as exc:
            log.error("update layers=ignored reason=%s", exc)
            config = terms.updates
        return Device(config, terms.site, terms.device, self._factory, bool(self._releases.current))

    def _probe(self, name: str, pick: Pick) -> str:
        config = self._terms.updates
        return probe(Candidate(
            str(self._folder), name, pick.version, pick.sha256, config.probe_s, int(config.probe_memory_mb * 1e6),
            int(config.size_mb * 1e6), str(config.decryption_key or ""),
        ))  # fmt: skip

    def _prepare(self, name: str, pick: Pick) -> None:
        if preparer := self._preparer():
            preparer.version(name, pick)

    def _tidy(self) -> None:
        """Remove what the record no longer names, and bring prepared files up to what it does name."""
        preparer = self._preparer()
        before = preparer.digests() if preparer else set()
        tidy(self._folder)
        if preparer:
            preparer.forget(before - preparer.digests())
            preparer.kept()

    def _preparer(self) -> "Preparer | None":
        """None where there is no model to prepare: then nothing of it is loaded."""
        if not any((self._folder / "models").glob("*/*")):
            return None
        from agent.updates.preparing import Preparer

        try:
            return Preparer(self._terms.path, self._terms.updates)
        except ConfigError as exc:
            log.warning("update prepared=no reason=%s", exc)
            return None

    def _factory_version(self, name: str) -> str:
        """What is in the package; empty when nothing of this name is."""
        if self._factory is None or not (self._factory / name / MANIFEST_FILE).is_file():
            return ""
        try:
            return load_manifest(self._factory / name).version
        except LimpetError:
            return ""


def _layer(path: Path) -> Layer | None:
    try:
        return Layer(path.stem, parse(read_plain(path, LAYER_LIMIT_BYTES)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc


def _give_up_forgotten(folder: Path, book: Book, state: State, probation_s: float) -> None:
    """Candidates whose agent never said anything: each state has an end.

    What began under a clock that stood before this release was made is counted from now on: the clock, not the
    candidate, was wrong.
    """
    now_s = book.now_s()
    for name, trial in state.trials:
        if trial.since_wall_s < RELEASED_S <= now_s:
            with Writer(folder) as writer:
                writer.save(writer.state.counted_from(name, trial.sha256, now_s))
        elif now_s - trial.since_wall_s > probation_s + FORGOTTEN_S:
            words = "nobody judged it in time"
            judge(folder, book, Job(f"forgotten-{trial.sha256[:12]}", "verdict", name, sha256=trial.sha256,
                                    verdict="roll_back", reason="TIMED_OUT", text=words))  # fmt: skip
