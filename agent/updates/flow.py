"""One update as a state machine: refresh, choose, download, verify, stage, probe, activate; then the agent judges.

Each state is durable before what it announces is done, so that a kill or a power cut at any moment leaves a job that
the next start takes up again or ends. Nothing that runs is touched before `activate`, and that is one change of the
record. Every step has a deadline on the monotonic clock. A job can be cancelled up to and including `staged`. One job
at a time: who calls holds the depot's job lock.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from agent.depot import Mode, Pick, Writer, collect, put, read_state
from agent.depot.places import PARTS
from agent.depot.record import refuse_trial
from agent.errors import UpdateError
from agent.package import FileEntry
from agent.progress import CANCELLABLE, Progress, Status
from agent.updates.deadline import within
from agent.updates.jobs import Book, Job, Track, asked_again, cancelled
from agent.updates.papers import fetch_papers
from agent.updates.taking import Kin, stored, take_model, take_release
from agent.updates.verdicts import settle
from agent.updates.wanted import Device, Wanted, find_wanted

log = logging.getLogger(__name__)

REFRESH_S: Final = 300.0
"""Longest time for metadata, channel pointers, trust and settings, seconds."""
DISK_S: Final = 1800.0
"""Longest time for bringing an update to the disk and reading it back, seconds."""
RESUMES: Final = 3
"""So often a job that was broken off is taken up again; each time a candidate may be probed once more."""


class Source(Protocol):
    """A repository, over the network or in a folder. Everything it gives is proved; it raises UpdateError."""

    def refresh(self) -> None: ...
    def read(self, path: str, limit_bytes: int, local: Path | None = None, /) -> bytes | None: ...
    def fetch(
        self, entries: Sequence[FileEntry], into: Path, kin: Kin, progress: Callable[[int, int], None], /
    ) -> None: ...


Prepare = Callable[[str, Pick], None]
"""Makes what a large model of the depot is mapped from, or does not."""
Probe = Callable[[str, Pick], str]
"""Tries a model of the depot in a process of its own: why it cannot stay, or an empty text."""


class Flow:
    """Carries jobs out, one after the other."""

    def __init__(
        self, device: Device, book: Book, source: Source, probe: Probe, between: Callable[[], None] = lambda: None,
        prepare: Prepare = lambda *_: None,
    ) -> None:  # fmt: skip
        """`between`: called at least once per second of a download, for what must not wait for its end."""
        self._device, self._book, self._probe = device, book, probe
        self.source = source
        self._between, self._prepare = between, prepare

    def run(self, job: Job, told: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Carry out `job`, or say how it ended when its id was seen before. Raises UpdateError: the disk refuses."""
        if known := self._book.get(job.id):
            return known
        return self._carry(self._book.open(job), job, told)

    def resume(self, progress: Progress, told: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Take up a job that a kill or a power cut broke off, or end it when that happened too often."""
        track = Track(self._book, progress)
        times = int(progress.detail.get("resumed", 0)) + 1
        if progress.operation not in ("update", "release", "refresh") or times > RESUMES:
            words = f"it was broken off {times} times, last in the state {progress.status}: ask again"
            track.fail(UpdateError(words, "INTERRUPTED"))
            return track.progress
        track.move("scheduled", "taken up again", resumed=times)
        return self._carry(track, asked_again(progress), told)

    def refresh(self) -> list[str]:
        """New metadata, trust and settings: what changed. Raises UpdateError."""
        with within(REFRESH_S, "looking into the repository"):
            self.source.refresh()
            device = self._device
            group = device.config.group
            changed, refused = fetch_papers(device.folder, self.source.read, device.site, device.device, group)
        for words in refused:
            log.error("update refused=%s", words)
        return changed

    def _carry(self, track: Track, job: Job, told: Callable[[Progress], None]) -> Progress:
        track.told = told
        try:
            self._steps(track, job)
        except UpdateError as exc:
            track.fail(exc)
            log.warning("update job=%s failed=%s reason=%s", job.id, exc, exc.reason)
        except OSError as exc:
            track.fail(UpdateError(f"{exc.filename or 'the disk'}: {exc.strerror}", "FAILED"))
        return track.progress

    def _steps(self, track: Track, job: Job) -> None:
        self._move(track, "executing", "looking into the repository")
        changed = self.refresh()
        if job.do == "refresh" and not job.model:
            track.move("successful", f"{len(changed)} changed", changed=changed)
            return
        with within(REFRESH_S, "choosing a version"):
            wanted = find_wanted(self.source.read, self._device, job)
        track.progress = replace(track.progress, detail={**track.progress.detail, **_told(wanted, self._device.folder)})
        if self._is_here(wanted, job):
            track.move("successful", f"{wanted.package} is active already")
            return
        if job.do in {"update", "release"}:
            refuse_trial(wanted.name, read_state(self._device.folder).model(wanted.name), wanted.pick)
        self._bring(track, wanted, job)

    def _bring(self, track: Track, wanted: Wanted, job: Job) -> None:
        self._move(track, "download")
        stage = self._stage(wanted)
        try:
            with within(self._device.config.download_s, "the download"):
                entries = self._download(track, wanted, stage)
            self._move(track, "verify")
            with within(DISK_S, "bringing it to the disk"):
                put(self._device.folder, wanted.name, wanted.pick, wanted.data, stored(entries), stage)
        except UpdateError as exc:
            if exc.reason not in ("DOWNLOAD_FAILED", "TIMED_OUT"):  # what is good of those is kept for the next time
                shutil.rmtree(stage, ignore_errors=True)
            raise
        shutil.rmtree(stage, ignore_errors=True)
        if job.do == "refresh":
            track.move("successful", f"{wanted.package} is whole again")
            return
        self._move(track, "staged", "trying it in a process of its own")
        self._prove(wanted)
        self._move(track, "activate")
        self._activate(track, wanted)

    def _is_here(self, wanted: Wanted, job: Job) -> bool:
        """Whether nothing is left to do. Raises UpdateError when it is on probation already."""
        model = read_state(self._device.folder).model(wanted.name)
        if job.do == "refresh":
            return False
        if model.trial and model.trial.pick == wanted.pick:
            words = f"{wanted.package} is on probation already, by job {model.trial.job}"
            raise UpdateError(f"{words}: wait for its verdict", "REJECTED_BUSY")
        return model.active == wanted.pick

    def _download(self, track: Track, wanted: Wanted, stage: Path) -> tuple[FileEntry, ...]:
        kin = Kin(self._device.folder, wanted.name, self._device.factory)

        def progress(done: int, of: int) -> None:
            if track.tick(done, of):
                self._refuse_cancelled(track)
                self._between()

        def bring(entries: Sequence[FileEntry]) -> None:
            self.source.fetch(entries, stage, kin, progress)

        entries = take_release(wanted.package) if wanted.kind == "agent" else take_model(wanted.package, stage, bring)
        bring(entries)
        return entries

    def _prove(self, wanted: Wanted) -> None:
        """Try a model; one that fails is remembered as bad and removed. Raises UpdateError."""
        if wanted.kind == "agent":
            return  # a release is proved by the step that installs it
        if not (why := self._probe(wanted.name, wanted.pick)):
            self._prepare(wanted.name, wanted.pick)
            return
        with Writer(self._device.folder) as writer:
            writer.save(writer.state.refuse(wanted.name, wanted.pick, why))
        collect(self._device.folder)
        raise UpdateError(f"{wanted.package} did not pass its test: {why}", "VERIFY_FAILED")

    def _activate(self, track: Track, wanted: Wanted) -> None:
        config = self._device.config
        with Writer(self._device.folder) as writer:
            before = writer.state.model(wanted.name).trial
            mode: Mode = "live" if wanted.kind == "agent" or config.shadow == "off" else "shadow"
            state = writer.save(writer.state.begin_trial(
                wanted.name, wanted.pick, tries=config.tries, mode=mode, job=track.progress.id,
                now_s=self._book.now_s(),
            ))  # fmt: skip
        if before:
            settle(state, self._book, [before.job])
        track.move("probation", "", mode=mode, generation=state.generation)

    def _stage(self, wanted: Wanted) -> Path:
        stage = self._device.folder / PARTS / wanted.pick.sha256
        stage.mkdir(mode=0o755, parents=True, exist_ok=True)
        return stage

    def _move(self, track: Track, status: Status, text: str = "", **detail: Any) -> None:
        self._refuse_cancelled(track)
        track.move(status, text, **detail)

    def _refuse_cancelled(self, track: Track) -> None:
        if cancelled(self._device.config.spool, track.progress.id) and track.progress.status in CANCELLABLE:
            raise UpdateError("cancelled on request", "CANCELED")


def _told(wanted: Wanted, folder: Path) -> dict[str, str]:
    active = read_state(folder).model(wanted.name).active
    before = active.version if active else "factory"
    return {"model": wanted.name, "version": wanted.pick.version, "sha256": wanted.pick.sha256, "from": before}


def tidy(folder: Path) -> None:
    """Remove what the record no longer names, and downloads that nobody has gone on with for two weeks."""
    collect(folder)
    newest_s = max((p.stat().st_mtime for p in (folder / "jobs").glob("*.json")), default=0.0)
    for stage in (folder / PARTS).glob("*"):
        with suppress(OSError):
            if newest_s - stage.stat().st_mtime > 14 * 86400:
                shutil.rmtree(stage)
