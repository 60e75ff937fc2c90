"""What Limpet is compared with, each run as a process of its own.

    python -m tools.bench.floors bare|script FILM MODEL SIDE FRAMES [BROKER-JSON]

bare: (a), decode, resize, run, decode boxes; nothing else. script: (b), what one writes first: (a), and for each
picture one JSON event into sqlite3, committed, and to the broker by paho at QoS 1. OpenCV, FFmpeg and ONNX Runtime
have one thread each. Prints JSON: CPU of all threads in seconds, and pictures. A film that ends begins again.
"""

import json
import os
import sqlite3
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tools.bench.detectors import CLASSES, THRESHOLD

WARM = 30
"""Pictures before the count begins."""

Tell = Callable[[int, list[dict[str, Any]]], None]


def main(words: list[str]) -> int:
    """Run one contender."""
    kind, film, model, side, frames, *broker = words
    cv2.setNumThreads(1)
    return counted(looking(Path(film), Path(model), int(side), teller(kind, broker)), int(frames))


def teller(kind: str, broker: list[str]) -> Tell:
    """What a contender does with what it found."""
    return _publisher(json.loads(broker[0])) if kind == "script" else _nothing


def counted(loop: Iterator[int], views: int) -> int:
    """Print what so many turns of the loop cost, after `WARM` of them, and end the process."""
    for _ in range(WARM):
        next(loop)
    start_s, begun_s = time.process_time(), time.perf_counter()
    found = sum(next(loop) for _ in range(views))
    spent = {"cpu_s": time.process_time() - start_s, "wall_s": time.perf_counter() - begun_s}
    print(json.dumps(spent | {"frames": views, "found": found}), flush=True)
    os._exit(0)  # what paho still holds is no part of the count


def looking(film: Path, model: Path, side: int, tell: Tell) -> Iterator[int]:
    """One picture after the other, for ever; how many boxes each had."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    number = 0
    while True:
        capture = cv2.VideoCapture(str(film), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        while True:
            good, picture = capture.read()
            if not good:
                break
            small = cv2.resize(picture, (side, side))
            tensor = (small.astype(np.float32) / 255).transpose(2, 0, 1)[None]
            (cells,) = session.run(None, {"picture": tensor})
            found = boxes(cells[0], picture.shape[1], picture.shape[0])
            tell(number, found)
            number += 1
            yield len(found)
        capture.release()


def boxes(cells: np.ndarray, width: int, height: int) -> list[dict[str, Any]]:
    """[85, h, w] of an anchor-free head as boxes in source pixels, doubles of a class suppressed."""
    rows, columns = cells.shape[1:]
    scores = cells[0] ** 0.6 * cells[5:].max(axis=0) ** 0.4
    y, x = np.nonzero(scores > THRESHOLD)
    if not len(y):
        return []
    kept, classes, numbers = scores[y, x], cells[5:, y, x].argmax(axis=0), cells[1:5, y, x]
    centre_x, centre_y = (x + np.tanh(numbers[0])) / columns * width, (y + np.tanh(numbers[1])) / rows * height
    sides = 1 / (1 + np.exp(-numbers[2:])) * np.array([[width], [height]])
    corner = np.stack([centre_x - sides[0] / 2, centre_y - sides[1] / 2, *sides], axis=1)
    stay = cv2.dnn.NMSBoxesBatched(corner.tolist(), kept.tolist(), classes.tolist(), THRESHOLD, 0.45)
    assert classes.max() < CLASSES
    return [{"label": int(classes[i]), "score": float(kept[i]), "box": corner[i].tolist()} for i in stay]


def _nothing(_number: int, _found: list[dict[str, Any]]) -> None:
    return


def _publisher(broker: dict[str, Any]) -> Tell:
    """One row and one message per picture."""
    database = sqlite3.connect(Path(tempfile.mkdtemp(dir=broker["folder"])) / "events.db")
    database.execute("create table events (id integer primary key, at real, event text)")
    client = Client(CallbackAPIVersion.VERSION2, "device")
    context = ssl.create_default_context(cafile=broker["ca_file"])
    context.load_cert_chain(broker["certificate"], broker["key"])
    client.tls_set_context(context)
    client.connect("localhost", broker["port"])
    client.loop_start()

    def tell(number: int, found: list[dict[str, Any]]) -> None:
        event = json.dumps({"seq": number, "time": time.time(), "device": "here", "objects": found})
        database.execute("insert into events (at, event) values (?, ?)", (time.time(), event))
        database.commit()
        client.publish(broker["topic"], event, qos=1)

    return tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
