"""Prints what the agent answers in every case of the real data, beside what it should: case, expected, got, latency.

    python -m tools.truth [CASE ...]      all cases, or those whose id begins so

The data is found as in the tests: $LIMPET_REALDATA, or shared/realdata beside the checkout. Every answer goes the way
of a live sample: capture, window, steps, runner, decoder. `ms` is the median of one view through all of that but
capture, `model` the run alone, `ref` what the reference run took for the model on its own machine, one thread each.
Ends with 1 when an answer is wrong, and with 0, saying why, when there is no data.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator

from tests.realdata import ROOT
from tools import truth_others as others
from tools import truth_vision as vision
from tools.truth_rows import Case, Row

CASES: dict[str, Callable[[Case], Iterator[Row]]] = {
    "o01-vww-int8": vision.person,
    "o02-mobilenetv1-uint8": vision.classes("mobilenet-tflite"),
    "o02b-mobilenetv1-qdq-onnx": vision.classes("mobilenet-onnx"),
    "o04-kws-raw": others.words,
    "o05-micro-speech-int8": others.features,
    "o06-streaming-wakeword": others.wake_word,
    "o07-silero-vad": others.voice,
    "o09a-fastestdet": vision.things,
    "o10a-video-bottles": vision.film("bottle", 12),
    "o10b-video-no-person": vision.film("person", 6),
    "o10c-gif-worker": vision.film("person", 2),
    "o11-face-rfb320": vision.faces,
    "o12-deeplab-dm05": vision.bird,
    "o13-movenet": vision.pose,
    "o14-traffic-multi-io": vision.traffic,
    "o15-mnist-lstm-int8": vision.digits,
    "o16-tflite-int16-golden": others.int16_models,
    "o17-onnx-backend-vectors": others.onnx_vectors,
    "o18-nab": others.series,
    "o19-refused": others.refused,
}
LEFT_OUT = {"o20-ad-scores": "scores of another program per file; no model and no input, so there is nothing to run"}
"""Cases that are not put to the agent, and why."""

_HEAD = ("", "case", "of", "expected", "got", "ms", "model", "ref")


def main(asked: list[str]) -> int:
    """Print the table; 1 when a row is wrong."""
    if not (ROOT / "index.json").exists():
        print(f"skipped: no real data at {ROOT}: set LIMPET_REALDATA to the folder that holds its index.json")
        return 0
    index = json.loads((ROOT / "index.json").read_text())
    rows: list[Row] = []
    print(_line(_HEAD))
    for case in index["cases"]:
        name = case["id"]
        if asked and not any(name.startswith(one) for one in asked):
            continue
        if name in LEFT_OUT:
            print(f"-  {name}: {LEFT_OUT[name]}")
            continue
        reference = case.get("latency_ms_1thread")
        for row in CASES[name](case):
            rows.append(row)
            print(_line(_cells(name, row, reference)), flush=True)
    wrong = sum(not row.good for row in rows)
    print(f"{len(rows) - wrong} of {len(rows)} as expected" + (f", {wrong} WRONG" if wrong else ""))
    return int(wrong > 0)


def _cells(name: str, row: Row, reference: float | None) -> tuple[str, ...]:
    times = [f"{statistics.median(ms):.2f}" if ms else "" for ms in (row.view_ms, row.model_ms)]
    return (
        "ok" if row.good else "WRONG", name, row.of, row.expected, row.got, *times,
        "" if reference is None else f"{reference:.2f}",
    )  # fmt: skip


def _line(cells: tuple[str, ...]) -> str:
    widths = (5, 25, 34, 40, 40, 7, 7, 7)
    words = [cell.ljust(width) for cell, width in zip(cells[:5], widths[:5], strict=True)]
    return "  ".join([*words, *(cell.rjust(width) for cell, width in zip(cells[5:], widths[5:], strict=True))]).rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
