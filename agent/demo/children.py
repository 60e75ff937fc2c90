"""The demo's child processes: the agent, the browser page, the web server that holds the repository."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

STOP_S = 15.0
"""Time a child has to end, seconds."""
Child = subprocess.Popen[bytes]


@contextlib.contextmanager
def agent(config: Path, log: Path) -> Iterator[Child]:
    """The agent, stopped on the way out."""
    with log.open("wb") as sink:
        command = [sys.executable, "-P", "-m", "agent", "run", "--config", str(config)]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
        try:
            yield child
        finally:
            _end(child)


@contextlib.contextmanager
def dashboard(config: Path) -> Iterator[str]:
    """The browser page; yields its address, empty when the page was not built."""
    command = [sys.executable, "-P", "-m", "agent", "dashboard", "--config", str(config), "--port", "0"]
    with _telling(command) as first:
        yield first


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """A static web server on loopback, as any mirror could be; yields the address under which `folder` lies."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with _telling(command) as first:
        port = re.search(r"port (\d+)", first)
        yield f"http://127.0.0.1:{port.group(1) if port else 0}"


@contextlib.contextmanager
def _telling(command: list[str]) -> Iterator[str]:
    """A child that says where it is reached in its first line; what it says later goes nowhere."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert child.stdout is not None
    try:
        yield child.stdout.readline().decode().strip()
    finally:
        _end(child)
        child.stdout.close()


def _end(child: Child) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
