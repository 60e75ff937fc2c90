"""Sets the demo's stage: sources, keys, accounts and configuration in a folder of its own.

Real devices are used where the machine has them and they deliver; a recording takes the place of one that is missing,
and the words for the screen say so.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.capture import open_source
from agent.clock import Clock
from agent.demo.broker import Account, Broker
from agent.demo.pki import DemoKeys
from agent.envelope.topics import ROOT
from agent.errors import CaptureError
from agent.settings.capture import LoadConfig, MicrophoneConfig, SourceConfig, SysfsConfig, V4l2Config

SITE = "demo"
DEVICE = "here"
DEVICE_WRITES = ("status", "twin/#", "e/#", "keys/#", "m/#", "a/#", "cmd/#")
"""Topics below its own name to which the broker lets the device publish."""
PROBE_S = 3.0
"""How long a device may take to deliver its first sample, seconds."""


@dataclass(frozen=True, slots=True)
class Part:
    """One pipeline of the demo: its source's table in TOML, and words for the screen."""

    source: str
    pipeline: Path
    table: str
    words: str


def accounts() -> tuple[Account, ...]:
    """The device writes under its own name and hears its requests; the reader reads, and asks as its technician."""
    base = f"{ROOT}/{SITE}/{DEVICE}"
    device = Account("device", read=(f"{base}/req/#",), write=tuple(f"{base}/{t}" for t in DEVICE_WRITES))
    return device, Account("reader", read=(f"{ROOT}/#",), write=(f"{base}/req/#",))


def find_parts(pipelines: Path, models: Path, clock: Clock) -> Iterator[Part]:
    """What there is to see, hear and feel on this machine. Takes a moment for each device that does not answer."""
    cameras = (path for path in sorted(Path("/dev").glob("video*")) if _delivers(V4l2Config(device=path), clock))
    camera = next(cameras, None)
    if camera is not None:
        table = _table(kind="v4l2", device=str(camera), fps=5)
        yield Part("camera", pipelines / "digit.toml", table, f"{camera}: hold a digit into the middle of the picture")
    else:
        film = models / "digits" / "demo.mp4"
        yield _recorded("camera", pipelines / "meter.toml", film, "no camera here: a recorded meter display")
    if _delivers(MicrophoneConfig(), clock):
        yield Part("microphone", pipelines / "keywords.toml", _table(kind="microphone"), "the default microphone")
    else:
        sound = models / "keywords" / "demo.wav"
        yield _recorded("microphone", pipelines / "keywords.toml", sound, "no microphone here: recorded words in noise")
    rows = models / "vibration" / "demo.csv"
    yield _recorded("vibration", pipelines / "vibration.toml", rows, "no accelerometer here: a recorded bearing")
    if _delivers(SysfsConfig(), clock):
        words = "this machine's own sensors (hwmon, thermal, IIO)"
        yield Part("machine", pipelines / "machine.toml", _table(kind="sysfs"), words)
    elif _delivers(LoadConfig(interval_s=0.5), clock):
        yield Part("machine", pipelines / "machine.toml", _table(kind="load"), "this machine's own load")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the demo's device gets updates."""

    repository: str
    """Base URL."""
    anchor: Path
    """The repository's root.json."""


def write_agent(
    folder: Path, keys: DemoKeys, broker: Broker, parts: tuple[Part, ...], models: Path, updates: Source | None = None
) -> Path:
    """Write limpet.toml of the demo's device; returns its path."""
    envelope = {"signing_key": str(keys.device.key), "readers": [str(keys.reader.certificate)]}
    store = {"folder": str(folder / "outbox"), "key_file": str(folder / "store.key")}
    tables = [
        "schema = 1",
        _named("device", site=SITE, name=DEVICE),
        _named("paths", runtime=str(folder / "run"), pipelines=[str(part.pipeline) for part in parts]),
        _named("models", folders=[str(models)]),
        _named("store", budget_mib=32, routine_wait_s=5, **store),
        _named("uplink", **connection(keys, broker, "device")),
        _named("envelope", **envelope),
        _named("metrics", listen="127.0.0.1:0"),
        *(_updating(folder, keys, updates) if updates else ()),
        *(f"[sources.{part.source}]\n{part.table}" for part in parts),
    ]
    return _write(folder / "limpet.toml", "\n\n".join(tables) + "\n")


def _updating(folder: Path, keys: DemoKeys, updates: Source) -> Iterator[str]:
    """Updates by a child of the agent, on request of the demo's technician."""
    places = {name: folder / name for name in ("depot", "spool")}
    for place in places.values():
        place.mkdir(mode=0o700, exist_ok=True)
    yield _named(
        "updates", repository=updates.repository, root=str(updates.anchor), updater="child", probation_inferences=8,
        folder=str(places["depot"]), spool=str(places["spool"]), token=str(folder / "generation"),
    )  # fmt: skip
    yield _named("commands", enabled=True, journal=str(folder / "commands.db"))
    yield "[[commands.key]]\n" + _table(name="demo", role="technician", public=str(keys.technician.certificate))


def write_reader(folder: Path, keys: DemoKeys, broker: Broker, *, asks: bool = False) -> Path:
    """Write reader.toml, which believes the demo's device and nobody else, and `asks` it too; returns its path."""
    tables = [
        "schema = 1",
        _named("broker", **connection(keys, broker, "reader")),
        _named("reader", key=str(keys.reader.key)),
        *([_named("technician", key=str(keys.technician.key))] if asks else []),
        "[[reader.device]]\n" + _table(site=SITE, device=DEVICE, keys=[str(keys.device.certificate)]),
    ]
    return _write(folder / "reader.toml", "\n\n".join(tables) + "\n")


def write_page(folder: Path, keys: DemoKeys, broker: Broker) -> Path:
    """Write the browser page's configuration: the broker's WebSocket, the reader's login, the device's key."""
    page = {
        "broker": f"ws://127.0.0.1:{broker.websocket_port}",
        "protocol": broker.protocol,
        "username": "reader",
        "password": keys.passwords["reader"].read_text(),
        "devices": [{"site": SITE, "device": DEVICE, "mode": "sealed", "keys": [keys.device.certificate.read_text()]}],
    }
    return _write(folder / "page.json", json.dumps(page))


def connection(keys: DemoKeys, broker: Broker, name: str) -> dict[str, str]:
    """How `name` reaches the broker and proves itself: by certificate where it can check one, else by password."""
    made = {"broker": f"mqtts://localhost:{broker.port}", "protocol": broker.protocol, "ca_file": str(keys.authority)}
    if broker.client_certificates:
        pair = keys.clients[name]
        return made | {"certificate": str(pair.certificate), "key": str(pair.key)}
    return made | {"username": name, "password_file": str(keys.passwords[name])}


def _delivers(config: SourceConfig, clock: Clock) -> bool:
    """Whether a device gives a first sample in time."""
    try:
        with open_source("probe", config, clock) as source:
            until_s = clock.mono_s() + PROBE_S
            while clock.mono_s() < until_s:
                if source.read(0.5) is not None:
                    return True
    except CaptureError:
        return False
    return False


def _recorded(source: str, pipeline: Path, recording: Path, words: str) -> Part:
    return Part(source, pipeline, _table(kind="replay", path=str(recording), loop=True), words)


def _table(**values: object) -> str:
    """TOML of flat values: JSON writes strings, numbers, truth values and lists of them the same way."""
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())


def _named(name: str, /, **values: object) -> str:
    return f"[{name}]\n{_table(**values)}"


def _write(path: Path, text: str) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return path
