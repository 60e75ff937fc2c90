"""Prepared files on an installed device: made by hand or by the updater, mapped by the agent, each in its own cage."""

import shutil

import pytest

from tests.machine import booted
from tools.bench.weights import write_heavy

OPEN = """
import sys, numpy as np
from pathlib import Path
from agent.config import load_config
from agent.loading import open_model, place_of
from agent.manifest import load_manifest
place = place_of(load_config(Path("/etc/limpet/limpet.toml")).models)
for form in ("tflite", "onnx"):
    runner = open_model(load_manifest(Path("/opt/heavy") / form), prepared=place)
    port = runner.inputs[0]
    answer = runner.run({port.name: np.full(port.shape, 3, port.dtype)})["y"]
    print(form, runner.info.prepared or runner.info.fallbacks, answer.shape)
"""
PREPARE = """
from pathlib import Path
from agent.config import load_config
from agent.loading import place_of
from agent.manifest import load_manifest
from agent.prepared import forget, prepare
place = place_of(load_config(Path("/etc/limpet/limpet.toml")).models)
for form in ("tflite", "onnx"):
    manifest = load_manifest(Path("/opt/heavy") / form)
    print(form, "removed", forget(place.folder, manifest.artifacts[0].sha256))
    done = prepare(manifest, manifest.artifacts[0], place, memory_bytes=1 << 30)
    print(form, done.state, done.reason)
"""
DOOR = """
from pathlib import Path
for path in sorted(Path("/var/lib/limpet-models/prepared").glob("*/*")):
    try:
        path.open("r+b").close()
    except OSError as exc:
        print(path.name, exc.strerror)
    else:
        print(path.name, "allowed")
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine with two large models of root's."""
    with booted(tmp_path_factory.mktemp("machine")) as it:
        for form in ("tflite", "onnx"):
            made = write_heavy(tmp_path_factory.mktemp(form) / form, "dense", form, 8)
            shutil.copytree(made, it.root / "opt" / "heavy" / form)
        it.run("chmod 755 /opt/heavy; chown -R root:root /opt/heavy")
        yield it


def test_prepared_by_hand_they_belong_to_the_updater_and_the_agent_maps_them(machine):
    """Root by hand leaves nothing that the updater could not replace, and the agent can read but not write it."""
    said = machine.run("limpet models prepare /opt/heavy/tflite /opt/heavy/onnx", timeout_s=120)
    assert said.count("prepared in") == 2, said
    owners = machine.run("stat -c '%U %a' /var/lib/limpet-models/prepared /var/lib/limpet-models/prepared/*/*")
    assert {line.split()[0] for line in owners.splitlines()} == {"limpet-update"}
    told = machine.caged(OPEN)
    assert "tflite weight-cache-1 (1, 2048)" in told and "onnx saved-graph-1 (1, 2048)" in told, told
    refused = [line.partition(" ")[2] for line in machine.caged(DOOR).splitlines()]
    assert len(refused) == 5 and set(refused) <= {"Permission denied", "Read-only file system"}


def test_the_updater_prepares_in_its_own_cage(machine):
    """With every restriction of its unit; then the agent maps them."""
    told = machine.caged(PREPARE, "limpet-update.service")
    assert told.count(" made ") == 2 and told.count("removed 1") == 2, told
    told = machine.caged(OPEN)
    assert "tflite weight-cache-1" in told and "onnx saved-graph-1" in told, told
