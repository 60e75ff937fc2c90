"""`limpet replay`: run a recording through a pipeline, every sample in order, none dropped."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from agent.app.assembly import make_pipeline
from agent.app.shelf import Shelf
from agent.capture import file_samples
from agent.cli import lines
from agent.cli.options import DEFAULT_CONFIG, Commands
from agent.cli.phrases import told
from agent.clock import Clock, SystemClock
from agent.config import Config, PipelineFile, load_config, load_pipeline, load_pipelines, load_sources
from agent.errors import ConfigError, ModelError
from agent.pipeline import Outcome, Pipeline
from agent.records import Draft, Sample
from agent.settings.capture import ReplayConfig
from agent.settings.runtime import CacheConfig, ModelsConfig
from agent.stock import Stock
from agent.views import silence_after


def add_parser(sub: Commands) -> None:
    """Describe the command."""
    parser = sub.add_parser("replay", help="run a recording through a pipeline")
    parser.add_argument("--pipeline", required=True, metavar="P", help="a configured pipeline's name, or its TOML file")
    parser.add_argument("file", type=Path, metavar="FILE", help="video, folder of pictures, WAV, CSV, JSON lines ...")
    parser.add_argument("--config", type=Path, help=f"limpet.toml (default for a name: {DEFAULT_CONFIG})")
    parser.add_argument("--models", type=Path, action="append", default=[], help="more folders that hold models")
    parser.add_argument("--realtime", action="store_true", help="at the recording's own pace instead of at once")
    parser.add_argument("--json", action="store_true", help="JSON lines (docs/cli.schema.json)")


def run(args: argparse.Namespace) -> int:
    """Print results, events and gaps; 1 when the recording or a model fails on the way."""
    config = load_config(args.config) if args.config else None
    file = _pipeline_file(args.pipeline, config)
    models = config.models if config else ModelsConfig()
    clock = SystemClock()
    shelf = Shelf(
        replace(models, folders=(*args.models, *models.folders)),
        config.cache if config else CacheConfig(),
        clock,
        Stock(config.updates) if config and not args.models else None,
    )
    try:
        pipeline = _made(file, shelf)
        settings = _settings_of(file, config, args.config)
        for fields in _lines(pipeline, args.file, settings, clock, realtime=args.realtime):
            print(lines.write(fields) if args.json else _words(fields), flush=not sys.stdout.isatty())
    finally:
        shelf.close()
    return 0


def _made(file: PipelineFile, shelf: Shelf) -> Pipeline:
    try:
        return make_pipeline(file, shelf)
    except ModelError as exc:
        raise ConfigError(f"{file.path}: {exc}") from exc


def _pipeline_file(name: str, config: Config | None) -> PipelineFile:
    if name.endswith(".toml") or "/" in name:
        return load_pipeline(Path(name))
    places = (config or load_config(DEFAULT_CONFIG)).paths.pipelines
    good, broken = load_pipelines(places)
    for file in good:
        if file.config.name == name:
            return file
    why = f": {broken[name]}" if name in broken else f": there are {', '.join(f.config.name for f in good) or 'none'}"
    raise ConfigError(f"pipeline {name!r} is not in {', '.join(map(str, places))}{why}")


def _settings_of(file: PipelineFile, config: Config | None, path: Path | None) -> ReplayConfig | None:
    """The pipeline's own source when it is a recording too: its rates and columns count here as well.

    Of any other source the mask counts: what a pipeline may not see it does not see in a recording.
    """
    if config is None or path is None:
        return None
    source = load_sources(config, path)[0].get(file.config.source)
    if source is None or isinstance(source, ReplayConfig):
        return source
    mask = getattr(source, "mask", None)
    return ReplayConfig(path=path, mask=mask) if mask else None


def _lines(
    pipeline: Pipeline, path: Path, settings: ReplayConfig | None, clock: Clock, *, realtime: bool
) -> Iterator[dict[str, Any]]:
    last, looked = None, False
    for last in _samples(path, settings, clock, realtime=realtime):
        if last.gap:
            yield {"type": "gap", "source": last.source, "seq": last.seq, "t_s": last.t_s}
        for outcome in pipeline.feed(last):
            looked = True
            yield from _of(outcome)
    if last is not None and not looked:  # a sound shorter than one window
        outcomes = (outcome for sample in silence_after(last) for outcome in pipeline.feed(sample))
        for outcome in islice(outcomes, 1):
            yield from _of(outcome)
    if last is not None:
        for outcome in pipeline.finish(last):
            yield from _of(outcome)


def _of(outcome: Outcome) -> Iterator[dict[str, Any]]:
    if outcome.result is not None:
        yield lines.result_fields(outcome.result)
    for draft in outcome.drafts:
        yield _event(draft, outcome)


def _event(draft: Draft, outcome: Outcome) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": "event", "pipeline": draft.pipeline, "stream": draft.stream, "kind": draft.kind,
        "class": draft.event_class, "decided_by": draft.decided_by, "body": lines.clean(dict(draft.body)),
    }  # fmt: skip
    if outcome.result is not None:
        fields |= {"seq": outcome.result.seq, "t_s": round(outcome.result.t_s, 6)}
    return fields


def _samples(path: Path, settings: ReplayConfig | None, clock: Clock, *, realtime: bool) -> Iterator[Sample]:
    start_s: float | None = None
    for sample in file_samples(path, "auto", clock, settings):
        if realtime:
            start_s = clock.mono_s() - sample.t_s if start_s is None else start_s
            clock.sleep(start_s + sample.t_s - clock.mono_s())
        yield sample


def _words(fields: dict[str, Any]) -> str:
    if fields["type"] == "gap":
        return f"{fields['t_s']:10.3f}s  gap before sample {fields['seq']}"
    if fields["type"] == "event":
        when = f"{fields['t_s']:10.3f}s" if "t_s" in fields else " " * 11
        return f"{when}  EVENT {fields['stream']} {fields['kind']} {told(fields['body'])}"
    seen = ", ".join(f"{f['label']} {f['score']:.3f}" for f in fields["findings"][:3]) or "-"
    reused = " (similar)" if fields.get("cache") == "similar" else ""
    return f"{fields['t_s']:10.3f}s  #{fields['seq']} {seen}{reused}"
