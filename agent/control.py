"""The agent's Unix socket: one JSON object asked, one answered, then the line closes.

It answers only to users who can write the socket file (mode 0660, the agent's user and group) and does only what the
handlers that it was given do. The updater's user is in that group too, for the configuration's sake; the kernel says
who asks, and that user is told nothing. Requests are limited in size and in time before they are parsed, so that one
who asks badly costs the others a second.
"""

import contextlib
import errno
import json
import logging
import pwd
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent.errors import ConfigError, LimpetError

log = logging.getLogger(__name__)

REQUEST_LIMIT = 64 * 1024
"""Largest request, bytes."""
ANSWER_LIMIT = 64 * 1024 * 1024
"""Largest answer that the asking side accepts, bytes."""
REQUEST_S = 1.0
"""Time for a whole request to arrive, seconds."""
PATIENCE_S = 5.0
"""Time for a whole answer, seconds."""
BACKLOG = 64
"""Askers that may wait at the same time; the kernel turns others away."""

UPDATER: Final = "limpet-update"
"""The user that fetches from the network: it may not ask."""
_PEER: Final = struct.Struct("3i")
"""struct ucred: process, user and group, see unix(7)."""

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class ControlServer:
    """Serves `handlers` (name -> function of the request's arguments) on a socket at `path`."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler], shunned: frozenset[int] | None = None) -> None:
        """`shunned`: user ids that get no answer; by default the updater's, where there is such a user."""
        self._path = path
        self._handlers = handlers
        self._shunned = _updater() if shunned is None else shunned

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Serve until `stop`. Raises ConfigError when the socket cannot be made."""
        with self._listen() as server:
            while not stop.is_set():
                beat()
                try:
                    peer, _ = server.accept()
                except TimeoutError:
                    continue
                with peer:
                    self._serve(peer)
        self._path.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._refuse_second()
            self._path.unlink(missing_ok=True)
            server.bind(str(self._path))
            self._path.chmod(0o660)
        except OSError as exc:
            server.close()
            remedy = "set [paths] runtime to a folder that the agent may write, with a short name"
            raise ConfigError(f"control socket {self._path}: {exc.strerror or exc}: {remedy}") from exc
        server.listen(BACKLOG)
        server.settimeout(1.0)
        return server

    def _refuse_second(self) -> None:
        """A socket that somebody serves is not taken from him; one that was left behind is."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(REQUEST_S)
            if probe.connect_ex(str(self._path)) in (0, errno.EAGAIN):  # EAGAIN: too many wait there
                raise OSError(errno.EADDRINUSE, "another agent listens there; give each its own")

    def _serve(self, peer: socket.socket) -> None:
        _, user, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user in self._shunned:
            log.warning("control refused user=%d: the updater has no business here", user)
            return
        try:
            request = _receive(peer, REQUEST_LIMIT, REQUEST_S)
            handler = self._handlers.get(str(request.get("ask")))
            answer: Mapping[str, Any]
            if handler is None:
                known = ", ".join(sorted(self._handlers))
                answer = {"error": f"unknown question {request.get('ask')!r}: ask one of {known}"}
            else:
                answer = handler(request)
        except LimpetError as exc:
            answer = {"error": str(exc)}
        except (OSError, ValueError, OverflowError) as exc:  # the last: a number beyond what the database holds
            answer = {"error": f"request not understood: {exc}"}
        with contextlib.suppress(OSError):  # the asker may have gone
            peer.settimeout(PATIENCE_S)
            peer.sendall(json.dumps(answer).encode() + b"\n")


def _updater() -> frozenset[int]:
    try:
        return frozenset({pwd.getpwnam(UPDATER).pw_uid})
    except KeyError:
        return frozenset()


def ask(path: Path, question: str, **arguments: Any) -> dict[str, Any]:
    """Ask the agent that listens at `path`. Raises ConfigError when none answers, or with the agent's own refusal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(PATIENCE_S)
        try:
            line.connect(str(path))
            line.sendall(json.dumps({"ask": question, **arguments}).encode() + b"\n")
            answer = _receive(line, ANSWER_LIMIT, PATIENCE_S)
        except (OSError, ValueError) as exc:
            why = "is it running, and may you use its socket?"
            said = (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
            raise ConfigError(f"no agent answers at {path}: {said}: {why}") from exc
    if "error" in answer:
        raise ConfigError(str(answer["error"]))
    return answer


def _receive(line: socket.socket, limit: int, limit_s: float) -> dict[str, Any]:
    until_s = time.monotonic() + limit_s
    held = bytearray()
    while not held.endswith(b"\n"):
        line.settimeout(max(1e-3, until_s - time.monotonic()))
        chunk = line.recv(65536)
        if not chunk:
            break
        held += chunk
        if len(held) > limit:
            raise ValueError(f"more than {limit} bytes")
        if time.monotonic() > until_s:
            raise TimeoutError(f"it did not come to its end within {limit_s:g} s")
    try:
        made = json.loads(held)
    except RecursionError as exc:
        raise ValueError("lists and objects lie too deep in each other") from exc
    if not isinstance(made, dict):
        raise ValueError("not a JSON object")
    return made
