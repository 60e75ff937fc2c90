"""What a model's process has, may do and costs: little."""

import ctypes
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from agent.errors import ModelError
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.settings.runtime import RuntimeOptions
from tests import hosts, vendors
from tests.hosts import fed, pids, works
from tests.tiny_models import manifest_text
from tests.vendors import vendor_python

ROOT = Path(__file__).resolve().parent.parent
vendor = pytest.fixture(hosts.vendor)


def test_a_host_gets_nothing_that_it_does_not_need(vendor, monkeypatch, tmp_path):
    """No secret of the environment, no other descriptor, no folder, no new rights, first to go when memory runs out."""
    monkeypatch.setenv("LIMPET_SECRET", "hush")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        runner = vendor()
    assert works(runner)
    for pid in pids(runner):
        proc = Path(f"/proc/{pid}")
        assert b"hush" not in (proc / "environ").read_bytes()
        links = [str(path.readlink()) for path in (proc / "fd").iterdir()]
        known = ("/dev/null", "/memfd:", "socket:", "pipe:", "anon_inode:[eventpoll]")
        assert [link for link in links if not link.startswith(known)] == []
        assert (proc / "cwd").readlink() == Path("/")
        assert "NoNewPrivs:\t1" in (proc / "status").read_text()
        assert (proc / "oom_score_adj").read_text().strip() == "500"
        assert "Max core file size        0 " in (proc / "limits").read_text()


def test_a_model_that_runs_can_open_no_file_and_reach_no_network(vendor, tmp_path):
    """Where the kernel has Landlock: reading, writing, starting programs, and TCP."""
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 4:
        pytest.skip("needs a kernel with Landlock, version 4 or later")
    with socket.create_server(("127.0.0.1", 0)) as server:
        runner = vendor(python=vendor_python(tmp_path, port=server.getsockname()[1]))
        assert runner.run(fed(vendors.PRY))["y"].tolist() == [[0, 0, 0, 0]]


WALLED = """
import os, signal, socket, sys
from agent.runtime.host.walls import EVERYTHING, WRITE, wall_off
wall_off(WRITE if sys.argv[1] == "WRITE" else EVERYTHING)
if not (own := os.fork()):
    signal.pause()
os.kill(own, signal.SIGKILL)
os.waitpid(own, 0)
tried = []
for deed in (lambda: os.kill(os.getppid(), 0), lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[2])):
    try:
        tried.append(deed())
    except OSError as exc:
        tried.append(exc.errno)
print(tried)
"""


@pytest.mark.parametrize("wall", ["WRITE", "EVERYTHING"])
def test_behind_the_wall_nobody_else_gets_a_signal(wall):
    """Not the agent that started it; its own workers do. Nor is a socket without a file reached."""
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 6:
        pytest.skip("needs a kernel with Landlock, version 6 or later")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("")  # the kernel chooses an abstract name
        server.listen()
        name = server.getsockname().decode()
        code = WALLED.replace("sys.argv[2]", repr("\0" + name[1:]))
        command = [sys.executable, "-c", code, wall]
        said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert said.stdout.strip() == "[1, 1]", said.stderr


def test_a_model_cannot_end_its_host(vendor):
    """Where the kernel has a wall for signals: the run fails, and the next one goes on."""
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 6:
        pytest.skip("needs a kernel with Landlock, version 6 or later")
    runner = vendor()
    with pytest.raises(ModelError, match="Operation not permitted"):
        runner.run(fed(vendors.PATRICIDE))
    assert works(runner)


def test_the_shared_memory_cannot_be_taken_away(vendor):
    """Its size is sealed: a host that could shrink it would crash the agent by a bus error."""
    runner = vendor()
    assert runner.run(fed(vendors.SHRINK))["y"].tolist() == [[0, 0, 0, 0]]
    assert works(runner)


def test_an_idle_host_sleeps(vendor):
    """No CPU and no wake-ups while nobody asks."""
    runner = vendor()
    assert works(runner)

    def woken():
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids(runner)]
        return [line for text in texts for line in text.splitlines() if "ctxt_switches" in line]

    time.sleep(0.3)
    before = woken()
    time.sleep(0.7)
    assert woken() == before


def test_the_weights_are_there_once_for_four_workers(tmp_path):
    """48 MB of weights and five processes: no worker has a copy of its own, packing included."""
    runner = open_model(_dense(tmp_path / "m", 2000), RuntimeOptions(isolation="process", workers=4))
    try:
        seats = [runner._idle.get() for _ in range(4)]
        for seat in seats:
            runner._run(seat, {"x": np.ones((1, 2000), np.float32)})
            runner._idle.put(seat)
        _, *workers = pids(runner)
        assert len(workers) == 4
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in workers]
        own_kb = [_kb(text, "Private_Dirty") + _kb(text, "Private_Clean") for text in texts]
        assert max(own_kb) < 16_000, own_kb
        assert min(_kb(text, "Rss") for text in texts) > 48_000, "they do see the weights"
    finally:
        runner.close()


def _kb(text, name):
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(name + ":"))


def _dense(folder, width):
    """Three dense layers of `width` inputs and outputs, float32."""
    of, kind, rng = onnx.helper, onnx.TensorProto.FLOAT, np.random.default_rng(0)
    names = ["x", "h1", "h2", "y"]
    weights = [onnx.numpy_helper.from_array(rng.normal(size=(width, width)).astype("f4"), f"w{i}") for i in range(3)]
    nodes = [of.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(3)]
    ends = [of.make_tensor_value_info(name, kind, [1, width]) for name in ("x", "y")]
    graph = of.make_graph(nodes, "dense", ends[:1], ends[1:], weights)
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(of.make_model(graph, ir_version=10, opset_imports=[of.make_opsetid("", 17)]), path)
    (folder / "model.toml").write_text(manifest_text(path, "copy", shape=(1, width)))
    for file in folder.iterdir():
        file.chmod(0o644)
    return load_manifest(folder)
