"""The runner host: what a model does to its process stays there, and what comes from there is not trusted."""

import ast
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from agent.errors import ConfigError, ModelError
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.runtime.host import wire
from agent.runtime.remote import RemoteRunner
from agent.settings.runtime import RuntimeOptions
from agent.strict import build
from tests import vendors
from tests.agents import limpet, running, site, status
from tests.test_agent import COUNTING
from tests.tiny_models import make_model, manifest_text
from tests.vendors import program, vendor_model, vendor_python

ROOT = Path(__file__).resolve().parent.parent
HOST = Path(wire.__file__).parent


class Clock:
    """Seconds that pass when the test says so."""

    now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def vendor(tmp_path, clock):
    """Opens the vendor's model with options; closed after the test."""
    runners = []

    def open_one(**options):
        python = options.pop("python", None) or vendor_python(tmp_path)
        manifest = vendor_model(tmp_path / "model")
        given = RuntimeOptions(isolation="process", python=python, **options)
        path = manifest.folder / "net.tflite"
        runners.append(RemoteRunner(manifest, manifest.artifacts[0], given, path, mono_s=clock))
        return runners[-1]

    yield open_one
    for runner in runners:
        runner.close()


def fed(first):
    return {"x": np.array([[first, 0, 0, 0]], np.float32)}


def works(runner):
    return runner.run(fed(1))["y"].tolist() == [[2, 1, 1, 1]]


def pids(runner):
    """The host, then its workers."""
    top = runner._revival._hosting.pid
    return [top, *map(int, Path(f"/proc/{top}/task/{top}/children").read_text().split())]


def gone(pid, limit_s=10.0):
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


# --- crashes, hangs, memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deed", "signal_name"), [(vendors.SEGFAULT, "SIGSEGV"), (vendors.ABORT, "SIGABRT"), (vendors.GREED, "SIGABRT")]
)
def test_a_model_that_takes_its_process_along_is_a_model_error(vendor, clock, deed, signal_name):
    """It says how it ended, it is counted, and the next view after the wait finds another worker of the same host."""
    runner = vendor(memory_limit_mb=2000)
    assert works(runner)
    with pytest.raises(ModelError, match=f"vendor 1.0.0 .* its host ended with {signal_name}.*: tried again in"):
        runner.run(fed(deed))
    clock.now_s += 61
    assert works(runner)
    tally = runner.info.host
    assert (tally.starts, tally.crashes, tally.hangs) == (1, 1, 0)
    assert signal_name in tally.last


def test_a_run_that_hangs_is_killed_at_its_deadline(vendor, clock):
    """Even one that holds Python's lock in C; afterwards nothing of it is left."""
    runner = vendor(deadline_s=0.3)
    assert works(runner)
    worker = pids(runner)[1]
    with pytest.raises(ModelError, match=r"its host was killed because a run took longer than 0\.3 s"):
        runner.run(fed(vendors.HANG))
    assert gone(worker)
    clock.now_s += 61
    assert works(runner)
    assert (runner.info.host.starts, runner.info.host.crashes, runner.info.host.hangs) == (1, 0, 1)


def test_a_host_that_serves_alone_is_killed_whole_and_loaded_again(vendor, clock):
    """With threads there are no forks: who hangs is the host."""
    runner = vendor(deadline_s=0.3, threads=2, workers=4)
    assert works(runner)
    top, *workers = pids(runner)
    assert workers == []
    with pytest.raises(ModelError, match="a run took longer"):
        runner.run(fed(vendors.HANG))
    assert gone(top)
    clock.now_s += 61
    assert works(runner)
    assert (runner.info.host.starts, runner.info.host.hangs) == (2, 1)


def test_a_host_that_goes_is_started_again_once_for_all(vendor, clock):
    """Two threads lose their connections with it: one crash is counted, one start follows."""
    runner = vendor(workers=2)
    both = threading.Barrier(2)

    def look():
        both.wait()
        runner.run(fed(vendors.LATE))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(pids(runner)) == 3
    threading.Timer(0.3, os.kill, (pids(runner)[0], signal.SIGKILL)).start()
    with pytest.raises(ModelError, match="its host ended with SIGKILL"):
        runner.run(fed(vendors.HANG))
    with pytest.raises(ModelError, match="its host ended with SIGKILL"):
        [runner.run(fed(1)) for _ in range(2)]
    clock.now_s += 61
    assert works(runner)
    assert works(runner)
    assert (runner.info.host.starts, runner.info.host.crashes) == (2, 1)


def test_a_crash_leaves_the_other_workers_alone(vendor):
    """What one worker is computing meanwhile comes out right, and its connection goes on."""
    runner = vendor(workers=2)
    late = []
    thread = threading.Thread(target=lambda: late.append(runner.run(fed(vendors.LATE))["y"][0, 0]))
    thread.start()
    while len(pids(runner)) < 2:
        time.sleep(0.01)
    with pytest.raises(ModelError, match="SIGSEGV"):
        runner.run(fed(vendors.SEGFAULT))
    thread.join(10)
    assert late == [vendors.LATE + 1]
    assert works(runner)


def test_until_the_wait_is_over_runs_are_refused_at_once(vendor, clock):
    """The wait grows with every crash in a row, so that a model that crashes on every view keeps nobody busy."""
    runner, waits_s = vendor(), []
    for _ in range(6):
        with pytest.raises(ModelError, match="tried again in") as told:
            runner.run(fed(vendors.SEGFAULT))
        waits_s.append(runner._revival._due_s - clock.now_s)
        assert f"tried again in {waits_s[-1]:.1f} s" in str(told.value)
        before = pids(runner)
        with pytest.raises(ModelError, match="tried again in"):
            runner.run(fed(1))
        assert pids(runner) == before
        clock.now_s += waits_s[-1]
    ceilings = [0.5 * 2**i for i in range(6)]
    assert all(0.05 <= wait <= ceiling for wait, ceiling in zip(waits_s, ceilings, strict=True))
    assert works(runner)


def test_what_the_model_refuses_costs_no_process(vendor):
    """An error that the runtime reports is passed on with its words."""
    runner = vendor()
    with pytest.raises(ModelError, match="failed while running it: node 7 does not like this"):
        runner.run(fed(vendors.REFUSE))
    assert works(runner)
    assert (runner.info.host.crashes, runner.info.host.starts) == (0, 1)


def test_a_model_that_talks_without_end_fills_no_memory(vendor):
    """Of what it says a megabyte is kept, and it runs on."""
    runner = vendor()
    for _ in range(3):
        runner.run(fed(vendors.CHATTER))
    assert os.fstat(runner._revival._hosting._said).st_size <= 1 << 20
    assert works(runner)


def test_a_file_that_changed_meanwhile_is_not_loaded_again(vendor, clock, tmp_path):
    """A host is only started again with the very bytes that were verified."""
    runner = vendor()
    os.kill(pids(runner)[0], signal.SIGKILL)
    (tmp_path / "model" / "net.tflite").write_bytes(b"something else")
    with pytest.raises(ModelError, match="SIGKILL"):
        runner.run(fed(1))
    clock.now_s += 61
    with pytest.raises(ModelError, match="its file has changed since it was opened: install the model again"):
        runner.run(fed(1))


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closing_leaves_no_process(vendor):
    """Host and workers are gone when close returns, a second close does nothing, and a run says that it is closed."""
    runner = vendor(workers=2)
    assert works(runner)
    family = pids(runner)
    runner.close()
    runner.close()
    assert len(family) == 2
    assert all(gone(pid) for pid in family)
    with pytest.raises(ModelError, match="it is closed"):
        runner.run(fed(1))


@pytest.mark.parametrize("deed", [1, vendors.HANG])
def test_an_agent_that_is_killed_takes_its_hosts_along(tmp_path, deed):
    """The kernel sees to it, also while a run hangs in C, and whichever thread started them."""
    vendor_python(tmp_path)
    vendor_model(tmp_path / "model")
    code = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.manifest import load_manifest
from agent.settings.runtime import RuntimeOptions
folder, deed = Path(sys.argv[2]), float(sys.argv[3])
made = []
options = RuntimeOptions(isolation="process", python=folder / "python")
thread = threading.Thread(target=lambda: made.append(open_model(load_manifest(folder / "model"), options)))
thread.start()
thread.join()
made[0].run({"x": np.ones((1, 4), np.float32)})
top = made[0]._revival._hosting.pid
print(top, *Path(f"/proc/{top}/task/{top}/children").read_text().split(), flush=True)
made[0].run({"x": np.full((1, 4), deed, np.float32)})
sys.stdin.read()
"""
    agent = subprocess.Popen(
        [sys.executable, "-c", code, ROOT, tmp_path, str(deed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    family = [int(word) for word in agent.stdout.readline().split()]
    assert len(family) == 2
    time.sleep(0.2)
    assert all(Path(f"/proc/{pid}").exists() for pid in family)
    agent.kill()
    agent.communicate()
    assert all(gone(pid) for pid in family)


# --- what a host may do -----------------------------------------------------------------------------------------------


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


# --- what it says is not trusted --------------------------------------------------------------------------------------

LIAR = """#!{python} -I
import json, os, socket, struct, sys, time
control = socket.socket(fileno=int(sys.argv[3]))
head, good, lay = struct.Struct("<II"), OPENED, LAID
def receive():
    packet = control.recv(1 << 17)
    return head.unpack_from(packet)
def done(number, body):
    control.send(head.pack(16, number) + json.dumps(body).encode())
kind, number = receive()
LIE
time.sleep(60)
"""
OPENED = {
    "runtime": "r", "version": "1", "used": ["cpu"], "python": "3", "forks": True, "fallbacks": [],
    "inputs": [{"name": "x", "shape": [1, 4], "dtype": "float32"}],
}  # fmt: skip
LAID = {"outputs": [{"name": "y", "shape": [1, 4], "dtype": "float32"}]}


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
        ("done(number, good); kind, number = receive(); done(number, {'outputs': []})", "names tensor 'y'"),
        ("", "said nothing for 1 s"),
    ],
)
def test_a_host_that_lies_is_refused_and_gone(tmp_path, vendor, lie, words):
    """Whatever a host says: an error that names the model, in time, and no process is left."""
    text = LIAR.replace("LIE", lie).replace("OPENED", repr(OPENED)).replace("LAID", repr(LAID))
    python = program(tmp_path / "liar", text + f"# {tmp_path}\n")
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


def test_a_bool_is_true_or_false_whatever_the_host_writes(vendor, tmp_path):
    """A byte that is neither 0 nor 1 would make a bool that is neither."""
    manifest = make_model(tmp_path / "b", "copy", "onnx", dtype="bool")
    runner = open_model(manifest, RuntimeOptions(isolation="process"))
    try:
        odd = np.array([[2, 0, 255, 1]], np.uint8).view(np.bool_)
        assert runner.run({"x": odd})["y"].view(np.uint8).tolist() == [[1, 0, 1, 1]]
    finally:
        runner.close()


# --- which Python -----------------------------------------------------------------------------------------------------


def test_the_program_is_written_for_python_3_8():
    """The syntax of 3.8, and no module but its own, numpy, the runtimes and the standard library."""
    trees = [ast.parse(path.read_text(), feature_version=(3, 8)) for path in HOST.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named = {*plain, *(node.module for node in nodes if isinstance(node, ast.ImportFrom))}
    names = {name.split(".")[0] for name in named if not name.startswith("agent.runtime.host")}
    assert names - sys.stdlib_module_names == {"numpy", "onnxruntime", "ai_edge_litert"}


def test_the_program_finds_nothing_of_the_agent():
    """The packages above it stand empty, whatever lies beside it."""
    code = f"import runpy; runpy.run_path({str(HOST / '__main__.py')!r})['stand_alone']()\n"
    code += "from agent.runtime.host import wire\nprint(wire.PROTOCOL)\nimport agent.errors"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.split() == [str(wire.PROTOCOL)]
    assert "No module named 'agent.errors'" in done.stderr


@pytest.mark.parametrize("form", ["onnx", "ort", "tflite"])
def test_a_runtime_of_another_python_runs_the_same_model(tmp_path, form):
    """Give other interpreters that have numpy and a runtime in LIMPET_HOST_PYTHONS, separated by colons."""
    others = [Path(p) for p in os.environ.get("LIMPET_HOST_PYTHONS", "").split(":") if p]
    if not others:
        pytest.skip("LIMPET_HOST_PYTHONS names no other Python")
    for python in others:
        options = RuntimeOptions(isolation="process", python=python)
        runner = open_model(make_model(tmp_path / python.parts[-3], "total", form), options)
        try:
            one = np.ones((1, 4), np.float32)
            assert runner.run({"x": one, "h": one})["y"].tolist() == [[3.0] * 4]
            assert runner.info.host.python == str(python)
        finally:
            runner.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be started: No such file or directory"),
        ("#!{python}\nimport sys\nsys.exit('no numpy')\n", "ended with status 1; it said: no numpy"),
    ],
)
def test_a_python_that_cannot_run_it_says_why(tmp_path, vendor, text, words):
    """A program that is not there, or that fails before it answers: its own words are part of the message."""
    python = program(tmp_path / "other", text) if text else tmp_path / "none"
    with pytest.raises(ModelError, match=words):
        vendor(python=python)


def test_a_python_without_the_runtime_lets_the_next_artifact_try(tmp_path):
    """No runtime for this kind of file is not a broken file: the message says what was looked for, and where."""
    python = program(tmp_path / "bare", vendors.SHIM.replace("{folder!r}", repr(str(tmp_path / "site"))))
    for package in ("ai_edge_litert", "tflite_runtime"):
        (tmp_path / "site" / package).mkdir(parents=True)
        (tmp_path / "site" / package / "__init__.py").write_text("raise ImportError('not for this board')")
    options = RuntimeOptions(isolation="process", python=python)
    with pytest.raises(ModelError, match=r"no artifact can run here: .*no runtime for TFLite .*not for this board"):
        open_model(make_model(tmp_path / "m", "copy", "tflite"), options)


def test_keys_that_need_a_process_are_refused_without_one():
    """python, workers and a memory limit say nothing about a model that runs in the agent."""
    for key in ({"python": "/usr/bin/python3"}, {"workers": 2}, {"memory_limit_mb": 100}):
        with pytest.raises(ConfigError, match='need isolation = "process"'):
            build(RuntimeOptions, key, "p.toml [model.runtime]")
        assert build(RuntimeOptions, key | {"isolation": "process"}, "p.toml [model.runtime]").isolation == "process"


# --- in the agent -----------------------------------------------------------------------------------------------------

SHAKY = """
schema = 1
name = "shaky"
source = "rows"
[window]
step = "rows"
length = 4
hop = 4
[model]
name = "MODEL"
[model.runtime]
isolation = "process"
python = "PYTHON"
[[rule]]
kind = "every"
period_s = 0.05
"""
STEPS = '[[pre]]\nstep = "flatten"\n[decoder]\nstep = "reconstruction"\nthreshold = 0.1\n'


def test_the_agent_goes_on_while_a_model_crashes(tmp_path):
    """A model that takes its process along again and again: its pipeline misses views, comes back, and is counted; the
    other pipeline and the events of both go on, and the agent stays what it was."""
    python = vendor_python(tmp_path)
    vendor_model(tmp_path / "model")
    text = (tmp_path / "model" / "model.toml").read_text().replace('"tensor"', '"series"')
    (tmp_path / "model" / "model.toml").write_text(text.replace("[[artifact]]", STEPS + "[[artifact]]"))
    rows = [1] * 20 + [vendors.SEGFAULT] * 4 + [1] * 16
    (tmp_path / "rows.csv").write_text("t,x\n" + "".join(f"{i / 20:.2f},{x}\n" for i, x in enumerate(rows)))
    (tmp_path / "shaky.toml").write_text(
        SHAKY.replace("MODEL", str(tmp_path / "model")).replace("PYTHON", str(python))
    )
    (tmp_path / "count.toml").write_text(COUNTING)
    with site(tmp_path) as place:
        place.add("rows", tmp_path / "shaky.toml", kind="replay", path=str(tmp_path / "rows.csv"), loop=True)
        place.add("more", tmp_path / "count.toml", kind="replay", path=str(tmp_path / "rows.csv"), loop=True)
        config, _ = place.write()
        with running(config, tmp_path / "agent.log") as agent:
            told = status(place.socket, lambda s: s["pipelines"]["shaky"]["host"]["crashes"] >= 2, 60)
            events = [told["pipelines"][name]["events"] for name in ("shaky", "count")]
            again = status(
                place.socket,
                lambda s: s["health"] == "ok" and all(
                    s["pipelines"][n]["events"] > e for n, e in zip(("shaky", "count"), events, strict=True)
                ),
                60,
            )  # fmt: skip
            words = limpet("status", "--config", config).communicate(timeout=30)[0]
            assert agent.poll() is None
    assert again["pipelines"]["shaky"]["refused"] >= 2
    assert again["pipelines"]["shaky"]["host"]["starts"] == 1
    assert "in a process of its own: 1 starts" in words
    assert "ended with SIGSEGV" in words
