"""The shape of the house: imports go down the floors, heavy packages have one door, steps are frozen."""

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS = (
    {
        "agent", "agent.durable", "agent.errors", "agent.progress", "agent.records", "agent.strict",
        "agent.tomlfile",
    },
    {
        "agent.backoff", "agent.broker", "agent.cache", "agent.cbor", "agent.clock", "agent.codec",
        "agent.config", "agent.credentials", "agent.drawing", "agent.envelope", "agent.health", "agent.inbox",
        "agent.layers",
        "agent.logs", "agent.manifest", "agent.meters", "agent.metrics", "agent.migrations",
        "agent.ownership", "agent.package", "agent.plugins",
        "agent.request", "agent.rules", "agent.settings", "agent.similar", "pipelines",
    },
    {
        "agent.capture", "agent.control", "agent.depot", "agent.exposition", "agent.identity", "agent.journal",
        "agent.layerfiles", "agent.modelchild", "agent.mqtt", "agent.notify", "agent.process", "agent.recall",
        "agent.registry", "agent.runtime", "agent.store", "agent.updaterchild", "agent.uplink",
    },
    {
        "agent.answering", "agent.catalogue", "agent.commands", "agent.feed", "agent.golden", "agent.inference",
        "agent.loading", "agent.papers", "agent.pipeline", "agent.prepared", "agent.promises", "agent.reading",
        "agent.reconfigure", "agent.release", "agent.repository", "agent.skeleton", "agent.stock", "agent.technician",
        "agent.trial", "agent.tryout", "agent.updates", "agent.views",
    },
    {"agent.lanes", "agent.supervisor"},
    {"agent.__main__", "agent.app", "agent.cli", "agent.demo"},
)  # fmt: skip

ONE_DOOR = {
    "onnxruntime": {"agent/runtime/ort.py", "agent/runtime/host/ort.py"},
    "ai_edge_litert": {"agent/runtime/litert.py", "agent/runtime/host/lite.py"},
    "tflite_runtime": {"agent/runtime/litert.py", "agent/runtime/host/lite.py"},
    "paho": {"agent/mqtt/link.py"},
    "cv2": {
        "agent/capture/camera.py", "agent/drawing/canvas.py", "pipelines/image.py", "pipelines/gates.py",
        "pipelines/thumbnail.py",
    },
    "sounddevice": {"agent/capture/audio.py"},
    "serial": {"agent/capture/sensor.py"},
    "cbor2": {"agent/cbor.py"},
    "cryptography": {
        "agent/envelope", "agent/identity", "agent/package", "agent/repository", "agent/store", "agent/demo",
    },
    "amqtt": {"agent/demo/embedded.py"},
    "sqlite3": {"agent/store", "agent/journal"},
    "sqlite_utils": {"agent/store"},
    "tuf": {"agent/updates", "agent/repository"},
    "securesystemslib": {"agent/updates", "agent/repository"},
    "boto3": {"agent/repository/s3.py"},
}


def _modules():
    for base in ("agent", "pipelines"):
        for path in sorted((ROOT / base).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            yield ".".join(parts), path


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _floor(module):
    for depth, names in enumerate(FLOORS):
        while_name = module
        while while_name:
            if while_name in names and (while_name != "agent" or module == "agent"):
                return depth
            while_name = while_name.rpartition(".")[0]
    return None


def test_every_module_stands_on_a_floor():
    """A new file must say on which floor it stands."""
    assert [name for name, _ in _modules() if _floor(name) is None] == []


def test_the_architecture_page_shows_the_same_floors():
    """Who reads the page and who reads this file see one house, and no floor names a module that is gone."""
    rows = re.findall(r"^\| (\d) \| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    told = {int(floor): set(re.findall(r"`(\w+)/?`", words)) for floor, words in rows}
    built = {floor: {name.removeprefix("agent.") for name in names - {"agent"}} for floor, names in enumerate(FLOORS)}
    assert told == built
    assert set().union(*FLOORS) <= {name for name, _ in _modules()}


def test_imports_only_go_down():
    """No file imports one above it; on floor 2 siblings do not know each other."""
    names = {name for name, _ in _modules()}
    wrong = []
    for name, path in _modules():
        mine = _floor(name)
        for target in set(_imports(path)) & names:
            theirs = _floor(target)
            top = [n.split(".")[1] if n.startswith("agent.") else n for n in (name, target)]
            if theirs > mine or (mine == theirs == 2 and top[0] != top[1]):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_heavy_packages_have_one_door():
    """A heavy package is imported by the file that owns it and by no other."""
    wrong = []
    for _, path in _modules():
        here = path.relative_to(ROOT).as_posix()
        for target in _imports(path):
            doors = ONE_DOOR.get(target.split(".")[0])
            if doors and not any(here == d or here.startswith(d + "/") for d in doors):
                wrong.append(f"{here} imports {target}")
    assert wrong == []


def _steps():
    steps = importlib.import_module("pipelines").STEPS
    return [(kind, name, spec) for kind, table in steps.items() for name, spec in table.items()]


@pytest.mark.parametrize(("kind", "name", "spec"), _steps())
def test_steps_are_frozen_dataclasses(kind, name, spec):
    """A step is configuration plus behaviour, and cannot change after it is made."""
    module, _, attribute = spec.partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert callable(cls.__call__)
    assert hasattr(cls, "initial") == (kind in {"gate", "window", "detector", "follow"}), name
