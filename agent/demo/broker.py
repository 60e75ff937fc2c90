"""A real broker for the demo and for tests: mosquitto when the machine has it, else amqtt in a child process.

Owns the child and its folder. Both speak TLS (with the demo's own authority) on one loopback port and WebSocket on
another, know only the given accounts and what each may read and write, and can be stopped, killed and started again on
the same ports. mosquitto speaks MQTT v5; amqtt only v3.1.1 and without client certificates, and `Broker` says so.
"""

import base64
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from agent.demo.pki import DemoKeys
from agent.errors import ConfigError, UplinkError

Kind = Literal["mosquitto", "amqtt"]

START_S = 20.0
"""How long a broker may take until it accepts connections, seconds."""
STOP_S = 5.0
"""How long it may take to end when asked, seconds; then it is killed."""
TRIES = 3
"""A free port may be taken by somebody else before the broker has it; then another one is tried."""
PBKDF2_ROUNDS = 101
"""mosquitto's own number for password files; the passwords here are 192 random bits."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the broker and the topic filters it may use. The password lies in the keys' folder under this name."""

    name: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """What to start."""

    folder: Path
    """Where configuration, log and persistence lie; made when missing, mode 0700."""
    keys: DemoKeys
    accounts: tuple[Account, ...]
    port: int = 0
    """TLS port; 0 takes a free one."""
    websocket_port: int = 0
    """WebSocket port, without TLS because it stays on loopback; 0 takes a free one."""
    client_certificates: bool = True
    """mosquitto only: ask every TLS client for a certificate, whose common name is its user name."""


class Broker:
    """One broker process. A context manager: started on entry, stopped on exit."""

    def __init__(self, plan: BrokerPlan, kind: Kind, program: Path | None) -> None:
        """Use `choose`, which finds the program."""
        self.plan = plan
        self.kind: Kind = kind
        self.protocol: Literal["5", "3.1.1"] = "5" if kind == "mosquitto" else "3.1.1"
        self.client_certificates = plan.client_certificates and kind == "mosquitto"
        self.port, self.websocket_port = plan.port, plan.websocket_port
        self.log = plan.folder / "broker.log"
        self._program = program
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def words(self) -> str:
        """One sentence for the screen: which broker, and what it cannot do."""
        if self.kind == "mosquitto":
            return f"mosquitto on 127.0.0.1:{self.port}, MQTT v5 over TLS"
        return (
            f"embedded amqtt on 127.0.0.1:{self.port}, MQTT v3.1.1 over TLS: it cannot report refused messages; "
            "install mosquitto for v5"
        )

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def start(self) -> None:
        """Start it and wait until both ports accept. Ports once chosen stay. Raises UplinkError with its last words."""
        if self.pid is not None:
            return
        self.plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for last in (n == TRIES - 1 for n in range(TRIES)):
            self.port = self.port or _free_port()
            self.websocket_port = self.websocket_port or _free_port()
            self._spawn()
            if self._ready():
                return
            self.kill()
            if last or "in use" not in self._last_words():
                break
            self.port, self.websocket_port = self.plan.port, self.plan.websocket_port
        raise UplinkError(f"the {self.kind} broker did not start: {self._last_words()}: its log is {self.log}")

    def stop(self) -> None:
        """Ask it to end, so that it writes its state; kill it when it does not in time."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._child = None

    def kill(self) -> None:
        """SIGKILL, as a crash or a power cut of the broker's machine."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self) -> None:
        arguments = _mosquitto(self) if self.kind == "mosquitto" else _amqtt(self)
        embedded = [sys.executable, "-P", str(Path(__file__).with_name("embedded.py"))]
        program = [str(self._program)] if self._program else embedded
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "wb") as log:
            self._child = subprocess.Popen(
                [*program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _ready(self) -> bool:
        until_s = time.monotonic() + START_S
        waiting = {self.port, self.websocket_port}
        while time.monotonic() < until_s and self.pid is not None:
            waiting = {port for port in waiting if not _accepts(port)}
            if not waiting:
                return self.pid is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self._child is not None
                self._child.wait(0.05)
        return False

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(lines[-3:]) or "it said nothing"


def choose(plan: BrokerPlan, kind: Kind | Literal["auto"] = "auto") -> Broker:
    """The broker this machine can run, not started yet. Raises ConfigError when it has none of that kind."""
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if kind != "amqtt" and mosquitto:
        return Broker(plan, "mosquitto", Path(mosquitto))
    if kind == "mosquitto":
        raise ConfigError("mosquitto is not on PATH or in /usr/sbin: install the package mosquitto")
    return Broker(plan, "amqtt", None)


def _mosquitto(broker: Broker) -> Sequence[str]:
    plan, keys = broker.plan, broker.plan.keys
    _write(plan.folder / "passwords", "".join(_password_line(a.name, _password(keys, a.name)) for a in plan.accounts))
    _write(plan.folder / "acl", "".join(_acl(account) for account in plan.accounts))
    lines = [
        *(["user root"] if os.geteuid() == 0 else []),  # else it becomes a user who cannot read the keys
        "per_listener_settings false",
        "allow_anonymous false",
        f"password_file {plan.folder / 'passwords'}",
        f"acl_file {plan.folder / 'acl'}",
        "persistence true",
        f"persistence_location {plan.folder}/",
        # By default mosquitto writes every half hour and keeps 1,000 messages for an absent reader: both lose
        # messages that it has acknowledged.
        "autosave_on_changes true",
        "autosave_interval 1",
        "max_queued_messages 1000000",
        "max_inflight_messages 100",  # its own 20 would halve the pace at which a backlog drains
        "set_tcp_nodelay true",  # a TLS connect takes 2 ms instead of 46
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        f"listener {broker.port} 127.0.0.1",
        f"cafile {keys.authority}",
        f"certfile {keys.server.certificate}",
        f"keyfile {keys.server.key}",
        "tls_version tlsv1.3",
        *(["require_certificate true", "use_identity_as_username true"] if broker.client_certificates else []),
        f"listener {broker.websocket_port} 127.0.0.1",
        "protocol websockets",
    ]
    _write(plan.folder / "mosquitto.conf", "\n".join(lines) + "\n")
    return ["-c", str(plan.folder / "mosquitto.conf")]


def _amqtt(broker: Broker) -> Sequence[str]:
    plan, keys = broker.plan, broker.plan.keys
    settings = {
        "port": broker.port,
        "websocket_port": broker.websocket_port,
        "authority": str(keys.authority),
        "certificate": str(keys.server.certificate),
        "key": str(keys.server.key),
        "password_file": str(plan.folder / "passwords"),
        "passwords": {account.name: _password(keys, account.name) for account in plan.accounts},
        "read": {account.name: list(account.read) for account in plan.accounts},
        "write": {account.name: list(account.write) for account in plan.accounts},
    }
    _write(plan.folder / "amqtt.json", json.dumps(settings))
    return [str(plan.folder / "amqtt.json")]


def _acl(account: Account) -> str:
    rules = [f"topic read {topic}" for topic in account.read] + [f"topic write {topic}" for topic in account.write]
    return "\n".join([f"user {account.name}", *rules, "", ""])


def _password(keys: DemoKeys, name: str) -> str:
    return keys.passwords[name].read_text()


def _password_line(name: str, password: str) -> str:
    """A line of mosquitto's password file, kind 7: PBKDF2 with SHA-512 (mosquitto_passwd(1))."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PBKDF2_ROUNDS)
    return f"{name}:$7${PBKDF2_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
