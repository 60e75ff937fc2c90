"""A device that wants to be enrolled: its configuration in a folder, and `limpet enroll` as a process."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agent.identity import Slots, TlsEnrolment, Who
from tests.agents import limpet

SITE, DEVICE = "site", "device"
WHO = Who.of(SITE, DEVICE, DEVICE)


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
