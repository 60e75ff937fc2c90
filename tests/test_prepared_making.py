"""Making prepared files: whole or not at all, with a reason, whatever the model, the disk or another process does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agent.manifest import load_manifest
from agent.modelchild import Ended
from agent.prepared import PrepareError, forget, making, prepare, sweep
from agent.runtime.prepared import Place
from tests import prepared_files
from tests.prepared_files import FORMS, SIZE_MB, answers, configured, entry, reason
from tools.bench.weights import write_heavy

ROOT = Path(__file__).resolve().parent.parent
any_pace = pytest.fixture(prepared_files.any_pace, autouse=True)
ready = pytest.fixture(prepared_files.ready, params=FORMS, scope="module")
copied = pytest.fixture(prepared_files.copied)


def test_what_gains_nothing_is_remembered_and_not_tried_again(ready, tmp_path, monkeypatch):
    """The files go, the reason stays."""
    manifest, _, _ = ready
    place = Place(tmp_path / "prepared")
    monkeypatch.setattr(making, "GAIN", 1000.0)
    first = prepare(manifest, manifest.artifacts[0], place)
    assert first.state == "refused" and "would save" in first.reason
    assert [path.name for path in entry(place, manifest).iterdir()] == ["record.json"]
    monkeypatch.undo()
    monkeypatch.setattr(making, "_step", None)  # nothing is started
    assert prepare(manifest, manifest.artifacts[0], place).reason == first.reason
    assert reason(answers(manifest, place)[1]) == first.reason


def test_other_answers_than_the_plain_load_gives_are_refused(ready, tmp_path, monkeypatch):
    """A runtime that saves something else than it runs is found out before anybody relies on it."""
    manifest, _, _ = ready
    step = making._step

    def lied(name, task, user):
        if name == "prepared":
            kept = Path(task.into) / "outputs.npz"
            with np.load(kept) as arrays:
                other = {key: arrays[key] + 1 for key in arrays.files}
            np.savez(kept, **other)
        return step(name, task, user)

    monkeypatch.setattr(making, "_step", lied)
    done = prepare(manifest, manifest.artifacts[0], Place(tmp_path / "prepared"))
    assert done.state == "refused" and "differs from the plain load" in done.reason


@pytest.mark.parametrize(
    ("plain", "prepared", "words"),
    [
        ((163, 163, 72.0), (466, 466, 72.0), "would save 0.0 MB"),  # saved with convolutions in floating point
        ((4, 5, 3.35), (0.5, 0.6, 4.47), "a run would take 4.47 ms here instead of 3.35 ms"),  # a lost layout
        ((104, 200, 29.0), (104, 104, 29.5), ""),  # the weights stay private, but loading takes half
        ((130, 228, 10.0), (3, 70, 10.1), ""),
        ((0.3, 0.4, 0.2), (0.28, 0.38, 0.2), "would save 0.0 MB"),
    ],
)
def test_the_traps_of_the_runtimes_are_judged_by_what_was_measured(plain, prepared, words):
    """Figures as they were measured on real networks: MB of private memory, its peak, ms of a run."""
    names = (("private_bytes", 1e6), ("peak_bytes", 1e6), ("run_ms", 1.0))
    figures = [{name: n * unit for (name, unit), n in zip(names, one, strict=True)} for one in (plain, prepared)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "SLOWER", 1.25)
        said = making.judged(*figures, model_bytes=int(max(plain[0], 1) * 0.6e6))
    assert (words in said) if words else not said


def test_a_crash_while_preparing_is_a_reason_and_no_more(ready, tmp_path, monkeypatch):
    """The model is native code's to parse, in a child."""
    manifest, _, _ = ready
    step = making._step

    def crashed(name, task, user):
        return making._read(name, Ended(b"", -11)) if name == "save" else step(name, task, user)

    monkeypatch.setattr(making, "_step", crashed)
    done = prepare(manifest, manifest.artifacts[0], Place(tmp_path / "prepared"))
    assert (done.state, done.reason) == ("refused", "the step 'save' ended with SIGSEGV")


@pytest.mark.parametrize("name", ["a\nnum_threads = 9", 'it"s', "a\\new"])
def test_a_folder_that_litert_cannot_be_told_is_refused_in_words(tmp_path, name):
    """A line break would begin another option; it reads nothing that is escaped."""
    manifest = load_manifest(write_heavy(tmp_path / "model", "dense", "tflite", SIZE_MB))
    outcome = prepare(manifest, manifest.artifacts[0], Place(tmp_path / name))
    assert outcome.state == "refused" and "choose another folder" in outcome.reason


def test_a_folder_that_cannot_be_written_is_told_in_words(ready, tmp_path):
    """And the model runs plainly."""
    manifest, _, _ = ready
    (tmp_path / "file").write_text("")
    place = Place(tmp_path / "file" / "prepared")
    with pytest.raises(PrepareError, match=r"file/prepared.*run this as the user that owns"):
        prepare(manifest, manifest.artifacts[0], place)
    assert not answers(manifest, place)[1].prepared


def test_room_on_the_disk_is_bounded(ready, tmp_path):
    """[models] prepared_mb holds, and the message says what to do."""
    manifest, _, _ = ready
    with pytest.raises(PrepareError, match=r"MB more are needed.*prepared_mb"):
        prepare(manifest, manifest.artifacts[0], Place(tmp_path / "prepared", limit_bytes=1_000_000))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_fills_half_way_leaves_nothing(ready, tmp_path, monkeypatch):
    """No file, no folder, no lock: only the reason."""
    manifest, _, _ = ready
    place = Place(tmp_path / "small")
    place.folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4M,mode=755", "tmpfs", place.folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setattr(making, "_refuse_full", lambda *_: None)
        with pytest.raises(PrepareError, match="the disk is full"):
            prepare(manifest, manifest.artifacts[0], place)
        assert [path.name for path in place.folder.iterdir()] == ["lock"]
    finally:
        subprocess.run(["umount", place.folder], check=True)


def start(model, folder):
    """`limpet models prepare` in a process of its own."""
    config = configured(folder, folder / "prepared")
    command = [sys.executable, "-m", "agent", "models", "prepare", "--json", "--config", config, model]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_prepare_a_model_once(ready, tmp_path):
    """The second waits and finds it done."""
    manifest, _, _ = ready
    both = [start(manifest.folder, tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(json.loads(out)["state"] for out, _ in said) == ["made", "there"]
    assert answers(manifest, Place(tmp_path / "prepared"))[1].prepared


def test_a_kill_while_preparing_leaves_nothing_that_is_used(ready, tmp_path):
    """At any moment: the next one removes what was left, and makes them."""
    manifest, _, _ = ready
    place = Place(tmp_path / "prepared")
    for wait_s in (0.0, 0.6, 1.6):
        process = start(manifest.folder, tmp_path)
        until_s = time.monotonic() + 60
        while not list(place.folder.glob(".new-*")):
            assert time.monotonic() < until_s and process.poll() is None
            time.sleep(0.01)
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not answers(manifest, place)[1].prepared
    assert prepare(manifest, manifest.artifacts[0], place).state == "made"
    assert not list(place.folder.glob(".*"))
    assert answers(manifest, place)[1].prepared


def test_what_belongs_to_no_model_any_more_goes(copied):
    """By name, or everything that no installed model has."""
    manifest, place = copied
    sha256 = manifest.artifacts[0].sha256
    assert sweep(place.folder, {sha256}) == 0
    assert sweep(place.folder, {"0" * 64}) == 1
    assert not entry(place, manifest).exists()
    assert forget(place.folder, sha256) == 0
