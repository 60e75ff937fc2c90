"""Tells systemd how the agent is: READY, STATUS, WATCHDOG, STOPPING, as datagrams (man sd_notify(3)).

Owns the notification socket. Without NOTIFY_SOCKET in the environment every call does nothing, so callers need not ask.
A datagram that cannot be sent is logged once and never stops the agent: systemd's own time limits decide then.
"""

import logging
import socket
from collections.abc import MutableMapping

from agent.errors import ConfigError

log = logging.getLogger(__name__)


class Notifier:
    """The line to the service manager. Safe to call from any one thread; meant for the main thread."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """`address` is a socket path, abstract when it begins with "@"; None for no service manager.

        `watchdog_s` is systemd's limit between two `watchdog()` calls, None when it is off. Raises ConfigError.
        """
        if address is not None and address[:1] not in ("/", "@"):
            raise ConfigError(f"NOTIFY_SOCKET={address!r} is no Unix socket: it must begin with '/' or '@'; unset it")
        self._address = None if address is None else "\0" + address[1:] if address[0] == "@" else address
        self._told_broken = False
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int) -> "Notifier":
        """Take the service manager's variables out of `environ`, so that child processes do not speak for us.

        `pid` is our process id: a WATCHDOG_PID of another process means that the watchdog is not ours.
        """
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        owner = environ.pop("WATCHDOG_PID", str(pid))
        ours = microseconds.isdigit() and int(microseconds) > 0 and owner == str(pid)
        return cls(address or None, int(microseconds) / 1e6 if ours else None)

    @property
    def feed_s(self) -> float | None:
        """How often to call `watchdog()`, seconds: half the limit, as sd_watchdog_enabled(3) advises; None when off."""
        return None if self.watchdog_s is None else self.watchdog_s / 2

    def ready(self, status: str = "") -> None:
        """Start-up is complete."""
        self._send("READY=1", status)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("", text)

    def watchdog(self) -> None:
        """All is well; restart me if this does not come again in time."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str = "") -> None:
        """The way down has begun."""
        self._send("STOPPING=1", status)

    def _send(self, state: str, status: str = "") -> None:
        if self._address is None:
            return
        line = " ".join(status.split())
        message = "\n".join(part for part in (state, f"STATUS={line}" if line else "") if part)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(1.0)
                sock.sendto(message.encode(), self._address)
        except OSError as exc:
            if not self._told_broken:
                log.warning("notify failed address=%r error=%s: systemd may restart this service", self._address, exc)
            self._told_broken = True
