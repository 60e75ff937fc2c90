"""Section `streams`: how many network cameras a core carries at five pictures a second, and where its time goes.

A real RTSP server (GStreamer, as in the tests) serves H.264 of 320 x 240 at 15 pictures a second; each stream is
decoded by an ffmpeg of its own, which lets five pictures a second through. A motion gate stands before the model. Where
the server's packages are missing, ffmpeg plays the film at its pace instead: the same decoding and no network.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from tools.bench import chart
from tools.bench.agents import PIPELINE, Agent, Plan, Watched, agent, ground
from tools.bench.detectors import DETECTORS, write
from tools.bench.films import film, first_picture
from tools.bench.processes import cpu_s, memory, own_cpu_s
from tools.bench.run import ROOT, Run

FPS = 5
STREAMS = 6
_GATED = '[gate]\nstep = "motion"'
_SERVER = ("/usr/bin/python3", str(ROOT / "tests" / "rtsp_server.py"))


def measure(run: Run) -> dict[str, Any]:
    """Streams per core, and CPU per stream by who used it, in milliseconds per second of stream."""
    moving = film(run)
    write(run.folder / "models", DETECTORS[1], first_picture(moving))
    count = run.many(STREAMS, 2)
    with _camera() as url:
        table = f'kind = "url"\nurl = "{url}"\nfps = {FPS}' if url else _played(str(moving))
        watched = {
            f"camera-{n}": Watched(table, (PIPELINE.format(
                name=f"looking-{n}", source=f"camera-{n}", model=DETECTORS[1].name, extra=_GATED),))
            for n in range(count)
        }  # fmt: skip
        with ground(run.folder) as at, agent(at, Plan(watched, run.folder / "models")) as running:
            running.until(count * FPS * 2)
            figures = _spent(running, run.many(20, 3), count)
    return figures | {"streams": count, "fps": FPS, "from": "RTSP, H.264" if url else "film, by ffmpeg"}


def lines(figures: dict[str, Any]) -> list[str]:
    """The table."""
    seen = f"{figures['streams']} streams ({figures['from']}), {figures['looked_fps_per_stream']:.1f} pictures a second"
    memory_words = f"{figures['private_mib_per_stream']:.1f} MiB private each, ffmpeg included"
    return [
        f"{seen}, gates on: **{figures['streams_per_core']:.1f} streams per core**, {memory_words}.", "",
        "| who | CPU ms per second of one stream |", "|---|---|",
        *(f"| {who} | {figures[f'{who}_ms_per_stream_s']:.1f} |" for who in ("decode", "inference", "agent")),
    ]  # fmt: skip


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """One bar in three parts."""
    colours = {"decode": chart.GREY, "inference": chart.BLUE, "agent": chart.RED}
    parts = tuple((figures[f"{who}_ms_per_stream_s"], colour) for who, colour in colours.items())
    total = sum(value for value, _ in parts)
    bar = chart.Bar(f"{figures['fps']} pictures a second", total, f"{total:.0f} ms", parts=parts)
    unit = f"CPU milliseconds per second of one stream; {figures['streams_per_core']:.1f} streams per core"
    return {"streams.svg": chart.bars("What a network camera costs", unit, {figures["from"]: [bar]}, colours)}


def _spent(running: Agent, seconds: float, count: int) -> dict[str, float]:
    all_, own, run_s, looked = _now(running)
    start = time.perf_counter()
    time.sleep(seconds)
    span_s = time.perf_counter() - start
    all_after, own_after, run_after_s, looked_after = _now(running)
    stream_s, own_s, inference_s = span_s * count, own_after - own, run_after_s - run_s
    return {
        "streams_per_core": stream_s / (all_after - all_),
        "decode_ms_per_stream_s": ((all_after - all_) - own_s) / stream_s * 1e3,
        "inference_ms_per_stream_s": inference_s / stream_s * 1e3,
        "agent_ms_per_stream_s": (own_s - inference_s) / stream_s * 1e3,
        "looked_fps_per_stream": (looked_after - looked) / stream_s,
        "private_mib_per_stream": memory(running.pid).private_mib / count,
    }


def _now(running: Agent) -> tuple[float, float, float, int]:
    told = running.metrics()
    runs = (s for name, s in told.items() if name.startswith("limpet_stage_seconds_sum") and 'stage="run"' in name)
    return cpu_s(running.pid), own_cpu_s(running.pid), sum(runs), running.looked()


def _played(path: str) -> str:
    if shutil.which("ffmpeg") is None:
        raise FileNotFoundError("ffmpeg is not installed: it decodes the streams of this section")
    words = ["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", path, "-vf", f"fps={FPS},format=yuv420p"]
    argv = [*words, "-f", "yuv4mpegpipe", "pipe:1"]
    return f'kind = "exec"\noutput = "y4m"\nargv = {argv}'.replace("'", '"')


@contextlib.contextmanager
def _camera() -> Iterator[str]:
    """The URL of a camera while it plays; "" where the server's packages are missing."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    try:
        child = subprocess.Popen([*_SERVER, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        yield ""
        return
    try:
        said = child.stdout.readline() if child.stdout else ""
        yield f"rtsp://127.0.0.1:{port}/h264" if "h264" in said else ""
    finally:
        child.kill()
        child.wait()
