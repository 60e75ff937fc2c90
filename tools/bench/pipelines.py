"""Section `pipelines`: what 1, 4 and 16 pipelines cost that look at one camera with one model.

Every pipeline looks at every picture and tells one routine event about it; the model is loaded once. The film is
decoded once, so that the cost of a further pipeline shows beside the first.
"""

from typing import Any

from tools.bench import chart
from tools.bench.agents import NO_CACHE, PIPELINE, Plan, Watched, agent, film_source, ground, spent
from tools.bench.detectors import DETECTORS, write
from tools.bench.films import film, first_picture
from tools.bench.processes import memory
from tools.bench.run import Run

COUNTS = (1, 4, 16)


def measure(run: Run) -> dict[str, Any]:
    """CPU per picture and per view in milliseconds, private memory, by number of pipelines."""
    moving, one = film(run), DETECTORS[0]
    write(run.folder / "models", one, first_picture(moving))
    figures: dict[str, Any] = {}
    with ground(run.folder) as at:
        for count in COUNTS:
            texts = tuple(
                PIPELINE.format(name=f"looking-{n}", source="film", model=one.name, extra='class = "routine"')
                for n in range(count)
            )
            plan = Plan({"film": Watched(film_source(moving), texts)}, run.folder / "models", NO_CACHE)
            with agent(at, plan) as running:
                cost = spent(running, 30 * count, run.many(1500, 40) * (count + 3) // 4)
                private_mib = memory(running.pid).private_mib
            per_view_ms = cost["cpu_s"] / cost["frames"] * 1e3
            figures[str(count)] = {
                "cpu_ms_per_view": per_view_ms, "cpu_ms_per_picture": per_view_ms * count, "private_mib": private_mib,
            }  # fmt: skip
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    made = ["| pipelines | CPU ms per picture | CPU ms per view | private MiB |", "|---|---|---|---|"]
    for count, figure in figures.items():
        cells = (figure["cpu_ms_per_picture"], figure["cpu_ms_per_view"], figure["private_mib"])
        made.append(f"| {count} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return made


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """CPU over the number of pipelines."""
    series = {
        words: [(float(count), figure[key]) for count, figure in figures.items()]
        for words, key in (("per picture", "cpu_ms_per_picture"), ("per view", "cpu_ms_per_view"))
    }
    title = "What further pipelines on one camera cost"
    return {"pipelines.svg": chart.lines(title, "pipelines", "CPU, milliseconds, 0.3 ms model", series)}
