"""Prepared files: right or not used at all, whatever happens to them; made whole or not at all."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.cli import main
from agent.errors import ModelError
from agent.loading import PREPARED, open_model
from agent.manifest import load_manifest
from agent.modelchild import Ended
from agent.prepared import PrepareError, forget, making, prepare, sweep
from agent.runtime import prepared as reading
from agent.runtime.prepared import Place, Record, files_of, key_of, read_record
from agent.settings.runtime import RuntimeOptions
from tests.tiny_models import make_model
from tools.bench.weights import write_heavy

FORMS = ("onnx", "tflite")
SIZE_MB = 8
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def any_pace():
    """A busy machine decides nothing here: only bench looks at speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "SLOWER", 1000.0)
        patch.setattr(making, "RUN_S", 0.05)
        yield


@pytest.fixture(scope="module", params=FORMS)
def ready(request, tmp_path_factory):
    """A dense int8 model of 8 MB, and a folder with its prepared files."""
    folder = tmp_path_factory.mktemp(request.param)
    manifest = load_manifest(write_heavy(folder / "model", "dense", request.param, SIZE_MB))
    place = Place(folder / "prepared")
    outcome = prepare(manifest, manifest.artifacts[0], place)
    assert outcome.state == "made", outcome.reason
    return manifest, place, outcome


@pytest.fixture
def copied(ready, tmp_path):
    """The same, with a copy of the prepared files that a test may damage."""
    manifest, place, _ = ready
    shutil.copytree(place.folder, tmp_path / "prepared")
    return manifest, replace(place, folder=tmp_path / "prepared")


def answers(manifest, place=None, **options):
    """What the model says to three inputs, and what really ran."""
    runner = open_model(manifest, RuntimeOptions(**options), prepared=place)
    port = runner.inputs[0]
    rng = np.random.default_rng(5)
    try:
        given = [rng.integers(0, 255, port.shape).astype(port.dtype) for _ in range(3)]
        return [runner.run({port.name: one})["y"] for one in given], runner.info
    finally:
        runner.close()


def same(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def entry(place, manifest):
    return place.folder / key_of(manifest.artifacts[0]).folder


def reason(info):
    return next((note.reason for note in info.fallbacks if note.asked == PREPARED), "")


def flip(path, share=0.5):
    """Turn one bit over, `share` of the way through the file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.chmod(0o644)
    path.write_bytes(data)


def test_answers_are_those_of_the_plain_load_bit_for_bit(ready):
    """Mapped or copied, the model says the same, and its `info` says which it was."""
    manifest, place, _ = ready
    plain, plainly = answers(manifest)
    mapped, info = answers(manifest, place)
    assert same(plain, mapped)
    assert (plainly.prepared, info.prepared) == ("", files_of(manifest.artifacts[0].runs_on, place.folder).recipe)
    assert not reason(info)


def test_weights_leave_private_memory(ready):
    """What was measured when the files were made: nine tenths of the private memory is gone."""
    _, _, outcome = ready
    figures = outcome.figures
    assert figures["plain_private_bytes"] > 0.9e6 * SIZE_MB
    assert figures["prepared_private_bytes"] < 0.4 * figures["plain_private_bytes"]


def test_two_threads_may_run_it_at_once(ready):
    """One runner, several callers: each gets the answer to its own input."""
    from concurrent.futures import ThreadPoolExecutor

    manifest, place, _ = ready
    runner = open_model(manifest, prepared=place)
    port = runner.inputs[0]
    given = [np.full(port.shape, n, port.dtype) for n in range(16)]
    expected = [runner.run({port.name: one})["y"] for one in given]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda one: runner.run({port.name: one})["y"], given))
    assert same(expected, made)
    runner.close()
    with pytest.raises(ModelError, match="closed"):
        runner.run({port.name: given[0]})


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_flipped_bit_in_any_file_is_found_and_the_model_answers_rightly(copied, share):
    """The runtimes use damaged packed weights without a word; here each such file is noticed, told, and made again."""
    manifest, place = copied
    expected, _ = answers(manifest)
    for path in sorted(entry(place, manifest).iterdir()):
        saved = path.read_bytes()
        flip(path, share)
        made, info = answers(manifest, place)
        assert same(expected, made), path.name
        assert "prepare the model again" in reason(info), path.name
        path.write_bytes(saved)
        path.chmod(0o444)
        assert answers(manifest, place)[1].prepared


@pytest.mark.parametrize("how", ["half", "ten bytes", "empty", "gone", "longer"])
def test_files_that_are_cut_short_or_missing_are_not_used(copied, how):
    """Whatever a full card or a broken copy left."""
    manifest, place = copied
    path = max(entry(place, manifest).iterdir(), key=lambda one: one.stat().st_size)
    data = path.read_bytes()
    path.chmod(0o644)
    cut = {"half": data[: len(data) // 2], "ten bytes": data[:10], "empty": b"", "longer": data + b"\0"}
    path.write_bytes(cut[how]) if how in cut else path.unlink()
    made, info = answers(manifest, place)
    assert same(answers(manifest)[0], made)
    assert not info.prepared and path.name in reason(info)


def test_damaged_files_are_made_again(copied):
    """`prepare` reads what lies there before it says that there is nothing to do."""
    manifest, place = copied
    flip(max(entry(place, manifest).iterdir(), key=lambda one: one.stat().st_size))
    assert prepare(manifest, manifest.artifacts[0], place).state == "made"
    assert prepare(manifest, manifest.artifacts[0], place).state == "there"
    assert answers(manifest, place)[1].prepared


def test_the_files_of_another_version_of_a_model_are_never_used(copied, tmp_path):
    """With v1's packed weights v2 would give v1's answers, and no runtime would notice."""
    manifest, place = copied
    form = manifest.artifacts[0].format
    newer = load_manifest(write_heavy(tmp_path / "v2", "dense", form, SIZE_MB, seed=1, version="2.0.0"))
    assert not answers(newer, place)[1].prepared
    entry(place, manifest).rename(entry(place, newer))
    made, info = answers(newer, place)
    assert same(answers(newer)[0], made)
    assert "for another model file" in reason(info)


def test_another_processor_or_runtime_makes_them_stale(copied, monkeypatch):
    """Packed weights fit one kind of processor and one version of a runtime."""
    manifest, place = copied
    monkeypatch.setattr(reading, "cpu_digest", lambda: "0" * 12)
    assert "none for this runtime and this processor" in reason(answers(manifest, place)[1])
    monkeypatch.undo()
    monkeypatch.setattr(reading, "installed_version", lambda _: "99.0")
    key = key_of(manifest.artifacts[0])
    monkeypatch.undo()
    assert key.version == "99.0"
    record = read_record(entry(place, manifest))
    path = entry(place, manifest) / "record.json"
    path.chmod(0o644)
    path.write_bytes(Record(key, record.files, figures=record.figures).encode())
    assert "for version 99.0" in reason(answers(manifest, place)[1])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "key": {}, "files": []}', "null", "[" * 60_000]
)
def test_a_damaged_record_means_a_plain_load(copied, text):
    """Whatever stands in it."""
    manifest, place = copied
    path = entry(place, manifest) / "record.json"
    path.chmod(0o644)
    path.write_text(text)
    made, info = answers(manifest, place)
    assert same(answers(manifest)[0], made)
    assert "damaged" in reason(info)


def test_files_that_others_may_write_are_not_used(copied):
    """Who may write them chooses what runs."""
    manifest, place = copied
    path = max(entry(place, manifest).iterdir(), key=lambda one: one.stat().st_size)
    path.chmod(0o646)
    assert "others than its owner may write" in reason(answers(manifest, place)[1])
    path.chmod(0o444)
    os.chown(path, 12345, -1) if os.geteuid() == 0 else None
    if os.geteuid() == 0:
        assert "somebody else's" in reason(answers(manifest, place)[1])


def test_the_version_of_a_runtime_is_that_of_its_package():
    """Found without the memory that Python's own way takes."""
    for package in ("onnxruntime", "ai-edge-litert", "numpy"):
        assert reading.installed_version(package) == importlib.metadata.version(package)
    assert reading.installed_version("no-such-package") == ""


def test_they_serve_any_number_of_threads(ready):
    """Packed weights do not depend on how many threads multiply."""
    manifest, place, _ = ready
    made, info = answers(manifest, place, threads=2)
    assert same(answers(manifest, threads=2)[0], made)
    assert info.prepared and info.threads == 2


def test_a_mapped_model_fills_no_log(ready):
    """LiteRT's own module would print dozens of lines; one that the plain interpreter prints too is left."""
    manifest, place, _ = ready
    code = (
        "import sys; from pathlib import Path; from agent.loading import open_model; from agent.manifest import "
        "load_manifest; from agent.runtime.prepared import Place\n"
        "runner = open_model(load_manifest(Path(sys.argv[1])), prepared=Place(Path(sys.argv[2])))\n"
        "print(runner.info.prepared); runner.close()"
    )
    command = [sys.executable, "-c", code, manifest.folder, place.folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert len(done.stderr.splitlines()) <= 1, done.stderr


def test_an_operator_may_do_without(ready):
    """[model.runtime] prepared = false, and every other way of computing, loads plainly and complains of nothing."""
    manifest, place, _ = ready
    for options in ({"prepared": False}, {"xnnpack": False}):
        _, info = answers(manifest, place, **options)
        assert not info.prepared and not reason(info)


def test_small_models_are_left_alone(tmp_path):
    """There is nothing to gain, so there is nothing to tell."""
    manifest = make_model(tmp_path / "m", "add", "tflite")
    place = Place(tmp_path / "prepared")
    assert prepare(manifest, manifest.artifacts[0], place).state == "small"
    assert not place.folder.exists()
    runner = open_model(manifest, prepared=place)
    assert not reason(runner.info)
    runner.close()


def test_a_large_model_without_prepared_files_says_how_to_get_them(ready, tmp_path):
    """The reason stands where an operator looks."""
    manifest, _, _ = ready
    _, info = answers(manifest, Place(tmp_path / "none"))
    assert "there are none" in reason(info)


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

    def lied(name, words):
        if name == "prepared":
            kept = Path(words["into"]) / "outputs.npz"
            with np.load(kept) as arrays:
                other = {key: arrays[key] + 1 for key in arrays.files}
            np.savez(kept, **other)
        return step(name, words)

    monkeypatch.setattr(making, "_step", lied)
    done = prepare(manifest, manifest.artifacts[0], Place(tmp_path / "prepared"))
    assert done.state == "refused" and "differs from the plain load" in done.reason


def test_a_crash_while_preparing_is_a_reason_and_no_more(ready, tmp_path, monkeypatch):
    """The model is native code's to parse, in a child."""
    manifest, _, _ = ready
    step = making._step

    def crashed(name, words):
        return making._read(name, Ended(b"", -11)) if name == "save" else step(name, words)

    monkeypatch.setattr(making, "_step", crashed)
    done = prepare(manifest, manifest.artifacts[0], Place(tmp_path / "prepared"))
    assert (done.state, done.reason) == ("refused", "the step 'save' ended with SIGSEGV")


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
    config = folder / "limpet.toml"
    config.write_text(f'schema = 1\n[models]\nprepared = "{folder / "prepared"}"\n')
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


def test_a_model_that_runs_keeps_what_it_mapped(copied):
    """Removing is unlinking: nothing is ever changed under a running model."""
    manifest, place = copied
    runner = open_model(manifest, prepared=place)
    port = runner.inputs[0]
    given = {port.name: np.full(port.shape, 3, port.dtype)}
    before = runner.run(given)["y"]
    assert forget(place.folder, manifest.artifacts[0].sha256) == 1
    assert runner.run(given)["y"].tobytes() == before.tobytes()
    runner.close()


def test_the_command_prepares_lists_and_removes(ready, tmp_path, capsys):
    """`limpet models prepare`, by name in a folder, by path, and --remove."""
    manifest, place, _ = ready
    config = tmp_path / "limpet.toml"
    config.write_text(f'schema = 1\n[models]\nprepared = "{tmp_path / "prepared"}"\n')
    shutil.copytree(place.folder, tmp_path / "prepared")
    words = ["models", "prepare", "--config", str(config), str(manifest.folder)]
    assert main(words) == 0
    assert "prepared already" in capsys.readouterr().out
    assert main([*words, "--remove"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not list((tmp_path / "prepared").glob("[!.]*/"))
    assert main(["models", "prepare", "--config", str(config)]) == 2
    assert "--all" in capsys.readouterr().err


def test_the_bench_shows_what_is_saved(ready, tmp_path, capsys):
    """Two processes share the mapped weights; plainly each has its own copy."""
    manifest, place, _ = ready
    config = tmp_path / "limpet.toml"
    config.write_text(f'schema = 1\n[models]\nprepared = "{place.folder}"\n')
    words = ["bench", "memory", "--config", str(config), "--processes", "2", str(manifest.folder)]
    assert main([*words, "--json"]) == 0
    plain, mapped = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (plain["way"], mapped["way"]) == ("plain", files_of(manifest.artifacts[0].runs_on, place.folder).recipe)
    assert plain["private_bytes"] > 0.9e6 * SIZE_MB
    assert mapped["private_bytes"] < 0.4 * plain["private_bytes"]
    assert mapped["pss_bytes"] < plain["pss_bytes"]


def test_the_bench_says_why_a_model_is_not_mapped(ready, tmp_path, capsys):
    """And goes on with the others."""
    manifest, _, _ = ready
    config = tmp_path / "limpet.toml"
    config.write_text(f'schema = 1\n[models]\nprepared = "{tmp_path / "none"}"\n')
    assert main(["bench", "memory", "--config", str(config), str(manifest.folder)]) == 0
    assert "not mapped: there are none" in capsys.readouterr().out


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


@pytest.mark.parametrize("name", ["a\nnum_threads = 9", 'it"s', "a\\new"])
def test_a_folder_that_litert_cannot_be_told_is_refused_in_words(tmp_path, name):
    """A line break would begin another option; it reads nothing that is escaped."""
    manifest = load_manifest(write_heavy(tmp_path / "model", "dense", "tflite", SIZE_MB))
    outcome = prepare(manifest, manifest.artifacts[0], Place(tmp_path / name))
    assert outcome.state == "refused" and "choose another folder" in outcome.reason


def test_a_folder_with_other_signs_is_mapped_from(tmp_path):
    """Blanks, letters of any language, and what begins a comment elsewhere."""
    manifest = load_manifest(write_heavy(tmp_path / "model", "dense", "tflite", SIZE_MB))
    place = Place(tmp_path / "it's # ü")
    assert prepare(manifest, manifest.artifacts[0], place).state == "made"
    assert answers(manifest, place)[1].prepared
