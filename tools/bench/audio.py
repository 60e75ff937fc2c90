"""Section `audio`: CPU per window of streaming sound, of Limpet, of the bare loop and of the obvious script.

The shipped keyword model hears its own recording, a window of a second every quarter of a second, as fast as it can.
See `tools.bench.video`, whose contenders these are.
"""

import json
from functools import partial
from typing import Any

from tests.agents import MODELS
from tools.bench import chart
from tools.bench.agents import PIPELINE, ground
from tools.bench.rounds import Contenders, compared, floor, limpet
from tools.bench.run import Run
from tools.bench.spread import words

_NAMES = {"bare": "bare loop", "script": "obvious script", "limpet": "Limpet", "routine": "Limpet, routine events"}
_MODULE = "tools.bench.floors_audio"


def measure(run: Run) -> dict[str, Any]:
    """CPU seconds per 1,000 windows, and over the bare loop's."""
    folder, views = MODELS / "keywords", str(run.many(3000, 60))
    sound = folder / "demo.wav"
    pipeline = partial(PIPELINE.format, name="hearing", source="film", model="keywords")
    source = f'kind = "replay"\npath = "{sound}"\nspeed = "max"\nloop = true'
    plain = (MODELS, source, int(views), "\n[cache]\nenabled = false\n")
    with ground(run.folder) as at:
        contenders: Contenders = {
            "bare": partial(floor, _MODULE, "bare", str(sound), str(folder), views),
            "script": partial(floor, _MODULE, "script", str(sound), str(folder), views, json.dumps(at.account)),
            "limpet": partial(limpet, at, pipeline(extra=""), *plain),
            "routine": partial(limpet, at, pipeline(extra='class = "routine"'), *plain),
        }
        return compared(run.many(3, 1), contenders)


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    made = ["| contender | CPU s per 1,000 windows | over the bare loop |", "|---|---|---|"]
    for who, figure in figures.items():
        made.append(f"| {_NAMES[who]} | {words(figure['cpu_s_per_1000'])} | {words(figure['ratio'])} |")
    return made


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """Bars of CPU per window."""
    colours = {"bare": chart.GREY, "script": chart.RED, "limpet": chart.BLUE, "routine": chart.CYAN}
    made = []
    for who, figure in figures.items():
        cpu, ratio = figure["cpu_s_per_1000"], figure["ratio"]["median"]
        text = f"{cpu['median']:.2f}" + (f"  {ratio:.2f}x" if who != "bare" else "")
        made.append(chart.Bar(_NAMES[who], cpu["median"], text, cpu["least"], cpu["most"], None, colours[who]))
    unit = "CPU seconds per 1,000 windows of a second; all threads and children"
    return {"audio.svg": chart.bars("What a window of sound costs", unit, {"keywords, one event per window": made})}
