"""A runner host that turned against the agent while a model runs: every run ends in time and in words."""

import textwrap
import threading

import numpy as np
import pytest

from agent.errors import ModelError
from agent.runtime.remote import RemoteRunner
from agent.settings.runtime import RuntimeOptions
from tests.vendors import program, vendor_model

HOST = """#!{python} -I
import array, json, os, signal, socket, struct, sys, time
control = socket.socket(fileno=int(sys.argv[3]))
head = struct.Struct("<II")
OPENED = {"runtime": "r", "version": "1", "used": ["cpu"], "forks": FORKS,
          "inputs": [{"name": "x", "shape": [1, 4], "dtype": "float32"}]}
LAID = {"outputs": [{"name": "y", "shape": [1, 4], "dtype": "float32"}]}
def done(number, body=b""):
    control.send(head.pack(16, number) + body)
def asked():
    packet, rights, _, _ = control.recvmsg(1 << 17, 64)
    given = array.array("i")
    for _, _, data in rights:
        given.frombytes(data)
    return (*head.unpack_from(packet), packet[8:], given)
for body in (OPENED, LAID):
    done(asked()[1], json.dumps(body).encode())
while True:
    kind, number, body, given = asked()
    if kind == 3:
        connection = socket.socket(fileno=given[0])
    DEED
"""


@pytest.fixture
def hostile(tmp_path):
    """Opens the vendor's model with a host of which only the deed differs; closed after the test."""
    opened = []

    def open_one(deed, forks=True, **options):
        text = HOST.replace("FORKS", str(forks)).replace("    DEED", textwrap.indent(deed, "    "))
        manifest = vendor_model(tmp_path / "model")
        given = RuntimeOptions(isolation="process", python=program(tmp_path / "host", text), **options)
        path = manifest.folder / "net.tflite"
        opened.append(RemoteRunner(manifest, manifest.artifacts[0], given, path))
        return opened[-1]

    yield open_one
    for runner in opened:
        runner._revival.close()  # first: a run that has not ended would hold the runner
        runner.close()


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


def test_a_host_that_answers_without_being_asked_stalls_nobody(hostile):
    """It reads no question, so that the way there fills up: the run that finds it full ends at its deadline."""
    said = run(hostile(ANSWERS_UNASKED, deadline_s=1.0), 50_000)
    assert said is not None, "a run never ended"
    assert "took longer than 1 s" in said


LIES_ABOUT_THE_END = """done(number, struct.pack("<i", {status}) if kind == 4 else b"")
if kind == 3:
    connection.close()"""


@pytest.mark.parametrize("status", [0x137F, 0xFFFF, -1, 0x7F000000, 9])
def test_whatever_end_a_host_tells_of_is_an_error_of_that_run(hostile, status):
    """A wait status that no process leaves, and one that some do."""
    said = run(hostile(LIES_ABOUT_THE_END.format(status=status)))
    assert said is not None
    assert "its host ended" in said
