"""A device that wants to be enrolled, `limpet enroll` as a process, and what its papers are told: time and alarms."""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from agent.identity import Slots, TlsEnrolment, Who
from tests.agents import limpet

SITE, DEVICE = "site", "device"
WHO = Who.of(SITE, DEVICE, DEVICE)


class Clock:
    """Monotonic time that moves when told; the wall is the real one, moved on by as much."""

    def __init__(self):
        self.gone_s = 0.0

    def mono_s(self):
        return 1000.0 + self.gone_s

    def wall_s(self):
        return time.time() + self.gone_s


class Alarms(dict):
    """What is alarmed now, and everything that ever was."""

    def __init__(self):
        super().__init__()
        self.ever = []

    def __call__(self, name, text):
        if text is None:
            self.pop(name, None)
        else:
            self[name] = text
            self.ever.append((name, text))


@dataclass
class Device:
    """limpet.toml in `folder`; the identity lies in `folder`/identity."""

    folder: Path
    est: object = None
    extra: str = ""

    @property
    def config(self):
        return self.folder / "limpet.toml"

    @property
    def identity(self):
        return self.folder / "identity"

    @property
    def token(self):
        return self.folder / "token"

    @property
    def slots(self):
        return Slots(self.identity)

    @property
    def tls(self):
        return TlsEnrolment(self.slots, WHO)

    def write(self, **identity):
        """Write limpet.toml and the claim token."""
        table = {"enabled": True, "folder": str(self.identity), "common_name": WHO.common_name}
        if self.est is not None:
            table |= {"est": self.est.url, "est_ca_file": str(self.est.anchors), "token_file": str(self.token)}
            self.claim()
        lines = [f"{key} = {json.dumps(value)}" for key, value in (table | identity).items()]
        head = f'schema = 1\n[device]\nsite = "{SITE}"\nname = "{DEVICE}"\n'
        self.config.write_text(head + "[identity]\n" + "\n".join(lines) + "\n" + self.extra)
        return self

    def claim(self, word="claim:once-only"):
        """Put a claim token there."""
        self.token.write_text(word + "\n")
        self.token.chmod(0o600)

    def enroll(self, *words, status=0):
        """Run `limpet enroll`; both its outputs. Fails the test when its exit status is another one."""
        child = limpet("enroll", "--config", self.config, *words, stderr=subprocess.STDOUT)
        text = child.communicate(timeout=60)[0]
        assert child.returncode == status, text
        return text


def private_bytes(folder):
    """What must never show: the base64 lines of every private key below `folder`."""
    for path in folder.rglob("*.key"):
        yield from (line for line in path.read_text().splitlines() if line and not line.startswith("-----"))
