"""The benchmark runs on a fresh clone, and what it tells is numbers; how fast anything is, no test asks."""

import json
import math
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from agent.loading import open_model
from agent.manifest import load_manifest
from tests.agents import ROOT
from tools.bench import audio, chart, films, floors, latency, pipelines, start, streams, video, wire
from tools.bench.__main__ import NAMES, SECTIONS, main
from tools.bench.detectors import CLASSES, DETECTORS, SEEN, write
from tools.bench.floors_audio import mel_bands
from tools.bench.processes import cpu_s, family, memory
from tools.bench.run import Run
from tools.bench.spread import interleaved, percentile, ratios, spread


def numbers(value):
    """Every number in nested figures."""
    if isinstance(value, dict):
        return [n for one in value.values() for n in numbers(one)]
    return [value] if isinstance(value, int | float) else []


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A clone without real data."""
    monkeypatch.setattr("tools.bench.run.REALDATA", tmp_path / "nothing")
    monkeypatch.setattr("tools.bench.pipelines.COUNTS", (1, 2))
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run", quick=True)


@pytest.mark.parametrize("section", [pipelines, latency, wire])
def test_a_section_measures_on_a_fresh_clone(fresh, section):
    """On a film and models made here, with the real agent and a real broker: finite numbers, a table, drawings."""
    figures = section.measure(fresh)
    found = numbers(figures)
    assert len(found) >= 6
    assert all(math.isfinite(n) for n in found)
    json.dumps(figures, allow_nan=False)
    assert sum(line.startswith("|") for line in section.lines(figures)) >= 4
    for drawing in getattr(section, "draw", lambda _: {})(figures).values():
        ElementTree.fromstring(drawing)


def test_every_section_can_be_named_and_measures_tells_and_is_documented():
    """A section that is listed has its module, and the documentation says what it measures."""
    told = (ROOT / "docs" / "performance.md").read_text()
    for name in NAMES:
        module = __import__(SECTIONS[name], fromlist=["measure"])
        assert callable(module.measure), name
        assert callable(module.lines), name
        assert f"`{name}`" in told, name


def test_an_unknown_section_is_refused_with_those_that_there_are(capsys):
    """The names are what one needs then."""
    with pytest.raises(SystemExit):
        main(["videos"])
    assert "video, audio, latency" in capsys.readouterr().err


def test_a_made_detector_is_one_that_the_agent_takes(fresh):
    """Its manifest fits its graph, and of the picture it was made for it reports a few boxes, as the floor does."""
    picture = films.first_picture(films.film(fresh))
    small = DETECTORS[0]
    file = write(fresh.folder / "models", small, picture)
    manifest = load_manifest(file.parent)
    runner = open_model(manifest)
    assert runner.outputs[0].shape == (1, CLASSES + 5, small.cells, small.cells)
    loop = floors.looking(films.film(fresh), file, small.side_px, lambda *_: None)
    assert 1 <= next(loop) <= SEEN + 1
    assert write(fresh.folder / "again", small, picture).read_bytes() == file.read_bytes()


def test_the_floors_run_as_processes(fresh):
    """The bare loop prints what it cost, for pictures and for sound."""
    file = write(fresh.folder / "models", DETECTORS[0], films.first_picture(films.film(fresh)))
    keywords = ROOT / "models" / "keywords"
    for words in (
        ("tools.bench.floors", "bare", films.film(fresh), file, DETECTORS[0].side_px, 20),
        ("tools.bench.floors_audio", "bare", keywords / "demo.wav", keywords, 20),
    ):
        done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, check=True)
        told = json.loads(done.stdout)
        assert told["frames"] == 20
        assert told["cpu_s"] > 0


def test_boxes_of_the_floor_lie_where_the_head_says():
    """One cell above the threshold: its box, in source pixels."""
    cells = np.zeros((CLASSES + 5, 4, 4), np.float32)
    cells[[0, 5 + 7], 2, 1] = 1.0
    (box,) = floors.boxes(cells, 640, 320)
    assert box["label"] == 7
    assert box["box"] == [0.25 * 640 - 160, 0.5 * 320 - 80, 320.0, 160.0]
    assert floors.boxes(np.zeros_like(cells), 640, 320) == []


def test_mel_bands_are_triangles_over_the_whole_range():
    """Each has its peak in its own band, and none is empty."""
    bands = mel_bands(40, 257, 16000, 60.0, 7600.0)
    assert bands.shape == (257, 40)
    assert (bands.max(axis=0) > 0).all()
    assert (np.diff(bands.argmax(axis=0)) >= 0).all()


def test_contenders_take_turns_and_ratios_are_those_of_a_round():
    """a b, b a, a b; a machine that slows down in the second round leaves the ratio alone."""
    order = []
    costs = {"a": iter((1.0, 2.0, 1.0)), "b": iter((3.0, 6.0, 3.0))}
    found = interleaved({n: lambda n=n: (order.append(n), next(costs[n]))[1] for n in costs}, 3)
    assert "".join(order) == "abbaab"
    assert ratios(found["b"], found["a"]) == {"median": 3.0, "least": 3.0, "most": 3.0, "rounds": 3}
    with pytest.raises(ValueError, match="no figures"):
        spread([1.0, math.nan])
    assert percentile(range(1, 101), 0.99) == 99


def test_the_cost_of_a_process_includes_its_children():
    """CPU that a child burns, and memory that it holds."""
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    parent = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); print(1, flush=True)"
    with subprocess.Popen([sys.executable, "-c", parent + "; time.sleep(60)"], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert cpu_s(child.pid) >= 0.3
        assert list(family(child.pid)) == [child.pid]
        assert memory(child.pid).private_mib > 1
        child.kill()


def test_drawings_are_well_formed_whatever_the_words():
    """Names with signs of XML in them, too."""
    bar = chart.Bar("a < b & c", 2.0, "2.0", 1.5, 2.5, 2.2)
    ElementTree.fromstring(chart.bars("t", "u", {"g": [bar]}, {"x": chart.BLUE}))
    ElementTree.fromstring(chart.lines("t", "x", "y", {"s": [(1, 2), (1000, 3)]}, log_x=True, log_y=True))


def test_tables_of_the_other_sections_hold_what_they_are_given():
    """Figures of any size become lines; nothing is run."""
    one = {"median": 1.0, "least": 0.9, "most": 1.1, "rounds": 3}
    cost = {"cpu_s_per_1000": one, "ratio": one}
    group = {"bare": cost, "script": cost, "limpet": cost, "routine": cost}
    assert len(video.lines({"film": "f", "rounds": 3, "small": group, "static": {"bare": cost, "limpet": cost}})) == 8
    assert len(audio.lines(group)) == 6
    idle = {"idle_cpu_percent": 0.3, "idle_wakeups_per_s": 4.0, "idle_private_mib": 30.0}
    assert len(start.lines({"first_event_s": one} | idle)) == 6
    parts = {f"{who}_ms_per_stream_s": 5.0 for who in ("decode", "inference", "agent")}
    more = {"streams": 2, "fps": 5, "from": "x", "streams_per_core": 20.0, "looked_fps_per_stream": 5.0}
    assert "20.0 streams per core" in streams.lines(parts | more | {"private_mib_per_stream": 9.0})[0]
