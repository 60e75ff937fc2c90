"""The agent's socket answers questions, refuses nonsense, and keeps serving."""

import contextlib
import os
import socket
import sqlite3
import threading
import time

import pytest

from agent.control import REQUEST_LIMIT, ControlServer, ask
from agent.errors import ConfigError, StoreError


@pytest.fixture
def served(tmp_path):
    def full(_request):
        raise StoreError("the disk is full: make room")

    stop = threading.Event()
    path = tmp_path / "run" / "limpet.sock"
    server = ControlServer(path, {"echo": lambda r: {"heard": r["word"]}, "full": full})
    thread = threading.Thread(target=server.run, args=(stop, lambda: None))
    thread.start()
    for _ in range(200):
        if path.exists() and path.stat().st_mode & 0o777 == 0o660:
            break
        stop.wait(0.01)
    yield path
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_question_gets_its_answer(served):
    """What a handler returns arrives at the asking side."""
    assert ask(served, "echo", word="hello") == {"heard": "hello"}


def test_only_owner_and_group_may_ask(served):
    """The socket file is closed to others."""
    assert served.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"ask": "nothing"}\n', b"unknown question"),
        (b"not json\n", b"not understood"),
        (b"[1]\n", b"not understood"),
        (b"[" * 60_000 + b"\n", b"too deep"),
        (b"\xff\xfe\n", b"not understood"),
        (b"1" * 5000 + b"\n", b"not understood"),
        (b"x" * (REQUEST_LIMIT + 2) + b"\n", b"more than"),
        (b'{"ask": "full"}\n', b"disk is full"),
    ],
)
def test_nonsense_is_refused_and_the_next_question_served(served, raw, words):
    """A bad request gets its reason, and the server lives on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(str(served))
        line.sendall(raw)
        line.settimeout(5)
        assert words in line.recv(65536)
    assert ask(served, "echo", word="again") == {"heard": "again"}


def test_an_asker_that_hangs_up_hurts_nobody(served):
    """A connection that closes without a word is forgotten."""
    for _ in range(3):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.connect(str(served))
    assert ask(served, "echo", word="still") == {"heard": "still"}


def test_no_agent_is_said_clearly(tmp_path):
    """Without an agent the message names the socket and what to look at."""
    with pytest.raises(ConfigError, match=r"no agent answers at .*is it running"):
        ask(tmp_path / "none.sock", "echo")


def test_who_dribbles_a_request_holds_nobody_up(served):
    """A byte now and then does not renew the deadline."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.connect(str(served))
        start_s = time.monotonic()
        dribble = threading.Thread(target=_dribble, args=(slow,))
        dribble.start()
        assert ask(served, "echo", word="next") == {"heard": "next"}
        assert time.monotonic() - start_s < 3
        dribble.join(10)
        assert not dribble.is_alive()


def _dribble(line):
    with contextlib.suppress(OSError):
        for _ in range(80):
            line.sendall(b" ")
            time.sleep(0.1)


def test_many_may_wait_at_once(served):
    """While one asker holds the line, thirty more are let in to wait, not turned away."""
    with contextlib.ExitStack() as stack:
        for _ in range(31):
            line = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            line.setblocking(False)
            line.connect(str(served))
    assert ask(served, "echo", word="next") == {"heard": "next"}


def test_a_number_beyond_the_database_is_refused_not_fatal(tmp_path):
    """SQLite takes 64 bits; the handler's complaint is an answer, not the end of the lane."""

    def look(request):
        sqlite3.connect(":memory:").execute("SELECT ?", (request["after"],))
        return {}

    stop = threading.Event()
    thread = threading.Thread(target=ControlServer(tmp_path / "s", {"look": look}).run, args=(stop, lambda: None))
    thread.start()
    try:
        while not (tmp_path / "s").exists():
            stop.wait(0.01)
        with pytest.raises(ConfigError, match=r"not understood.*too large"):
            ask(tmp_path / "s", "look", after=10**30)
        assert ask(tmp_path / "s", "look", after=1) == {}
    finally:
        stop.set()
        thread.join(5)


def test_a_second_agent_does_not_take_the_socket_away(served, tmp_path):
    """Who would listen where another listens is refused; the first goes on."""
    with pytest.raises(ConfigError, match="another agent listens there"):
        ControlServer(served, {}).run(threading.Event(), lambda: None)
    assert ask(served, "echo", word="first") == {"heard": "first"}


def test_a_name_too_long_for_a_socket_is_said(tmp_path):
    """The kernel takes 107 characters; the message names the path and the remedy."""
    path = tmp_path / ("x" * 120) / "control.sock"
    with pytest.raises(ConfigError, match=r"too long: set \[paths\] runtime"):
        ControlServer(path, {}).run(threading.Event(), lambda: None)


def test_a_shunned_user_gets_no_answer_however_it_asks(tmp_path):
    """The kernel says who asks: being in the group is not enough for the updater's user."""
    stop = threading.Event()
    path = tmp_path / "limpet.sock"
    server = ControlServer(path, {"echo": lambda r: {"heard": r["word"]}}, frozenset({os.geteuid()}))
    thread = threading.Thread(target=server.run, args=(stop, lambda: None))
    thread.start()
    try:
        while not path.exists() or path.stat().st_mode & 0o777 != 0o660:
            stop.wait(0.01)
        with pytest.raises(ConfigError, match="no agent answers"):
            ask(path, "echo", word="hello")
    finally:
        stop.set()
        thread.join(5)
