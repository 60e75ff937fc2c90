"""Prepared files that are damaged, stale or somebody else's: not used at all, and the model answers rightly."""

import importlib.metadata
import os

import pytest

from agent.manifest import load_manifest
from agent.prepared import prepare
from agent.runtime import prepared as reading
from agent.runtime.prepared import Record, key_of, read_record
from tests import prepared_files
from tests.prepared_files import FORMS, SIZE_MB, answers, entry, reason, same
from tools.bench.weights import write_heavy

any_pace = pytest.fixture(prepared_files.any_pace, autouse=True)
ready = pytest.fixture(prepared_files.ready, params=FORMS, scope="module")
copied = pytest.fixture(prepared_files.copied)


def flip(path, share=0.5):
    """Turn one bit over, `share` of the way through the file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.chmod(0o644)
    path.write_bytes(data)


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
