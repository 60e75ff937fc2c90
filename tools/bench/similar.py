"""The caches: how much work similar pictures save and what they get wrong, and what a hit costs.

Streams: three public videos, and scenes of a fixed camera made from one picture of a table (`tools.bench.scenes`), all
through a public detector at its own threshold. Every picture is computed, so that every reused answer can be judged.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import xxhash

from agent.cache import ResultCache, digest
from agent.inference import Inference
from agent.records import Array, View
from agent.settings.runtime import CacheConfig, SimilarConfig
from agent.similar import Answer, Judge
from pipelines.thumbnail import thumbnail
from tests.realdata import inference
from tools.bench.pareto import draw as drawn
from tools.bench.rivals import labels, rivals
from tools.bench.run import Run
from tools.bench.scenes import FPS, SCENES, Stage, pictures

CONFIG = SimilarConfig(enabled=True)
FILMS = {"bottle-detection.mp4": 1, "car-detection.mp4": 4, "worker-zone-detection.gif": 4}
"""Video -> how often it is played, one after the other; a few seconds teach nothing."""
SCENE_VIEWS = 2400
"""Four minutes."""
SETTLED_VIEWS = 1200
"""What comes later in a stream counts as settled."""
TABLE = "inputs/bottle-detection.mp4"


def measure(run: Run) -> dict[str, Any]:
    """Streams with all rivals, and costs in microseconds."""
    cv2.setNumThreads(1)
    figures: dict[str, Any] = {"exact_hit": exact_hit(run), "settings": {"max_error": CONFIG.max_error}}
    if run.real(TABLE) is None:
        return figures | {"streams": {}, "left_out": "streams: there are no real recordings here"}
    eyes = inference("fastestdet")
    streams = {name: contest(eyes, views) for name, views in all_streams(run)}
    return figures | {"streams": streams, "similar_hit": similar_hit(eyes, run)}


def all_streams(run: Run) -> Iterator[tuple[str, Iterator[tuple[float, Array]]]]:
    """Name and pictures with stream seconds."""
    stage = table_stage(run.real(TABLE))
    for name in SCENES:
        yield name, pictures(name, stage, run.many(SCENE_VIEWS, 60))
    for name, times in FILMS.items():
        path = run.real(f"inputs/{name}")
        if path is not None:
            yield name.partition("-")[0] + (f" x{times}" if times > 1 else ""), film(path, times, run.many(10**6, 60))


def film(path: Path, times: int, most: int) -> Iterator[tuple[float, Array]]:
    """A video played `times` over, its time going on."""
    n = 0
    for _ in range(times):
        capture = cv2.VideoCapture(str(path))
        fps = capture.get(cv2.CAP_PROP_FPS)
        while n < most:
            good, picture = capture.read()
            if not good:
                break
            yield n / fps, picture
            n += 1
        capture.release()


def table_stage(path: Path | None) -> Stage:
    """The table with one bottle left, and the first bottle as the thing that moves, with soft edges."""
    frames = [picture for n, (_, picture) in enumerate(film(path, 1, 541)) if n in (0, 540)] if path else []
    first, table = (cv2.resize(frame, (640, 480), interpolation=cv2.INTER_AREA) for frame in frames)
    thing = first[135:425, 46:130].astype(np.float32)
    x, y = (np.minimum(np.arange(n), np.arange(n)[::-1]) / 8 for n in thing.shape[1::-1])
    edge = np.clip(np.minimum(x[None], y[:, None]), 0, 1)[..., None].astype(np.float32)
    return Stage(table, thing, edge, 425)


def contest(eyes: Inference, views: Iterator[tuple[float, Array]]) -> dict[str, Any]:
    """Every rival on one stream, and how often the detector differs with itself from picture to picture."""
    floor = float((eyes.manifest.decoder or {}).get("threshold", 0.0))
    judge = Judge(CONFIG.score_band, CONFIG.min_iou, CONFIG.value_band, floor)
    scores, answers = rivals(CONFIG, floor), list[Answer]()
    for n, (t_s, picture) in enumerate(views):
        view = seen(picture, t_s)
        answers.append(Answer(eyes(view).findings, {}, view_of_nothing(view), "", 0.0))
        for score in scores.values():
            score.look(view, answers[-1], judge, settled=n >= SETTLED_VIEWS)
    own = [judge.differ(a.findings, b.findings) for a, b in pairwise(answers)]
    other = [labels(a) != labels(b) for a, b in pairwise(answers)]
    return {
        "views": len(answers), "next_picture_differs_share": float(np.mean(own)),
        "next_picture_other_labels_share": float(np.mean(other)),
        "rivals": {name: score.figures() for name, score in scores.items()},
    }  # fmt: skip


def seen(picture: Array, t_s: float) -> View:
    """A camera's picture as a view."""
    return View(picture, t_s, t_s, size=(picture.shape[1], picture.shape[0]))


def view_of_nothing(view: View) -> View:
    """Without its pixels: thousands are kept."""
    return replace(view, data=view.data[:0].copy())


def exact_hit(run: Run) -> dict[str, Any]:
    """What a hit of the exact cache costs, and how much of that is beyond hashing the numbers, microseconds."""
    shapes, times = ((96, 96, 1), (224, 224, 3)), run.many(20_000, 200)
    return {"x".join(map(str, shape)): _exact_hit(shape, times) for shape in shapes}


def _exact_hit(shape: tuple[int, ...], times: int) -> dict[str, float]:
    array = np.random.default_rng(1).integers(0, 256, (1, *shape), np.uint8)
    fed, salt, cache = {"input": array}, bytes(128), ResultCache(CacheConfig(), time.monotonic)
    cache.put(digest({}, salt + digest(fed)), {"y": np.zeros((1, 2), np.int8)}, 1.0)
    hit_us = each_us(lambda: cache.get(digest({}, salt + digest(fed))), times)
    hashing_us = each_us(lambda: xxhash.xxh3_128(array.data).digest(), times)
    assert cache.counts.misses == 0
    return {"hit_us": hit_us, "hashing_us": hashing_us, "beyond_hashing_us": hit_us - hashing_us}


def similar_hit(eyes: Inference, run: Run) -> dict[str, Any]:
    """CPU time of a still scene that has settled, per picture: computed, and with similar pictures; and of one look."""
    stage = table_stage(run.real(TABLE))
    scene = [picture for _, picture in pictures("still", stage, run.many(120, 8))]
    near = Inference(eyes.manifest, eyes.runner, similar=CONFIG)
    thumb_us = each_us(lambda: thumbnail(scene[0]), run.many(4000, 40))
    learning, rounds = run.many(400, 8), run.many(5, 1)
    for n in range(learning):
        near(seen(scene[n % len(scene)], n / FPS))
    took: dict[str, list[float]] = {"computed_us": [], "similar_us": []}
    for n in range(rounds):
        for name, infer in (("computed_us", eyes), ("similar_us", near)):
            start_s = time.thread_time()
            for i, picture in enumerate(scene):
                infer(seen(picture, (learning + n * len(scene) + i) / FPS))
            took[name].append((time.thread_time() - start_s) / len(scene) * 1e6)
    made = {name: median(values) for name, values in took.items()}
    return made | {"share_of_computing": made["similar_us"] / made["computed_us"], "thumbnail_us": thumb_us}


def each_us(call: Callable[[], object], times: int) -> float:
    """The least of ten rounds, CPU microseconds per call: the others were disturbed."""
    least = float("inf")
    for _ in range(10):
        start_s = time.thread_time()
        for _ in range(max(times // 10, 1)):
            call()
        least = min(least, (time.thread_time() - start_s) / max(times // 10, 1))
    return least * 1e6


def lines(figures: dict[str, Any]) -> list[str]:
    """Two tables."""
    made = ["| exact hit of | whole | hashing | beyond hashing |", "|---|---|---|---|"]
    for name, cost in figures["exact_hit"].items():
        costs = " | ".join(f"{cost[key]:.1f} us" for key in ("hit_us", "hashing_us", "beyond_hashing_us"))
        made.append(f"| {name} | {costs} |")
    if not figures["streams"]:
        return [*made, "", figures["left_out"]]
    hit = figures["similar_hit"]
    made += ["", (
        f"A still scene that has settled: {hit['similar_us']:,.0f} us of CPU per picture instead of "
        f"{hit['computed_us']:,.0f} ({hit['share_of_computing']:.2f}x); a thumbnail takes {hit['thumbnail_us']:.1f} us."
    ), "", *_table(figures["streams"]), "", *_one_for_all(figures["streams"])]  # fmt: skip
    return made


def _table(streams: dict[str, Any]) -> Iterator[str]:
    yield "| stream | pictures | next differs | saved | settled | wrong | most in a row | at most (95 %) | best fixed |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, stream in streams.items():
        mine = stream["rivals"]["adaptive"]
        yield (
            f"| {name} | {stream['views']} | {stream['next_picture_differs_share']:.2%} | {mine['saved_share']:.1%} "
            f"| {_settled(stream, mine)} | {mine['wrong_share_of_reused']:.2%} | {mine['longest_wrong_views']} "
            f"| {mine['error_bound']:.2%} | {_best(stream['rivals'])} |"
        )


def _one_for_all(streams: dict[str, Any]) -> Iterator[str]:
    """What one threshold for all streams would have saved, and got wrong where it was worst."""
    yield "| for all streams | saved, mean | wrong, worst stream | most in a row |"
    yield "|---|---|---|---|"
    for name in next(iter(streams.values()))["rivals"]:
        ones = {stream: told["rivals"][name] for stream, told in streams.items()}
        worst = max(ones, key=lambda stream: ones[stream]["wrong_share_of_reused"])
        wrong = f"{ones[worst]['wrong_share_of_reused']:.2%} ({worst})" if ones[worst]["wrong_views"] else "0.00%"
        saved = float(np.mean([one["saved_share"] for one in ones.values()]))
        yield f"| {name} | {saved:.1%} | {wrong} | {max(one['longest_wrong_views'] for one in ones.values())} |"


def _settled(stream: dict[str, Any], mine: dict[str, Any]) -> str:
    return f"{mine['settled_saved_share']:.1%}" if stream["views"] > SETTLED_VIEWS else "-"


def _best(contestants: dict[str, Any]) -> str:
    """The fixed threshold that saved most with no more than the allowed error, known only afterwards."""
    good = {
        name: one["saved_share"] for name, one in contestants.items()
        if name != "adaptive" and one["wrong_share_of_reused"] <= CONFIG.max_error and one["reused_views"]
    }  # fmt: skip
    if not good:
        return "none"
    name = max(good, key=lambda one: good[one])
    return f"{good[name]:.1%} ({name})"


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """Saved against wrong, a panel per stream."""
    return {"similar.svg": drawn(figures["streams"], CONFIG.max_error)} if figures["streams"] else {}
