"""The models and pipelines of the running agent: depot, shelf, seats, the succession of versions, recent inputs.

Makes the pipelines, gives each a seat that another version can take, and the lanes that feed them; then follows the
depot's record, once per turn of the main thread. What is decided here is decided in `agent.app.succession`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from agent.app.assembly import Assembled, assemble
from agent.app.report import host_numbers, similar_numbers
from agent.app.shelf import Shelf
from agent.app.succession import Place, Succession
from agent.app.tidings import Tidings
from agent.capture import EndOfStream, Source, inbox_limits, open_source
from agent.clock import Clock
from agent.config import Config, PipelineFile
from agent.envelope.atrest import load_store_key
from agent.inbox import Inbox
from agent.lanes import CaptureLane, PipelineLane
from agent.meters import Meters
from agent.pipeline import Pipeline, config_digest
from agent.recall import Clips, Recorder, forget
from agent.records import Draft, Sample
from agent.settings.capture import SourceConfig
from agent.stock import Stock, first_token
from agent.supervisor import Lane, Supervisor
from agent.trial.seat import Seat, Swap
from agent.updates.jobs import drop

log = logging.getLogger(__name__)

LOOK_DEADLINE_S = 60.0
"""A source or pipeline that says nothing for longer is stuck, seconds."""

Accept = Callable[[Draft], object]
Alarm = Callable[[str, str | None], None]


class Upkeep:
    """Owns the shelf and the seats."""

    def __init__(self, config: Config, clock: Clock, meters: Meters, alarm: Alarm) -> None:
        """Burns the tries of candidates where no unit does. Raises ConfigError for a store key that cannot be read."""
        self._config, self._clock, self._meters, self._alarm = config, clock, meters, alarm
        self._token = first_token(config.updates)
        self._stock = Stock(config.updates)
        self.shelf = Shelf(config.models, config.cache, clock, self._stock)
        self._places: tuple[Place, ...] = ()
        self._succession: Succession | None = None
        self._clips = self._open_clips()

    def assembled(self, files: Sequence[PipelineFile], sources: Iterable[str]) -> Assembled:
        """The pipelines that can run, each in its seat, and why the others cannot."""
        made = assemble(files, sources, self.shelf, config_digest(self._config))
        seats = tuple(Seat(p, self._leave, self._swapped) for p in made.pipelines if isinstance(p, Pipeline))
        by_name = {file.config.name: file for file in files}
        self._places = tuple(Place(by_name[seat.config.name], seat) for seat in seats)
        for seat in seats:
            self._introduce(seat)
            if similar_numbers(seat):
                self._meters.watch_similar(seat.config.name, partial(similar_numbers, seat))
            if host_numbers(seat):
                self._meters.watch_host(seat.config.name, partial(host_numbers, seat))
        text = "Models in memory, as [models] resident_mb counts them: by the size of their files."
        self._meters.watch_numbers("models", text, self.shelf.residency.numbers)
        self._meters.watch_numbers("cache", "Result cache, since the start.", lambda: asdict(self.shelf.cache.counts))
        return replace(made, pipelines=seats)

    def lanes(
        self, sources: Mapping[str, SourceConfig], accept: Accept,
        also: Callable[[str], Iterable[Inbox]] = lambda _: (),
    ) -> Iterator[Lane]:  # fmt: skip
        """A lane per source that somebody looks at, one per pipeline, and one per source whose inputs are kept.

        `also`: further inboxes that a source of that name fills.
        """
        for name, source in sources.items():
            mine = [place.seat for place in self._places if place.file.config.source == name]
            if not mine:
                continue
            inboxes = [Inbox(*inbox_limits(source)) for _ in mine]
            kept = self._recorders(name)
            capture = self._capture(name, source, [*inboxes, *(recorder.inbox for recorder in kept), *also(name)])
            yield Lane(f"capture:{name}", capture.run, LOOK_DEADLINE_S)
            for seat, inbox in zip(mine, inboxes, strict=True):
                self._meters.watch_inbox(seat.config.name, inbox)
                lane = PipelineLane(seat, inbox, accept, self._meters)
                yield Lane(f"pipeline:{seat.config.name}", lane.run, LOOK_DEADLINE_S)
            yield from (Lane(f"recall:{name}", recorder.run, LOOK_DEADLINE_S) for recorder in kept)

    def follow(self, accept: Accept, services: Supervisor, lookers: Supervisor) -> None:
        """Begin to follow the depot's record. Loading lanes run under `services`, the pipelines under `lookers`."""
        tidings = Tidings(partial(drop, self._config.updates.spool), accept, self._alarm, self._clock)
        self._succession = Succession(
            self._config.updates, self._stock, self.shelf, self._places, tidings, services.add, self._clock.mono_s,
            self._token, config_digest(self._config), self._recent,
            lambda name: lookers.replace_thread(f"pipeline:{name}"),
        )  # fmt: skip

    def turn(self) -> None:
        """Once per turn of the main thread: one stat where nothing changed."""
        if self._succession is not None:
            self._succession.turn()

    # --- pipelines ------------------------------------------------------------------------------------------------

    def _introduce(self, seat: Seat) -> None:
        name, runner = seat.config.name, seat.runner
        if runner is None:
            return
        self._meters.show_model(name, runner.model)
        model, used = f"{runner.model.name} {runner.model.version}", ",".join(runner.used)
        log.info("pipeline=%s model=%r runtime=%s used=%s", name, model, runner.runtime, used)
        if seat.demonstration:
            log.warning("pipeline=%s model=%r is a demonstration: %s", name, model, seat.demonstration)
        for fallback in runner.fallbacks:
            log.warning("pipeline=%s fallback asked=%s reason=%r", name, fallback.asked, fallback.reason)

    def _capture(self, name: str, source: SourceConfig, inboxes: list[Inbox]) -> CaptureLane:
        def opened(first_seq: int) -> Source:
            return open_source(name, source, self._clock, first_seq)

        return CaptureLane(name, opened, EndOfStream, inboxes, self._meters)

    def _leave(self, pipeline: Pipeline) -> None:
        if pipeline.inference is not None:
            self.shelf.give_back(pipeline.inference)

    def _swapped(self, swap: Swap) -> None:
        self._meters.swapped(swap.pipeline, swap.spent_s)
        for model, now in ((swap.before, False), (swap.after, True)):
            if model is not None:
                self._meters.show_model(swap.pipeline, model, now=now)
        before, after = (f"{m.name} {m.version}" if m else "none" for m in (swap.before, swap.after))
        log.info("pipeline=%s model=%r before=%r swap_ms=%.3f", swap.pipeline, after, before, swap.spent_s * 1e3)

    # --- recent inputs --------------------------------------------------------------------------------------------

    def _open_clips(self) -> Clips | None:
        updates = self._config.updates
        if not updates.ring_mb:
            forget(updates.ring_folder)
            return None
        key = load_store_key(self._config.store.key_file)
        clips = Clips(updates.ring_folder, key, int(updates.ring_mb * 1e6))
        self._meters.watch_numbers("recall", "Recent inputs kept for comparing models.", clips.numbers)
        return clips

    def _recorders(self, source: str) -> list[Recorder]:
        updates = self._config.updates
        if self._clips is None:
            return []
        return [Recorder(source, self._clips, updates.ring_every_s, updates.ring_clip_s, self._clock.mono_s)]

    def _recent(self, source: str) -> Iterable[Sequence[Sample]]:
        return self._clips.of(source) if self._clips is not None else ()
