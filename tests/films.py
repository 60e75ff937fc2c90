"""Public videos through `limpet replay` and the public detector, as an operator would do it."""

import contextlib
import io
import json
import shutil

from agent.cli import main
from tests.realdata import MANIFESTS, ROOT

PIPELINE = """
schema = 1
name = "looking"
source = "film"
[gate]
step = "interval"
every_s = {every_s}
[model]
name = "fastestdet"
{more}
"""
CONFIG = """
schema = 1
[sources.film]
kind = "replay"
path = "film.mp4"
fps = {fps}
{more}
"""
FPS = 32
"""So that media times are exact numbers, and the gate passes exactly every n-th picture."""


def replayed(folder, file, every, more="", config=""):
    """The JSON lines of every `every`-th picture; `more`: steps and rules of the pipeline, `config`: of limpet.toml."""
    model = folder / "models" / "fastestdet"
    (model / "models").mkdir(parents=True)
    shutil.copy(MANIFESTS / "fastestdet" / "model.toml", model)
    shutil.copy(ROOT / "models" / "FastestDet.onnx", model / "models")
    (folder / "looking.toml").write_text(PIPELINE.format(every_s=every / FPS, more=more))
    (folder / "limpet.toml").write_text(CONFIG.format(fps=FPS, more=config))
    words = ["--pipeline", folder / "looking.toml", "--models", folder / "models", "--config", folder / "limpet.toml"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(["replay", *map(str, words), "--json", str(ROOT / file)])
    assert code == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def seen(lines):
    """Picture number -> the labels found in it."""
    return {r["seq"]: [f["label"] for f in r["findings"]] for r in lines if r["type"] == "result"}
