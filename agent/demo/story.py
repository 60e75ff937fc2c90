"""The demo's story of an update: a better model is published, asked for, proved and kept; then a bad one goes back.

Everything is done by the commands that an operator would type (`limpet repo ...`), run as children, and by a request
that is signed here as `limpet request` signs it. The bad version is an honest mistake: its publisher left a step of the
preparation out, and tried the network alone. So it passes its golden inputs, and fails on what the camera sees.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.broker import Message
from agent.loading import open_model
from agent.manifest import load_manifest
from agent.reading import Heard, Said
from agent.request import Target, new_id
from agent.settings.runtime import RuntimeOptions
from agent.settings.technician import TechnicianConfig
from agent.technician.asking import Asked, Round, words
from agent.technician.signing import Technician

MODEL = "digits"
GOOD, BAD = "1.1.0", "1.2.0"
BREATH_S = 2.0
"""Between the chapters, so that people can follow, seconds."""
COMMAND_S = 60.0
"""Longest time of one command, seconds."""
SHOWN = 12
"""Lines that are kept: two chapters on the page."""
_WAY = "  the device says: "


@dataclass(slots=True)
class Story:
    """Told step by step: `turn` goes on as far as it can without waiting."""

    folder: Path
    device: str
    """SITE/DEVICE."""
    technician: TechnicianConfig
    models: Path
    outgoing: deque[Message]
    """Messages for the reader's connection."""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN))
    """What has happened, for a log: a line each."""
    page: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN))
    """The same for a screen: a request is one line that grows, and one for its end."""
    told: int = 0
    """Lines since the beginning."""
    asked: Round | None = None
    ended: dict[str, str] = field(default_factory=dict)
    """Version -> the terminal state of its request."""
    _version: str = ""
    _twin: Heard | None = None
    """The newest word of the device about its commands."""
    _steps: Generator[None, None, None] | None = None
    _over: bool = False

    @property
    def repository(self) -> Path:
        """Workspace of the publisher; what devices fetch lies in its `public`."""
        return self.folder / "repository"

    def prepare(self) -> Path:
        """Make the repository; returns the trust anchor. Raises subprocess.CalledProcessError."""
        subprocess.run(_limpet("repo", "init", self.repository), check=True, capture_output=True, timeout=COMMAND_S)
        return self.repository / "root.json"

    def hear(self, said: Said) -> None:
        """What came from the broker."""
        if isinstance(said, Heard) and (said.opened.place, said.opened.name) == ("twin", "commands"):
            self._twin = said
        changed = self.asked.take(said) if self.asked else None
        if changed is not None:
            self._tell_way(changed)
            if changed.phase == "ended" and changed.seen:
                self.ended[self._version] = changed.seen.status

    def turn(self) -> None:
        """Go on."""
        if self._steps is None:
            self._steps = self._tell()
        if not self._over:
            self._over = next(self._steps, self) is self

    def close(self) -> None:
        """Break off; nothing that was started goes on."""
        if self._steps is not None:
            self._steps.close()

    def _tell(self) -> Generator[None, None, None]:
        for version, change in ((GOOD, _better), (BAD, _worse)):
            folder = self.folder / f"{MODEL}-{version}"
            shutil.copytree(self.models / MODEL, folder, ignore=shutil.ignore_patterns("demo.*"))
            change(folder, version)
            yield from self._run("repo", "add", folder, "--repo", self.repository, "--channel", "stable")
            yield from self._ask(version)
            yield from _pause(BREATH_S)

    def _run(self, *arguments: str | Path) -> Iterator[None]:
        self._say("$ limpet " + " ".join(a if isinstance(a, str) else a.name for a in arguments))
        pipe = subprocess.PIPE
        with subprocess.Popen(_limpet(*arguments), stdout=pipe, stderr=subprocess.STDOUT, text=True) as child:
            try:
                while child.poll() is None:
                    yield
            finally:
                child.terminate()  # where it has not ended by itself, the story was broken off
            out = child.stdout.read() if child.stdout else ""
        for line in out.splitlines():
            if not line.startswith("INFO:"):  # LiteRT says so of every model that it loads
                self._say(f"  {line}")

    def _ask(self, version: str) -> Iterator[None]:
        site, _, device = self.device.partition("/")
        self._say(f"$ limpet request update --device {self.device} --model {MODEL} --version {version}")
        target = Target(site, device, "update", new_id(time.time(), os.urandom(5)))
        sign = Technician(self.technician, {"model": MODEL, "version": version})
        self._version = version
        self.asked = Round([target], sign, parallel=1, abort_after=1)
        if self._twin is not None:
            self.asked.take(self._twin)  # with the nonce of a device that does not know the time
        self.outgoing.extend(self.asked.due())
        while not self.asked.over:
            yield

    def _say(self, line: str) -> None:
        self._log(line)
        self.page.append(line)

    def _log(self, line: str) -> None:
        self.lines.append(line)
        self.told += 1

    def _tell_way(self, changed: Asked) -> None:
        self._log(f"{self.device} {MODEL}: {words(changed)}")
        if changed.phase == "ended" or changed.refusal:
            self.page.append(f"  {words(changed)}")
        elif changed.seen is None:
            return  # the broker has it; the page waits for the device
        elif self.page and self.page[-1].startswith(_WAY):
            if not self.page[-1].endswith(changed.seen.status):
                self.page[-1] += f" > {changed.seen.status}"
        else:
            self.page.append(_WAY + changed.seen.status)


def _pause(pause_s: float) -> Iterator[None]:
    until_s = time.monotonic() + pause_s
    while time.monotonic() < until_s:
        yield


def _better(folder: Path, version: str) -> None:
    """The same network for the other runtime."""
    _edit(folder, [*_named(version), (r'(?s)(\[\[artifact\]\].*?\n\n)(\[\[artifact\]\].*?\n\n)', r"\2\1")])


def _worse(folder: Path, version: str) -> None:
    """Without the step that makes pictures grey, and with golden inputs that do not go through the steps."""
    _edit(folder, [*_named(version), (r'\[\[pre\]\]\nstep = "colour"\nto = "grey"\n\n', ""),
                   (r"(?s)\[\[golden\]\].*?(?=\n\[accuracy|\Z)", _RAW_GOLDEN)])  # fmt: skip
    quiet = RuntimeOptions(prefer=("onnxruntime",))  # LiteRT would print into the page
    runner = open_model(load_manifest(folder), quiet)
    fed = {port.name: np.full(port.shape, port.zero_point, port.dtype) for port in runner.inputs}
    for name, arrays in (("raw-in", fed), ("raw-out", runner.run(fed))):
        np.savez(folder / "golden" / f"{name}.npz", allow_pickle=False, **arrays)
    runner.close()


_RAW_GOLDEN = """[[golden]]
input = "golden/raw-in.npz"
output = "golden/raw-out.npz"
"""


def _named(version: str) -> list[tuple[str, str]]:
    return [(r'^version = ".*"', f'version = "{version}"')]


def _edit(folder: Path, changes: list[tuple[str, str]]) -> None:
    path = folder / "model.toml"
    text = path.read_text()
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text, count=1, flags=re.MULTILINE)
        if not count:
            raise ValueError(f"{path} has no line like {pattern}")
    path.write_text(text)


def _limpet(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "agent", *map(str, arguments)]
