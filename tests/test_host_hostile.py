"""A runner host that lies, or turns against the agent while a model runs: every answer ends in time and in words."""

import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelError
from agent.loading import open_model
from agent.settings.runtime import RuntimeOptions
from tests import hosts
from tests.tiny_models import make_model
from tests.vendors import program

vendor = pytest.fixture(hosts.vendor)

WORDS = """#!{python} -I
import array, json, os, signal, socket, struct, sys, time
control = socket.socket(fileno=int(sys.argv[3]))
head = struct.Struct("<II")
good = {"runtime": "r", "version": "1", "used": ["cpu"], "python": "3", "forks": True, "fallbacks": [],
        "inputs": [{"name": "x", "shape": [1, 4], "dtype": "float32"}]}
laid = {"outputs": [{"name": "y", "shape": [1, 4], "dtype": "float32"}]}
def done(number, body=b""):
    control.send(head.pack(16, number) + (body if isinstance(body, bytes) else json.dumps(body).encode()))
def asked():
    packet, rights, _, _ = control.recvmsg(1 << 17, 64)
    given = array.array("i")
    for _, _, data in rights:
        given.frombytes(data)
    return (*head.unpack_from(packet), packet[8:], given)
"""
LIAR = WORDS + """
kind, number, *_ = asked()
LIE
time.sleep(60)
"""
HOSTILE = WORDS + """
for body in (good, laid):
    done(asked()[1], body)
while True:
    kind, number, body, given = asked()
    if kind == 3:
        connection = socket.socket(fileno=given[0])
    DEED
"""


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("sys.exit(3)", "ended with status 3"),
        ("control.close()", "hung up"),
        ("control.send(b'')", "hung up"),
        ("control.send(b'what')", "an answer that means nothing"),
        ("control.send(head.pack(16, number + 1))", "an answer that means nothing"),
        ("control.send(head.pack(99, number))", "an answer that means nothing"),
        ("control.send(head.pack(16, number) + b'{')", "an answer that means nothing"),
        ("control.send(head.pack(16, number) + b'[' * 100000)", "an answer that means nothing"),
        ("control.send(head.pack(16, number) + b'[1]')", "it is no JSON object"),
        ("control.send(head.pack(17, number) + b'no')", "an answer that means nothing"),
        ("done(number, good | {'runtime': 'r' * 5000})", "out of range"),
        ("done(number, good | {'more': 1})", "unknown key 'more'"),
        ("done(number, good | {'inputs': []})", "names tensor 'x', the file has none"),
        ("done(number, good | {'inputs': [{'name': 'x', 'shape': [1, 5], 'dtype': 'float32'}]})", "shape is"),
        ("done(number, good | {'inputs': [{'name': 'x', 'shape': [1] * 33, 'dtype': 'float32'}]})", "is not allowed"),
        ("done(number, good); kind, number, *_ = asked(); done(number, {'outputs': []})", "names tensor 'y'"),
        ("", "said nothing for 1 s"),
    ],
)
def test_a_host_that_lies_is_refused_and_gone(tmp_path, vendor, lie, words):
    """Whatever a host says: an error that names the model, in time, and no process is left."""
    python = program(tmp_path / "liar", LIAR.replace("LIE", lie))
    with pytest.raises(ModelError, match=r"vendor 1\.0\.0 \(net\.tflite\)") as told:
        vendor(python=python, load_deadline_s=1)
    assert words in str(told.value)
    running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(python).encode() in _read(p)]
    assert running == []


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_bool_is_true_or_false_whatever_the_host_writes(tmp_path):
    """A byte that is neither 0 nor 1 would make a bool that is neither."""
    manifest = make_model(tmp_path / "b", "copy", "onnx", dtype="bool")
    runner = open_model(manifest, RuntimeOptions(isolation="process"))
    try:
        odd = np.array([[2, 0, 255, 1]], np.uint8).view(np.bool_)
        assert runner.run({"x": odd})["y"].view(np.uint8).tolist() == [[1, 0, 1, 1]]
    finally:
        runner.close()


def hostile(folder, deed):
    """A host that loads any model, and then does its deed after every message."""
    return program(folder / "host", HOSTILE.replace("    DEED", textwrap.indent(deed, "    ")))


def run(runner, times=1):
    """What the runs ended with, in a thread that is given up after a while; None: they did not end."""
    ended = []

    def work():
        try:
            for _ in range(times):
                runner.run({"x": np.zeros((1, 4), np.float32)})
            ended.append("")
        except ModelError as exc:
            ended.append(str(exc))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    return ended[0] if ended else None


ANSWERS_UNASKED = """done(number)
if kind == 3:
    for turn in range(1, 100_000):
        connection.send(head.pack(16, turn))"""


def test_a_host_that_answers_without_being_asked_stalls_nobody(tmp_path, vendor):
    """It reads no question, so that the way there fills up: the run that finds it full ends at its deadline."""
    said = run(vendor(python=hostile(tmp_path, ANSWERS_UNASKED), deadline_s=1.0), 50_000)
    assert said is not None, "a run never ended"
    assert "took longer than 1 s" in said


LIES_ABOUT_THE_END = """done(number, struct.pack("<i", {status}) if kind == 4 else b"")
if kind == 3:
    connection.close()"""


@pytest.mark.parametrize("status", [0x137F, 0xFFFF, -1, 0x7F000000, 9])
def test_whatever_end_a_host_tells_of_is_an_error_of_that_run(tmp_path, vendor, status):
    """A wait status that no process leaves, and one that some do."""
    said = run(vendor(python=hostile(tmp_path, LIES_ABOUT_THE_END.format(status=status))))
    assert said is not None
    assert "its host ended" in said
