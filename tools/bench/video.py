"""Section `video`: CPU per picture of Limpet, of the bare loop and of the obvious script, for three models.

Contenders, see `tools.bench.floors`: (a) bare, (b) script, (c) Limpet with a critical event per picture, its cache and
gates off, and the same with routine events; (d) on a scene in which nothing moves, bare against Limpet with a motion
gate and the cache. CPU is that of all threads and children, decoding included; the broker's is no part of it.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from tools.bench import chart
from tools.bench.agents import NO_CACHE, PIPELINE, Ground, film_source, ground
from tools.bench.detectors import DETECTORS, Detector, write
from tools.bench.films import film, first_picture, static_film
from tools.bench.rounds import Contenders, compared, floor, limpet
from tools.bench.run import Run
from tools.bench.spread import words

GOALS = {"small": 1.25, "large": 1.05, "static": 0.30}
"""Limpet's CPU over that of the bare loop, at most."""
_FRAMES = {"small": 2000, "medium": 900, "large": 600, "static": 800}
"""Pictures per contender and round: some four seconds each."""
_ROUTINE = 'class = "routine"'
_GATED = '[gate]\nstep = "motion"'
_NAMES = {"bare": "bare loop", "script": "obvious script", "limpet": "Limpet", "routine": "Limpet, routine events"}


def measure(run: Run) -> dict[str, Any]:
    """CPU seconds per 1,000 pictures and ratios, per model and contender."""
    moving, still = film(run), static_film(run)
    models, rounds = run.folder / "models", run.many(3, 1)
    files = {d.name: write(models, d, first_picture(moving)) for d in DETECTORS}
    figures: dict[str, Any] = {"film": moving.name, "rounds": rounds}
    with ground(run.folder) as at:
        for one in DETECTORS[:1] if run.quick else DETECTORS:
            frames = run.many(_FRAMES[one.name], 60)
            figures[one.name] = compared(rounds, _contenders(at, one, files[one.name], moving, frames))
        large, frames = DETECTORS[-1], run.many(_FRAMES["static"], 60)
        figures["static"] = compared(rounds, _static(at, large, files[large.name], still, frames))
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    made = ["| model | contender | CPU s per 1,000 pictures | over the bare loop | goal |", "|---|---|---|---|---|"]
    for name, group in figures.items():
        if isinstance(group, dict):
            for who, figure in group.items():
                goal = f"{GOALS[name]:.2f}" if who == "limpet" and name in GOALS else ""
                cells = (_title(name), _NAMES[who], words(figure["cpu_s_per_1000"]), words(figure["ratio"]), goal)
                made.append(f"| {' | '.join(cells)} |")
    return made


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """Bars of CPU per picture."""
    groups = {_title(n): _bars(n, g) for n, g in figures.items() if isinstance(g, dict)}
    unit = "CPU seconds per 1,000 pictures of 640 x 360, decoding included; all threads and children; dashed: goal"
    return {"video.svg": chart.bars("What a picture costs", unit, groups)}


def _bars(name: str, group: dict[str, Any]) -> list[chart.Bar]:
    colours = {"bare": chart.GREY, "script": chart.RED, "limpet": chart.BLUE, "routine": chart.CYAN}
    bare = group["bare"]["cpu_s_per_1000"]["median"]
    made = []
    for who, figure in group.items():
        cpu, ratio = figure["cpu_s_per_1000"], figure["ratio"]["median"]
        goal = bare * GOALS[name] if who == "limpet" and name in GOALS else None
        text = f"{cpu['median']:.2f}" + (f"  {ratio:.2f}x" if who != "bare" else "")
        made.append(chart.Bar(_NAMES[who], cpu["median"], text, cpu["least"], cpu["most"], goal, colours[who]))
    return made


def _title(name: str) -> str:
    if name == "static":
        return "static scene, 4 ms model, gate and cache on"
    return next(f"{d.words} model" for d in DETECTORS if d.name == name)


def _contenders(at: Ground, one: Detector, file: Path, film_: Path, frames: int) -> Contenders:
    pipeline = partial(PIPELINE.format, name="looking", source="film", model=one.name)
    models, bare = file.parent.parent, _words("bare", one, file, film_, frames)
    return {
        "bare": partial(floor, *bare),
        "script": partial(floor, *_words("script", one, file, film_, frames), json.dumps(at.account)),
        "limpet": partial(limpet, at, pipeline(extra=""), models, film_source(film_), frames, NO_CACHE),
        "routine": partial(limpet, at, pipeline(extra=_ROUTINE), models, film_source(film_), frames, NO_CACHE),
    }


def _static(at: Ground, one: Detector, file: Path, film_: Path, frames: int) -> Contenders:
    pipeline = PIPELINE.format(name="looking", source="film", model=one.name, extra=_GATED)
    return {
        "bare": partial(floor, *_words("bare", one, file, film_, frames)),
        "limpet": partial(limpet, at, pipeline, file.parent.parent, film_source(film_), frames, ""),
    }


def _words(kind: str, one: Detector, file: Path, film_: Path, frames: int) -> tuple[str, ...]:
    return ("tools.bench.floors", kind, str(film_), str(file), str(one.side_px), str(frames))
