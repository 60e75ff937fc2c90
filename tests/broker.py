"""A real mosquitto with everything tests want to break: TLS and accounts from keys made on the spot, ACL, persistence.

    with mosquitto(tmp_path) as broker:      # TLS 1.3 listener, plain loopback listener, WebSocket listener
        config = broker.uplink()             # UplinkConfig of the account "device"
        broker.restart(); broker.kill(); broker.start()

Skips the test with a reason when mosquitto is absent.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.demo.pki import Authority, Pair
from agent.mqtt import Link, Message
from agent.settings.uplink import UplinkConfig

PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
TOPIC = "limpet/v1/site/device"
ACL = (
    "user device\ntopic readwrite limpet/v1/site/device/#\n\n"
    "user reader\ntopic read limpet/v1/#\n\n"
    "user root\ntopic readwrite #\n"
)


@dataclass
class Mosquitto:
    """One broker with its files in `folder`; keeps its ports over restarts."""

    folder: Path
    extra: Sequence[str] = ()
    acl: str = ACL
    port: int = 0
    tls_port: int = 0
    websocket_port: int = 0
    authority: Authority | None = None
    server: Pair | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def prepare(self) -> None:
        """Make authority, certificates, passwords and configuration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.tls_port, self.websocket_port = (_free_port() for _ in range(3))
        self.authority = Authority.new("Test authority", datetime.now(UTC))
        (self.folder / "ca.pem").write_bytes(self.authority.pem())
        self.server = self.server or self.authority.server(self.folder, "server")
        passwords = self.folder / "passwords"
        for name in ("device", "reader", "root"):
            self.authority.client(self.folder, name)
            word = self.folder / f"{name}.password"
            word.write_text(f"secret of {name}\n")
            word.chmod(0o600)
            flags = ["-b"] if passwords.exists() else ["-b", "-c"]
            subprocess.run(["mosquitto_passwd", *flags, passwords, name, f"secret of {name}"], check=True)
        self.configure()

    def configure(self) -> None:
        """Write configuration and access list; takes effect with the next start."""
        assert self.server is not None
        (self.folder / "acl").write_text(self.acl)
        lines = [
            "user root" if os.geteuid() == 0 else "",
            "per_listener_settings false", "allow_anonymous false",
            f"password_file {self.folder}/passwords", f"acl_file {self.folder}/acl",
            "persistence true", f"persistence_location {self.folder}/",
            "autosave_on_changes true", "autosave_interval 1", "max_queued_messages 1000000", "set_tcp_nodelay true",
            *self.extra,
            f"listener {self.port} 127.0.0.1",
            f"listener {self.tls_port} 127.0.0.1", f"cafile {self.folder}/ca.pem",
            f"certfile {self.server.certificate}", f"keyfile {self.server.key}",
            "tls_version tlsv1.3", "require_certificate true", "use_identity_as_username true",
            f"listener {self.websocket_port} 127.0.0.1", "protocol websockets",
        ]  # fmt: skip
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start and wait until it accepts."""
        assert PROGRAM is not None
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen([PROGRAM, "-c", self.folder / "mosquitto.conf"], stdout=log, stderr=log)
        until = time.monotonic() + 10
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        pytest.fail(f"mosquitto did not start: {(self.folder / 'log').read_text()[-500:]}")

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        """End it: SIGTERM lets it write its state, SIGKILL does not."""
        if self.process is not None:
            self.process.send_signal(with_signal)
            self.process.wait(10)
            self.process = None

    def kill(self) -> None:
        """As a crash."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in good order and start again on the same ports."""
        self.stop()
        self.start()

    def uplink(self, user: str = "device", *, tls: bool = False, **changes: object) -> UplinkConfig:
        """How `user` gets in: a client certificate over TLS, or a password over the plain loopback port."""
        config = UplinkConfig(
            broker=f"mqtt://127.0.0.1:{self.port}", username=user, password_file=self.folder / f"{user}.password",
            reconnect_first_s=0.05, reconnect_cap_s=0.3, refusal_wait_s=0.05,
        )  # fmt: skip
        if tls:
            config = replace(
                config, broker=f"mqtts://localhost:{self.tls_port}", username=None, password_file=None,
                ca_file=self.folder / "ca.pem", certificate=self.folder / f"{user}.pem",
                key=self.folder / f"{user}.key",
            )  # fmt: skip
        return replace(config, **changes)  # type: ignore[arg-type]

    def past_certificate(self, name: str) -> Pair:
        """A client certificate of the right authority that expired long ago."""
        assert self.authority is not None
        past = replace(self.authority, _now=datetime.now(UTC) - timedelta(days=400))
        folder = self.folder / "past"
        folder.mkdir(exist_ok=True)
        return past.client(folder, name)


@contextlib.contextmanager
def mosquitto(
    folder: Path, *, extra: Sequence[str] = (), acl: str = ACL, running: bool = True
) -> Iterator[Mosquitto]:
    """A broker of one's own, started unless `running` is false, ended at the end."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed: these tests want the real broker")
    broker = Mosquitto(folder / "broker", extra, acl)
    broker.prepare()
    if running:
        broker.start()
    try:
        yield broker
    finally:
        broker.stop(signal.SIGKILL)


@contextlib.contextmanager
def listening(broker: Mosquitto, filters: Sequence[str] = ("limpet/#",), name: str = "listener") -> Iterator[Link]:
    """A subscriber with a persistent session, as the account "root"."""
    with Link(broker.uplink("root"), name) as link:
        link.connect()
        link.subscribe(filters)
        yield link


def collect(link: Link, enough: object, timeout_s: float = 10.0) -> list[Message]:
    """Read messages until `enough(messages)` or the time is up."""
    found: list[Message] = []
    until = time.monotonic() + timeout_s
    while not enough(found) and time.monotonic() < until:  # type: ignore[operator]
        link.turn(0.1)
        while link.received:
            found.append(link.received.popleft())
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
