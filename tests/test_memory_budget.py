"""The budget of loaded models: who gives way, who comes back, and what is refused."""

import threading
import time

import numpy as np
import pytest

from agent.app.residency import Residency
from agent.app.shelf import Shelf
from agent.clock import SystemClock
from agent.errors import ModelError
from agent.inference import Inference
from agent.loading import open_model
from agent.process import costs
from agent.settings.core import ModelUse
from agent.settings.runtime import CacheConfig, ModelsConfig, RuntimeOptions
from tests.tiny_models import make_model


class Counted:
    """A real runner that says when it is opened, closed and running."""

    def __init__(self, runner, log, name, busy=None):
        self._runner, self._log, self._name, self._busy = runner, log, name, busy
        self.info, self.inputs, self.outputs = runner.info, runner.inputs, runner.outputs
        log.append(f"open {name}")

    def run(self, inputs):
        if self._busy is not None:
            self._busy[0].set()
            assert self._busy[1].wait(20)
        return self._runner.run(inputs)

    def close(self):
        self._log.append(f"close {self._name}")
        self._runner.close()


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "m", "copy", "tflite")


def lent(residency, model, log, name, size_bytes=100, busy=None):
    return residency.lend(name, size_bytes, lambda: Counted(open_model(model), log, name, busy))


X = {"x": np.ones((1, 4), np.float32)}


def test_who_ran_longest_ago_gives_way_and_comes_back(model):
    """Least recently used, by runs and not by loads."""
    log, residency = [], Residency(250)
    a, b = lent(residency, model, log, "a"), lent(residency, model, log, "b")
    a.run(X)
    c = lent(residency, model, log, "c")
    assert log == ["open a", "open b", "close b", "open c"]
    assert b.run(X)["y"].tolist() == [[1.0] * 4]
    assert log[-2:] == ["close a", "open b"]
    assert residency.numbers() == {
        "loaded": 2, "loaded_bytes": 200, "budget_bytes": 250, "loads": 4, "evictions": 2,
    }  # fmt: skip
    assert c.info.model == a.info.model, "what a model is can be asked while it is closed"


def test_room_is_made_before_a_model_is_opened(model):
    """There is never more in memory than the budget, not even for a moment."""
    log, residency = [], Residency(100)
    one, other = lent(residency, model, log, "a"), lent(residency, model, log, "b")
    one.run(X)
    other.run(X)
    there = 0
    for line in log:
        there += 1 if line.startswith("open") else -1
        assert there <= 1, log


def test_a_model_that_is_running_is_not_closed(model):
    """Who needs its room waits for the end of the run."""
    log, residency = [], Residency(150)
    busy = (threading.Event(), threading.Event())
    a = lent(residency, model, log, "a", busy=busy)
    running = threading.Thread(target=a.run, args=(X,))
    running.start()
    assert busy[0].wait(20)
    made = []
    opening = threading.Thread(target=lambda: made.append(lent(residency, model, log, "b")))
    opening.start()
    time.sleep(0.2)
    assert log == ["open a"] and not made
    busy[1].set()
    running.join(20)
    opening.join(20)
    assert log == ["open a", "close a", "open b"] and made


def test_many_threads_over_a_small_budget_all_get_their_answers(model):
    """Eight streams, four models, room for two: nobody waits for ever, and nobody gets another one's answer."""
    log, residency = [], Residency(250)
    models = [lent(residency, model, log, str(n)) for n in range(4)]
    wrong = []

    def stream(number):
        for turn in range(50):
            value = float(number * 100 + turn)
            answer = models[(number + turn) % 4].run({"x": np.full((1, 4), value, np.float32)})["y"]
            wrong.extend([value] if answer.tolist() != [[value] * 4] else [])

    streams = [threading.Thread(target=stream, args=(n,)) for n in range(8)]
    for one in streams:
        one.start()
    for one in streams:
        one.join(60)
    assert not any(one.is_alive() for one in streams)
    assert wrong == []
    assert residency.numbers()["loaded_bytes"] <= 250


def test_a_model_beyond_the_whole_budget_is_refused_in_words(model):
    """It would push everything else out and still not fit."""
    with pytest.raises(ModelError, match=r"more than all models together.*\[models\] resident_mb"):
        lent(Residency(99), model, [], "a")


def test_a_closed_model_is_not_opened_again(model):
    """Neither by a late run nor twice."""
    log, residency = [], Residency(100)
    a = lent(residency, model, log, "a")
    a.close()
    a.close()
    with pytest.raises(ModelError, match="closed"):
        a.run(X)
    assert log == ["open a", "close a"]


def test_a_model_that_is_closed_while_it_loads_does_not_stay(model):
    """Its stream has gone meanwhile: what was loaded is given back at once."""
    log, residency = [], Residency(100)
    a, b = lent(residency, model, log, "a"), lent(residency, model, log, "b")
    make = a.make

    def late():
        runner = make()
        a.close()
        return runner

    a.make = late
    with pytest.raises(ModelError, match="closed"):
        a.run(X)
    assert log == ["open a", "close a", "open b", "close b", "open a", "close a"]
    assert residency.numbers()["loaded"] == 0 and b.run(X)


def test_a_model_that_cannot_be_opened_again_is_an_error_of_that_run_only(model):
    """Its file rotted while it was closed: the run says so, and the others go on."""
    log, residency = [], Residency(100)
    a, b = lent(residency, model, log, "a"), lent(residency, model, log, "b")
    path = model.folder / model.artifacts[0].file
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\0\0")
    with pytest.raises(ModelError, match="sha256"):
        a.run(X)
    path.write_bytes(good)
    assert a.run(X) and b.run(X)


def test_the_shelf_keeps_its_budget_and_counts_it(tmp_path):
    """[models] resident_mb, as the running agent applies it to its pipelines."""
    size = (make_model(tmp_path / "a", "copy", "tflite", name="a").folder / "copy.tflite").stat().st_size
    make_model(tmp_path / "b", "copy", "tflite", name="b")
    config = ModelsConfig(folders=(tmp_path,), resident_mb=1.5 * size / 1e6)
    shelf = Shelf(config, CacheConfig(enabled=False), SystemClock())
    uses = [shelf.inference(shelf.manifest(ModelUse(name), tmp_path), RuntimeOptions()) for name in ("a", "b")]
    for _ in range(3):
        assert all(use.run_raw(X).outputs["y"].tolist() == [[1.0] * 4] for use in uses)
    assert shelf.residency.numbers()["loaded"] == 1
    assert shelf.residency.numbers()["evictions"] == 7
    shelf.close()
    assert shelf.residency.numbers()["loaded"] == 0


def test_a_model_that_is_about_to_be_used_is_not_swept_away(tmp_path, monkeypatch):
    """The supervisor sweeps while another thread makes the stream that will use the model, new or known."""
    make_model(tmp_path / "a", "copy", "tflite", name="a")
    shelf = Shelf(ModelsConfig(folders=(tmp_path,)), CacheConfig(enabled=False), SystemClock())

    def swept(*given, **named):
        shelf.sweep()
        return Inference(*given, **named)

    monkeypatch.setattr("agent.app.shelf.Inference", swept)
    for _ in range(2):
        use = shelf.inference(shelf.manifest(ModelUse("a"), tmp_path), RuntimeOptions())
        assert use.run_raw(X).outputs["y"].tolist() == [[1.0] * 4]
        shelf.give_back(use)
    shelf.sweep()
    assert shelf.residency.numbers()["loaded"] == 0


def test_a_stream_that_cannot_be_made_leaves_no_model_behind(tmp_path, monkeypatch):
    """A wrong step in the manifest is found after the model was loaded."""
    make_model(tmp_path / "a", "copy", "tflite", name="a")
    shelf = Shelf(ModelsConfig(folders=(tmp_path,)), CacheConfig(enabled=False), SystemClock())

    def refused(*_given, **_named):
        raise ModelError("a wrong step")

    monkeypatch.setattr("agent.app.shelf.Inference", refused)
    for _ in range(2):
        with pytest.raises(ModelError, match="a wrong step"):
            shelf.inference(shelf.manifest(ModelUse("a"), tmp_path), RuntimeOptions())
    shelf.sweep()
    assert shelf.residency.numbers()["loaded"] == 0


def test_models_that_gave_way_in_vain_are_closed_all_the_same(model, monkeypatch):
    """Another one kept running for too long: what went out before is closed, and comes back when it is needed."""
    monkeypatch.setattr("agent.app.residency.WAIT_S", 0.2)
    log, residency, busy = [], Residency(200), (threading.Event(), threading.Event())
    idle, runs = lent(residency, model, log, "idle"), lent(residency, model, log, "runs", busy=busy)
    thread = threading.Thread(target=runs.run, args=(X,))
    thread.start()
    assert busy[0].wait(20)
    try:
        with pytest.raises(ModelError, match="no other model has ended its run"):
            lent(residency, model, log, "large", size_bytes=200)
        assert log[-1] == "close idle"
    finally:
        busy[1].set()
        thread.join()
    assert idle.run(X)["y"].tolist() == [[1.0] * 4]


def test_major_faults_and_private_memory_are_told():
    """What memory pressure costs shows in the metrics of the process."""
    told = costs()
    assert told["major_faults"] >= 0
    assert 1e6 < told["private_bytes"] <= told["resident_bytes"]
